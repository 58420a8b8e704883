"""What the issuer counts: domain verbs, told once at the edge."""

from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge


class Meter(Protocol):
    """What the issuer's process tells of its work."""

    def signed(self) -> None:
        """A certificate was issued."""

    def refused(self, reason: str) -> None:
        """A request was refused, or sent to the dead letters, for this reason."""

    def listed(self, entries: int, next_update_at: int) -> None:
        """A revocation list of so many entries was made, good until that instant."""


class PrometheusMeter:
    """The meter that Prometheus reads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._signed = Counter("issuer_signed", "Certificates issued.", registry=registry)
        self._refused = Counter(
            "issuer_refused", "Requests refused.", ["reason"], registry=registry
        )
        self._entries = Gauge(
            "issuer_crl_entries", "Entries of the revocation list.", registry=registry
        )
        self._until = Gauge(
            "issuer_crl_next_update_seconds", "nextUpdate, as Unix time.", registry=registry
        )

    def signed(self) -> None:
        """Count a certificate."""
        self._signed.inc()

    def refused(self, reason: str) -> None:
        """Count a refusal; the reasons are a closed list."""
        self._refused.labels(reason).inc()

    def listed(self, entries: int, next_update_at: int) -> None:
        """Show the list."""
        self._entries.set(entries)
        self._until.set(next_update_at / 1000)
