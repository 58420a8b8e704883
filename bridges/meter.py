"""What a bridge measures, for Prometheus. The names are the users'; no label names a device."""

from prometheus_client import Counter, Gauge, Histogram


class Meter:
    """Counts messages, refusals and lost connections of the MQTT bridge."""

    def __init__(self) -> None:
        self._received = Counter("mqtt_messages_received", "Messages from devices.")
        self._sent = Counter("mqtt_messages_sent", "Messages to devices.")
        self._size = Histogram(
            "mqtt_message_size",
            "Payload bytes.",
            buckets=(64, 256, 1024, 4096, 16384, 65536, 262144),
        )
        self._errors = Gauge("mqtt_connection_errors", "Lost connections to the broker.")
        self._refused = Counter("bridge_refused", "Refusals by reason.", ["reason"])

    def received(self, size: int) -> None:
        """Count one message of `size` payload bytes."""
        self._received.inc()
        self._size.observe(size)

    def sent(self, count: int) -> None:
        """Count messages to devices."""
        self._sent.inc(count)

    def refused(self, reason: str) -> None:
        """Count a refusal."""
        self._refused.labels(reason).inc()

    def connection_error(self) -> None:
        """Count a lost connection."""
        self._errors.inc()
