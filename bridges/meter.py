"""What a bridge measures, for Prometheus. The names are the users'; no label names a device."""

import itertools
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from bridges.kafka import Recorder
from protocols.exposition import Registry, shown_from_the_start
from schemas.metrics import doors as metrics
from schemas.metrics.metric import SIZES, Metric
from schemas.reasons import Reason


class Sizes(Collector):
    """The histogram of message sizes, ten times cheaper than the library's, which takes a lock."""

    def __init__(self, declared: Metric) -> None:
        self._declared = declared
        self._counts = [0] * (len(SIZES) + 1)
        self._sum = 0

    def observe(self, sizes: Iterable[int]) -> None:
        """Count messages of these many payload bytes."""
        for size, count in Counter(sizes).items():
            self._counts[bisect_left(SIZES, size)] += count
            self._sum += size * count

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Show them."""
        bounds = [*(f"{float(one)}" for one in SIZES), "+Inf"]
        buckets = list(zip(bounds, itertools.accumulate(self._counts), strict=True))
        name, said = self._declared.name, self._declared.help
        yield HistogramMetricFamily(name, said, buckets=buckets, sum_value=self._sum)


class RecorderMeter:
    """Shows what waits for Kafka, as the recorder has it at the moment of the question."""

    def __init__(self, registry: Registry) -> None:
        self._waiting = registry.gauge(metrics.BRIDGE_WAITING)
        self._silent = registry.gauge(metrics.BRIDGE_KAFKA_SILENT)

    def watch(self, recorder: Recorder) -> None:
        """Show this recorder from now on."""
        self._waiting.set_function(lambda: recorder.waiting_bytes)
        self._silent.set_function(lambda: recorder.silent_seconds)


class Meter:
    """Counts messages, refusals, hints and lost connections of the MQTT bridge."""

    def __init__(self, registry: Registry) -> None:
        self._received = registry.counter(metrics.MQTT_MESSAGES_RECEIVED)
        self._sent = registry.counter(metrics.MQTT_MESSAGES_SENT)
        self._sizes = Sizes(metrics.MQTT_MESSAGE_SIZE)
        registry.register(self._sizes)
        self._errors = registry.gauge(metrics.MQTT_CONNECTION_ERRORS)
        self._served = registry.gauge(metrics.MQTT_BUCKETS_SERVED)
        self._buckets = registry.gauge(metrics.MQTT_BUCKETS)
        self._refused = registry.counter(metrics.BRIDGE_REFUSED)
        shown_from_the_start(self._refused, Reason.MALFORMED.value)
        self._hints = registry.counter(metrics.MQTT_HINTS)
        shown_from_the_start(self._hints, "birth", "will")
        self._untold = registry.counter(metrics.MQTT_UNTOLD)
        self.recorder = RecorderMeter(registry)

    def watch(self, buckets: int, served: Callable[[], int]) -> None:
        """Show how many buckets there are, and from now on how many are served here."""
        self._buckets.set(buckets)
        self._served.set_function(served)

    def received(self, sizes: list[int]) -> None:
        """Count messages of these many payload bytes."""
        self._received.inc(len(sizes))
        self._sizes.observe(sizes)

    def sent(self, count: int) -> None:
        """Count messages to devices."""
        self._sent.inc(count)

    def refused(self, reason: str) -> None:
        """Count a refusal."""
        self._refused.labels(reason).inc()

    def hint(self, kind: str) -> None:
        """Count a `will` or a `birth`."""
        self._hints.labels(kind).inc()

    def untold(self, count: int) -> None:
        """Count acknowledgements that no device will hear, unless it asks again."""
        self._untold.inc(count)

    def connection_error(self) -> None:
        """Count a lost connection."""
        self._errors.inc()
