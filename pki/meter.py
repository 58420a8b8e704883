"""What the issuer counts: domain verbs, told once at the edge."""

from typing import Protocol

from protocols.exposition import Registry, shown_from_the_start
from schemas.metrics import services as metrics
from schemas.reasons import Reason


class Meter(Protocol):
    """What the issuer's process tells of its work."""

    def signed(self) -> None:
        """A certificate was issued."""

    def refused(self, reason: str) -> None:
        """A request was refused, or sent to the dead letters, for this reason."""

    def judged(self, seconds: float) -> None:
        """A request was judged, and signed where it was good, within this time."""

    def answered(self, seconds: float) -> None:
        """Kafka has the answer, so long after the request."""

    def waiting(self, requests: int) -> None:
        """So many requests wait."""

    def active(self, active: bool) -> None:
        """The issuer answers from now on, or stands by."""

    def listed(self, entries: int, next_update_at: int) -> None:
        """A revocation list of so many entries was made, good until that instant."""


class PrometheusMeter:
    """The meter that Prometheus reads."""

    def __init__(self, registry: Registry) -> None:
        self._signed = registry.counter(metrics.ISSUER_SIGNED)
        self._refused = registry.counter(metrics.ISSUER_REFUSED)
        shown_from_the_start(self._refused, Reason.UNDECODABLE.value, Reason.MESSAGE_RATE.value)
        self._entries = registry.gauge(metrics.ISSUER_CRL_ENTRIES)
        self._judging = registry.histogram(metrics.ISSUER_SECONDS)
        self._answering = registry.histogram(metrics.ISSUER_ANSWER_SECONDS)
        self._queue = registry.gauge(metrics.ISSUER_QUEUE)
        self._active = registry.gauge(metrics.ISSUER_ACTIVE)
        self._until = registry.gauge(metrics.ISSUER_CRL_NEXT_UPDATE)

    def signed(self) -> None:
        """Count a certificate."""
        self._signed.inc()

    def refused(self, reason: str) -> None:
        """Count a refusal; the reasons are a closed list."""
        self._refused.labels(reason).inc()

    def judged(self, seconds: float) -> None:
        """Observe one judgement."""
        self._judging.observe(seconds)

    def answered(self, seconds: float) -> None:
        """Observe one answer; clocks that differ never make it negative."""
        self._answering.observe(max(0.0, seconds))

    def waiting(self, requests: int) -> None:
        """Show the queue."""
        self._queue.set(requests)

    def active(self, active: bool) -> None:
        """Show whether this one answers."""
        self._active.set(int(active))

    def listed(self, entries: int, next_update_at: int) -> None:
        """Show the list."""
        self._entries.set(entries)
        self._until.set(next_update_at / 1000)
