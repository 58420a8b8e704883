"""What the CoAP bridge measures, for Prometheus. No label names a device."""

from bridges.est.meter import RenewalMeter
from bridges.meter import RecorderMeter, Sizes
from protocols.exposition import Registry, shown_from_the_start
from schemas.metrics import doors as metrics
from schemas.reasons import Reason


class Meter(RenewalMeter):
    """Counts messages, sessions and refusals of the CoAP bridge."""

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry)
        self._received = registry.counter(metrics.COAP_MESSAGES_RECEIVED)
        self._sent = registry.counter(metrics.COAP_MESSAGES_SENT)
        self._sizes = Sizes(metrics.COAP_MESSAGE_SIZE)
        registry.register(self._sizes)
        self._sessions = registry.gauge(metrics.COAP_SESSIONS)
        self._refused = registry.counter(metrics.BRIDGE_REFUSED)
        shown_from_the_start(self._refused, Reason.MALFORMED.value)
        self.recorder = RecorderMeter(registry)

    def received(self, size: int) -> None:
        """Count one message of `size` payload bytes."""
        self._received.inc()
        self._sizes.observe((size,))

    def sent(self, count: int) -> None:
        """Count commands handed to sessions."""
        self._sent.inc(count)

    def refused(self, reason: str) -> None:
        """Count a refusal."""
        self._refused.labels(reason).inc()

    def sessions(self, transport: str, count: int) -> None:
        """Set the number of open sessions."""
        self._sessions.labels(transport).set(count)
