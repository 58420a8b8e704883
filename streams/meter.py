"""What a worker measures, for Prometheus. Labels are programs, partitions, topics, reasons, fleets.

Counters go up as batches are applied. Gauges are read from what the open partitions stand at, at
the moment of the question: they are right as soon as a partition is open, of one moment per
partition, and gone with a partition that was revoked.
"""

from collections import Counter as Counts
from collections.abc import Callable
from typing import Any

from protocols.exposition import Registry, shown_from_the_start
from schemas.decisions import DeadLetter, Decision, DecisionName, Severity
from schemas.metrics import worker as metrics
from schemas.metrics.metric import FLEETS_MAX, OTHER_FLEETS
from schemas.reasons import Reason
from schemas.states import DeviceRow
from streams.core.partition import Folded
from streams.core.rotation import FAILURES
from streams.core.turn import Output
from streams.engine.table import Standing
from streams.standing import Place, Standings

ALERTS = {
    DecisionName.ALERT_RAISED.value: "",
    DecisionName.ROTATION_ABANDONED.value: "rotation-abandoned",
    DecisionName.CERTIFICATE_EXPIRED.value: "expired",
}
"""Decisions that are alerts, and the rule of those that name none."""
ROTATIONS = (
    (DecisionName.ROTATION_COMPLETED, Reason.PROVEN_IN_USE, Severity.INFO),
    *((DecisionName.ROTATION_FAILED, one, Severity.WARNING) for one in sorted(FAILURES)),
)
"""How an attempt to rotate ends: what the alert on failed rotations counts."""
NOBODYS_FLEET = ""
LETTERS = (
    Reason.UNDECODABLE,
    Reason.MALFORMED,
    Reason.UNKNOWN_TYPE,
    Reason.CLOCK_OFF,
    Reason.STEP_RAISED,
)
"""Why a machine writes a dead letter."""


class FleetLabels:
    """The values of label `fleet`: the first so many fleets that this process has seen."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._named: set[str] = set()

    def of(self, fleet_id: str) -> str:
        """Return the label of a fleet: its id, or OTHER_FLEETS where there is no room."""
        if not fleet_id or fleet_id in self._named:
            return fleet_id
        if len(self._named) >= self._most:
            return OTHER_FLEETS
        self._named.add(fleet_id)
        return fleet_id


class PrometheusMeter:
    """Counts batches, outputs, decisions and totals of all programs of one worker."""

    def __init__(self, registry: Registry, fleets_max: int = FLEETS_MAX) -> None:
        self._stepped = registry.counter(metrics.APPLIED)
        self._skipped = registry.counter(metrics.SKIPPED)
        self._outputs = registry.counter(metrics.OUTPUTS)
        self._decisions = registry.counter(metrics.DECISIONS)
        shown_from_the_start(self._decisions, *ROTATIONS)
        self._letters = registry.counter(metrics.DEAD_LETTERS)
        shown_from_the_start(self._letters, *(one.value for one in LETTERS))
        self._records = registry.histogram(metrics.BATCH_RECORDS)
        self._seconds = registry.histogram(metrics.BATCH_SECONDS)
        self._step = registry.histogram(metrics.STEP_SECONDS)
        self._standstill = registry.gauge(metrics.STANDSTILL)
        self._alerts = registry.counter(metrics.FLEET_ALERTS)
        self._durations = registry.histogram(metrics.FLEET_UPDATE_DURATION)
        self._fleets = FleetLabels(fleets_max)
        self.standings = Standings(self._fleets.of)
        registry.register(self.standings)
        self._free = registry.gauge(metrics.VOLUME_FREE)

    def of(self, program: str, end: Callable[[int], int | None]) -> "ProgramMeter":
        """Return the meter of one program; `end` gives the end of a partition of its log."""
        return ProgramMeter(self, program, end)

    def watch(self, program: str, standstill: Callable[[], float]) -> None:
        """Show how long a program has stood still, as its watchdog sees it."""
        self._standstill.labels(program).set_function(standstill)

    def volume(self, free: Callable[[], int]) -> None:
        """Show how many bytes are free, whenever somebody asks."""
        self._free.set_function(free)

    def applied(self, program: str, partition: int, folded: Folded[Any], seconds: float) -> None:
        """Count one batch."""
        where = program, str(partition)
        count = folded.stepped + folded.skipped + folded.set_aside
        self._stepped.labels(*where).inc(folded.stepped)
        self._skipped.labels(*where).inc(folded.skipped)
        self._records.labels(program).observe(count)
        self._seconds.labels(program).observe(seconds)
        if folded.stepped:
            self._step.labels(program).observe(folded.seconds / folded.stepped)
        self._published(folded)

    def _published(self, folded: Folded[Any]) -> None:
        outputs: list[Output] = folded.outputs
        for topic, count in Counts(one.topic for one in outputs).items():
            self._outputs.labels(topic).inc(count)
        for one in outputs:
            if isinstance(one.record, Decision):
                self._decided(one.record, folded)
            elif isinstance(one.record, DeadLetter):
                self._letters.labels(one.record.reason).inc()

    def _decided(self, told: Decision, folded: Folded[Any]) -> None:
        self._decisions.labels(told.name, told.reason, told.severity).inc()
        if told.name in ALERTS:
            fleet = self._fleets.of(_fleet_of(told, folded))
            rule = told.rule or ALERTS[told.name] or told.reason
            self._alerts.labels(fleet, rule, told.severity).inc()
        elif told.name == DecisionName.DEVICE_FINISHED.value:
            labels = self._fleets.of(_fleet_of(told, folded)), told.values["outcome"]
            self._durations.labels(*labels).observe(int(told.values["duration_ms"]) / 1000)


class ProgramMeter:
    """The engine's meter of one program."""

    def __init__(
        self, meter: PrometheusMeter, program: str, end: Callable[[int], int | None]
    ) -> None:
        self._meter, self._program, self._end = meter, program, end

    def opened(self, partition: int, standing: Standing, seconds: float) -> None:
        """Show a partition that was opened."""
        place = Place(standing, seconds, lambda: self._end(partition))
        self._meter.standings.places[self._program, partition] = place

    def applied(
        self, partition: int, folded: Folded[Any], standing: Standing, seconds: float
    ) -> None:
        """Count one batch, and show how the partition stands behind it."""
        self._meter.applied(self._program, partition, folded, seconds)
        place = self._meter.standings.places.get((self._program, partition))
        if place is not None:
            place.standing = standing

    def closed(self, partition: int) -> None:
        """Forget what was shown of a partition: its next owner shows it."""
        self._meter.standings.places.pop((self._program, partition), None)


def _fleet_of(told: Decision, folded: Folded[Any]) -> str:
    """Return the fleet that a decision is about: its subject, or the one of its device."""
    kind, _, name = told.subject.partition(":")
    if kind == "fleet":
        return name
    row = folded.rows.get(name.encode())
    return row.belongs.fleet_id if isinstance(row, DeviceRow) else NOBODYS_FLEET
