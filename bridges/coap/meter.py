"""What the CoAP bridge measures, for Prometheus. No label names a device."""

from prometheus_client import Counter, Gauge, Histogram

from bridges.est.meter import RenewalMeter


class Meter(RenewalMeter):
    """Counts messages, sessions and refusals of the CoAP bridge."""

    def __init__(self) -> None:
        super().__init__()
        self._received = Counter("coap_messages_received", "Messages from devices.")
        self._sent = Counter("coap_messages_sent", "Commands handed to sessions.")
        self._size = Histogram(
            "coap_message_size",
            "Payload bytes.",
            buckets=(64, 256, 1024, 4096, 16384, 65536, 262144),
        )
        self._sessions = Gauge("coap_sessions", "Open sessions by transport.", ["transport"])
        self._refused = Counter("bridge_refused", "Refusals by reason.", ["reason"])

    def received(self, size: int) -> None:
        """Count one message of `size` payload bytes."""
        self._received.inc()
        self._size.observe(size)

    def sent(self, count: int) -> None:
        """Count commands handed to sessions."""
        self._sent.inc(count)

    def refused(self, reason: str) -> None:
        """Count a refusal."""
        self._refused.labels(reason).inc()

    def sessions(self, transport: str, count: int) -> None:
        """Set the number of open sessions."""
        self._sessions.labels(transport).set(count)
