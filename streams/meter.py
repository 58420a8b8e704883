"""What a worker measures, for Prometheus."""

from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from schemas.states import PartitionRow
from streams.core.machine import Folded


class PrometheusMeter:
    """Counts batches, outputs and totals; the labels are partitions and topics, never devices."""

    def __init__(self) -> None:
        self._stepped = Counter("stream_events_applied", "Events applied.", ["partition"])
        self._skipped = Counter("stream_events_skipped", "Events already applied.", ["partition"])
        self._set_aside = Counter("stream_events_set_aside", "Events set aside.", ["partition"])
        self._outputs = Counter("stream_outputs", "Records published.", ["topic"])
        self._seconds = Histogram("stream_batch_seconds", "From batch to acknowledgement.")
        self._offset = Gauge("stream_applied_offset", "Last offset applied.", ["partition"])
        self._now = Gauge("stream_machine_time_seconds", "Machine time.", ["partition"])
        self._registered = Gauge("devices_registered", "Registered devices.", ["partition"])
        self._connected = Gauge("devices_connected", "Connected devices.", ["partition"])
        self._rotating = Gauge("stream_rotations_in_work", "Sagas in work.", ["partition"])
        self._alerts = Gauge("stream_alerts_open", "Alerts raised.", ["partition"])

    def applied(self, partition: int, folded: Folded[Any], seconds: float) -> None:
        """Count one batch."""
        label = str(partition)
        self._stepped.labels(label).inc(folded.stepped)
        self._skipped.labels(label).inc(folded.skipped)
        self._set_aside.labels(label).inc(folded.set_aside)
        for output in folded.outputs:
            self._outputs.labels(output.topic).inc()
        self._seconds.observe(seconds)

    def standing(self, partition: int, row: PartitionRow) -> None:
        """Show the partition row after a batch."""
        label = str(partition)
        self._offset.labels(label).set(row.applied_offset)
        self._now.labels(label).set(row.now / 1000)
        self._registered.labels(label).set(row.totals.registered)
        self._connected.labels(label).set(row.totals.connected)
        self._rotating.labels(label).set(row.totals.rotating)
        self._alerts.labels(label).set(row.totals.alerts_open)
