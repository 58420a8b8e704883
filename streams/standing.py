"""The gauges of a worker: read from the open partitions when somebody asks."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from protocols.exposition import counters, gauges
from schemas.metrics import worker as metrics
from schemas.metrics.metric import DAYS, OTHER_FLEETS, Metric
from streams.core.rotation import IDLE, NAMES
from streams.engine.table import Standing
from streams.figures import UNENDED, FleetFigures, FleetView, together

DEVICES = "devices"
"""The program whose partition rows have totals of devices."""
SAGAS = tuple(one for one in NAMES.values() if one != IDLE)

Labels = tuple[str, ...]
Values = Iterable[tuple[Labels, float | None]]


@dataclass(slots=True)
class Place:
    """An open partition: how it stands, how long its opening took, where its log ends."""

    standing: Standing
    opening_seconds: float
    end: Callable[[], int | None]


class Standings(Collector):
    """What the open partitions of a worker stand at; `label` limits the fleets that are named."""

    def __init__(self, label: Callable[[str], str]) -> None:
        self._label = label
        self.places: dict[tuple[str, int], Place] = {}

    def collect(self) -> Iterator[Family]:
        """Yield all gauges, and the counters that stand in rows."""
        places = self.places.copy()
        yield from _of_partitions(places)
        yield from _of_devices(places)
        yield from _of_fleets(*self._fleets(places))

    def _fleets(
        self, places: Mapping[tuple[str, int], Place]
    ) -> tuple[list[tuple[str, int, FleetFigures]], int]:
        """Return label, machine time and figures per shown fleet, and how many are not named."""
        shown: list[tuple[str, int, FleetFigures]] = []
        hidden: list[FleetFigures] = []
        now = 0
        for place in places.values():
            view = place.standing.view
            if not isinstance(view, FleetView):
                continue
            now = max(now, place.standing.row.now)
            for fleet_id, figures in view.figures.copy().items():
                if self._label(fleet_id) == OTHER_FLEETS:
                    hidden.append(figures)
                else:
                    shown.append((fleet_id, place.standing.row.now, figures))
        if hidden:
            shown.append((OTHER_FLEETS, now, together(hidden)))
        return shown, len(hidden)


def _of_partitions(places: Mapping[tuple[str, int], Place]) -> Iterator[Family]:
    clock = time.time()

    def each(of: Callable[[Place], float | None]) -> Values:
        return [((name, str(number)), of(one)) for (name, number), one in places.items()]

    def lag_seconds(one: Place) -> float | None:
        now = one.standing.row.now
        return clock - now / 1000 if now else None  # no tick has come yet

    def lag_records(one: Place) -> float | None:
        end = one.end()
        return None if end is None else max(0, end - 1 - one.standing.row.applied_offset)

    def late(one: Place) -> float:
        first, now = one.standing.first_due_at, one.standing.row.now
        return max(0, now - first) / 1000 if first else 0

    yield _gauge(metrics.OPENING_SECONDS, each(lambda one: one.opening_seconds))
    yield _gauge(metrics.APPLIED_OFFSET, each(lambda one: one.standing.row.applied_offset))
    yield _gauge(metrics.ROWS, each(lambda one: one.standing.row.rows))
    yield _gauge(metrics.MACHINE_TIME, each(lambda one: one.standing.row.now / 1000))
    yield _gauge(metrics.LAG_SECONDS, each(lag_seconds))
    yield _gauge(metrics.LAG_RECORDS, each(lag_records))
    yield _gauge(metrics.DEADLINES, each(lambda one: one.standing.deadlines))
    yield _gauge(metrics.DEADLINES_LATE, each(late))
    yield _gauge(
        metrics.SET_ASIDE,
        each(lambda one: len(one.standing.row.set_aside) + len(one.standing.row.wakings)),
    )


def _of_devices(places: Mapping[tuple[str, int], Place]) -> Iterator[Family]:
    totals = [
        (str(number), one.standing.row.totals)
        for (name, number), one in places.items()
        if name == DEVICES
    ]
    yield _gauge(metrics.DEVICES_REGISTERED, (((at,), one.registered) for at, one in totals))
    yield _gauge(metrics.DEVICES_CONNECTED, (((at,), one.connected) for at, one in totals))
    yield _gauge(metrics.DEVICES_PENDING, (((at,), one.pending) for at, one in totals))
    yield _gauge(metrics.ALERTS_OPEN, (((at,), one.alerts_open) for at, one in totals))
    yield _gauge(
        metrics.ROTATIONS,
        (
            ((at, state), getattr(one, state.replace("-", "_")))
            for at, one in totals
            for state in SAGAS
        ),
    )


def _of_fleets(shown: list[tuple[str, int, FleetFigures]], hidden: int) -> Iterator[Family]:
    def each(of: Callable[[FleetFigures], float]) -> Values:
        return [((fleet,), of(one)) for fleet, _, one in shown]

    yield _gauge(metrics.FLEET_DEVICES_TOTAL, each(lambda one: one.devices))
    yield _gauge(metrics.FLEET_DEVICES_CONNECTED, each(lambda one: one.connected))
    yield _gauge(
        metrics.FLEET_DEVICES_HEALTH,
        (
            ((fleet, health), getattr(one, health))
            for fleet, _, one in shown
            for health in ("connected", "degraded", "silent", "gone")
        ),
    )
    yield _gauge(
        metrics.FLEET_CERT_DAYS_AVG, (((fleet,), one.days_mean(now)) for fleet, now, one in shown)
    )
    yield _gauge(
        metrics.CERT_DAYS_REMAINING, (((fleet,), one.days_least(now)) for fleet, now, one in shown)
    )
    yield _gauge(
        metrics.CERT_DAYS_DISTRIBUTION,
        (
            ((fleet, str(days)), one.ending_within(days, now))
            for fleet, now, one in shown
            for days in DAYS
            if now
        ),
    )
    yield _gauge(metrics.FLEET_CERT_DAYS_BEFORE_EXPIRY, each(lambda one: one.days_before_expiry))
    yield _gauge(metrics.FLEET_CERT_ROTATIONS, each(lambda one: one.rotations))
    yield _gauge(metrics.FLEET_ERROR_RATE, each(lambda one: one.error_rate()))
    yield _gauge(metrics.FLEET_ERROR_RATE_MAX, each(lambda one: one.error_rate_max))
    yield _gauge(metrics.FLEET_LATENCY, each(lambda one: one.latency_seconds()))
    yield _gauge(metrics.FLEET_DEVICES_IN_WORK, each(lambda one: one.in_work))
    yield _gauge(
        metrics.FLEET_CAMPAIGNS,
        (
            ((fleet, state), one.campaigns.get(state, 0))
            for fleet, _, one in shown
            for state in UNENDED
        ),
    )
    yield _counter(metrics.FLEET_RESULTS_FINISHED, each(lambda one: one.finished))
    yield _counter(metrics.FLEET_RESULTS_FAILED, each(lambda one: one.failed))
    yield _gauge(metrics.FLEETS_HIDDEN, [((), hidden)])


def _gauge(declared: Metric, values: Values) -> Family:
    family = gauges(declared)
    for labels, value in values:
        if value is not None:
            family.add_metric(labels, value)
    return family


def _counter(declared: Metric, values: Values) -> Family:
    family = counters(declared)
    for labels, value in values:
        if value is not None:
            family.add_metric(labels, value)
    return family
