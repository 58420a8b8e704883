"""What a worker measures, for Prometheus. Labels are programs, partitions, topics, reasons."""

from collections import Counter as Counts
from contextlib import suppress
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from schemas.decisions import DeadLetter, Decision
from schemas.states import PartitionRow
from streams.core.machine import Folded
from streams.core.turn import Output

WHERE = ["program", "partition"]


class PrometheusMeter:
    """Counts batches, outputs, decisions and totals of all programs of one worker."""

    def __init__(self) -> None:
        self._stepped = Counter("stream_events_applied", "Events applied.", WHERE)
        self._skipped = Counter("stream_events_skipped", "Events already applied.", WHERE)
        self._set_aside = Counter("stream_events_set_aside", "Events set aside.", WHERE)
        self._outputs = Counter("stream_outputs", "Records published.", ["topic"])
        self._decisions = Counter(
            "stream_decisions",
            "Decisions: refusals and alarms too.",
            ["name", "reason", "severity"],
        )
        self._letters = Counter("stream_dead_letters", "Records not understood.", ["reason"])
        self._seconds = Histogram("stream_batch_seconds", "From batch to acknowledgement.")
        self._opening = Gauge("stream_opening_seconds", "How long the recovery took.", WHERE)
        self._offset = Gauge("stream_applied_offset", "Last offset applied.", WHERE)
        self._rows = Gauge("stream_rows", "Rows of the partition.", WHERE)
        self._now = Gauge("stream_machine_time_seconds", "Machine time.", WHERE)
        self._registered = Gauge("devices_registered", "Registered devices.", WHERE)
        self._connected = Gauge("devices_connected", "Connected devices.", WHERE)
        self._rotating = Gauge("stream_rotations_in_work", "Sagas in work.", WHERE)
        self._alerts = Gauge("stream_alerts_open", "Alerts raised.", WHERE)

    def of(self, program: str) -> "ProgramMeter":
        """Return the meter of one program."""
        return ProgramMeter(self, program)

    def opened(self, where: tuple[str, str], row: PartitionRow, seconds: float) -> None:
        """Show a partition that was opened."""
        self._opening.labels(*where).set(seconds)
        self._standing(where, row)

    def applied(
        self, where: tuple[str, str], folded: Folded[Any], row: PartitionRow, seconds: float
    ) -> None:
        """Count one batch, and show the partition row behind it."""
        self._stepped.labels(*where).inc(folded.stepped)
        self._skipped.labels(*where).inc(folded.skipped)
        self._set_aside.labels(*where).inc(folded.set_aside)
        self._published(folded.outputs)
        self._seconds.observe(seconds)
        self._standing(where, row)

    def closed(self, where: tuple[str, str]) -> None:
        """Forget what was shown of a partition: its next owner shows it."""
        for gauge in (
            self._opening,
            self._offset,
            self._rows,
            self._now,
            self._registered,
            self._connected,
            self._rotating,
            self._alerts,
        ):
            with suppress(KeyError):  # it was never opened
                gauge.remove(*where)

    def _published(self, outputs: list[Output]) -> None:
        for topic, count in Counts(one.topic for one in outputs).items():
            self._outputs.labels(topic).inc(count)
        for one in outputs:
            if isinstance(one.record, Decision):
                told = one.record
                self._decisions.labels(told.name, told.reason, told.severity).inc()
            elif isinstance(one.record, DeadLetter):
                self._letters.labels(one.record.reason).inc()

    def _standing(self, where: tuple[str, str], row: PartitionRow) -> None:
        self._offset.labels(*where).set(row.applied_offset)
        self._rows.labels(*where).set(row.rows)
        self._now.labels(*where).set(row.now / 1000)
        self._registered.labels(*where).set(row.totals.registered)
        self._connected.labels(*where).set(row.totals.connected)
        self._rotating.labels(*where).set(row.totals.rotating)
        self._alerts.labels(*where).set(row.totals.alerts_open)


class ProgramMeter:
    """The engine's meter of one program."""

    def __init__(self, meter: PrometheusMeter, program: str) -> None:
        self._meter, self._program = meter, program

    def opened(self, partition: int, row: PartitionRow, seconds: float) -> None:
        """Show a partition that was opened."""
        self._meter.opened(self._where(partition), row, seconds)

    def applied(
        self, partition: int, folded: Folded[Any], row: PartitionRow, seconds: float
    ) -> None:
        """Count one batch, and show the partition row behind it."""
        self._meter.applied(self._where(partition), folded, row, seconds)

    def closed(self, partition: int) -> None:
        """Forget what was shown of a partition."""
        self._meter.closed(self._where(partition))

    def _where(self, partition: int) -> tuple[str, str]:
        return self._program, str(partition)
