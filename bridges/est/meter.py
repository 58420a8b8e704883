"""What the doors of EST measure, for Prometheus. No label names a device."""

from prometheus_client import Counter, Histogram


class RenewalMeter:
    """Counts renewals by what became of them."""

    def __init__(self) -> None:
        self._renewals = Counter("est_renewals", "Renewals by outcome or reason.", ["outcome"])
        self._seconds = Histogram("est_renewal_seconds", "From the CSR to its answer.")

    def renewed(self, outcome: str, seconds: float) -> None:
        """Count one: `issued`, `pending`, or the value of a Reason."""
        self._renewals.labels(outcome).inc()
        self._seconds.observe(seconds)


class Meter(RenewalMeter):
    """Counts what the HTTPS door does."""

    def __init__(self) -> None:
        super().__init__()
        self._requests = Counter("est_requests", "Requests.", ["operation", "status"])
        self._refused = Counter("bridge_refused", "Refusals by reason.", ["reason"])

    def answered(self, operation: str, status: int) -> None:
        """Count one answer; `operation` is one of EST's, or `other`."""
        self._requests.labels(operation, str(status)).inc()

    def refused(self, reason: str) -> None:
        """Count a refusal."""
        self._refused.labels(reason).inc()
