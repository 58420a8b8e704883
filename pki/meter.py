"""What the issuer counts: domain verbs, told once at the edge."""

from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

JUDGING = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25)
ANSWERING = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)


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

    def __init__(self, registry: CollectorRegistry) -> None:
        self._signed = Counter("issuer_signed", "Certificates issued.", registry=registry)
        self._refused = Counter(
            "issuer_refused", "Requests refused.", ["reason"], registry=registry
        )
        self._entries = Gauge(
            "issuer_crl_entries", "Entries of the revocation list.", registry=registry
        )
        self._judging = Histogram(
            "issuer_seconds", "Judging and signing one request.", registry=registry, buckets=JUDGING
        )
        self._answering = Histogram(
            "issuer_answer_seconds",
            "From the request's broker time until Kafka has the answer.",
            registry=registry,
            buckets=ANSWERING,
        )
        self._queue = Gauge("issuer_queue", "Requests that wait.", registry=registry)
        self._active = Gauge("issuer_active", "1 answers, 0 stands by.", registry=registry)
        self._until = Gauge(
            "issuer_crl_next_update_seconds", "nextUpdate, as Unix time.", registry=registry
        )

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
