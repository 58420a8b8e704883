"""What the doors of EST measure, for Prometheus. No label names a device."""

from bridges.meter import RecorderMeter
from protocols.exposition import Registry, shown_from_the_start
from schemas.metrics import doors as metrics


class RenewalMeter:
    """Counts renewals by what became of them."""

    def __init__(self, registry: Registry) -> None:
        self._renewals = registry.counter(metrics.EST_RENEWALS)
        shown_from_the_start(self._renewals, "issued", "pending")
        self._seconds = registry.histogram(metrics.EST_RENEWAL_SECONDS)

    def renewed(self, outcome: str, seconds: float) -> None:
        """Count one: `issued`, `pending`, or the value of a Reason."""
        self._renewals.labels(outcome).inc()
        self._seconds.observe(seconds)


class Meter(RenewalMeter):
    """Counts what the HTTPS door does."""

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry)
        self._requests = registry.counter(metrics.EST_REQUESTS)
        self._enrolments = registry.counter(metrics.EST_ENROLMENTS)
        shown_from_the_start(self._enrolments, "issued", "pending")
        self._refused = registry.counter(metrics.BRIDGE_REFUSED)
        self.recorder = RecorderMeter(registry)

    def answered(self, operation: str, status: int) -> None:
        """Count one answer; `operation` is one of EST's, or `other`."""
        self._requests.labels(operation, str(status)).inc()

    def enrolled(self, outcome: str) -> None:
        """Count one: `issued`, `pending`, or the value of a Reason."""
        self._enrolments.labels(outcome).inc()

    def refused(self, reason: str) -> None:
        """Count a refusal."""
        self._refused.labels(reason).inc()
