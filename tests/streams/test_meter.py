"""What a worker shows: of open partitions only, fleets up to a limit, alerts by fleet."""

import time
from dataclasses import replace
from typing import Any

import pytest

from protocols.exposition import Registry, text
from schemas.decisions import DecisionName, Severity
from schemas.reasons import Reason
from schemas.states import PartitionRow, Totals
from streams.core.device import count
from streams.core.partition import Folded
from streams.core.rotation import FAILURES, NAMES
from streams.core.turn import Turn
from streams.engine.table import Standing
from streams.figures import FleetFigures, FleetView
from streams.meter import PrometheusMeter
from tests.helpers.folding import DEVICE, Log
from tests.helpers.scrape import Scrape

NOW = 1_800_000_000_000


def shown(registry: Registry) -> Scrape:
    """Return what a scrape would see."""
    return Scrape(text(registry))


def standing(view: FleetView | None = None, **totals: int) -> Standing:
    """Return a partition with some totals."""
    row = PartitionRow(applied_offset=9, now=NOW, totals=Totals(**totals), rows=3, set_aside=(4,))
    return Standing(row, 2, NOW - 1_500, view)


def viewed(*fleets: str) -> FleetView:
    """Return a view of fleets of two devices each, whose first certificate ends in ten days."""
    view = FleetView()
    figures = FleetFigures(devices=2, confirmed=2, first_not_after_at=NOW + 10 * 86_400_000)
    view.figures = dict.fromkeys(fleets, figures)
    return view


def decided(name: DecisionName, subject: str, rows: Any = (), **more: Any) -> Folded[Any]:
    """Return a batch that decided one thing."""
    turn = Turn("device.events", 0, 1, PartitionRow())
    turn.decide(name, Reason.SILENT, subject, **more)
    return Folded(rows=dict(rows), outputs=turn.outputs, stepped=1, seconds=0.25)


def test_a_partition_is_shown_while_it_is_open() -> None:
    """From its opening on, as its last batch left it, and not a moment longer."""
    registry = Registry()
    meter = PrometheusMeter(registry).of("devices", lambda _: 12)
    meter.opened(0, standing(registered=3, connected=1, rotating=1, issued=1), 0.5)
    meter.opened(1, standing(registered=4, pending=2), 0.5)
    now = shown(registry)
    assert now.by("devices_registered", "partition") == {"0": 3.0, "1": 4.0}
    assert now.by("devices_pending", "partition") == {"0": 0.0, "1": 2.0}
    assert now.total("stream_rotations", state="issued") == 1
    assert now.total("stream_lag_records", partition="0") == 2
    assert now.total("stream_deadlines_late_seconds", partition="0") == 1.5
    assert now.total("stream_set_aside", partition="0", program="devices") == 1
    meter.applied(0, Folded(stepped=5, seconds=0.5), standing(registered=5), 1.0)
    now = shown(registry)
    assert now.total("devices_registered") == 9
    assert now.total("stream_step_seconds_sum", program="devices") == 0.1
    assert now.total("stream_batch_records_sum", program="devices") == 5
    meter.closed(0)
    now = shown(registry)
    assert now.by("devices_registered", "partition") == {"1": 4.0}
    assert now.total("stream_events_applied_total", partition="0") == 5, "a counter stays"
    meter.applied(0, Folded(stepped=1), standing(registered=5), 1.0)
    assert shown(registry).by("devices_registered", "partition") == {"1": 4.0}


def test_a_partition_without_time_has_no_lag() -> None:
    """Before the first tick there is nothing that a clock could be ahead of."""
    registry = Registry()
    meter = PrometheusMeter(registry).of("devices", lambda _: None)
    meter.opened(0, Standing(PartitionRow(), 0, 0, None), 0.1)
    assert shown(registry).values("stream_lag_seconds") == []
    meter.applied(0, Folded(), standing(), 0.1)
    assert shown(registry).values("stream_lag_records") == [], "nothing was heard of its end"


@pytest.mark.parametrize("behind", [90.0, -86_400.0])
def test_a_machine_whose_time_is_ahead_shows_it(behind: float) -> None:
    """It stands still then: what looks like no lag at all would hide it."""
    registry = Registry()
    meter = PrometheusMeter(registry).of("devices", lambda _: None)
    at = int((time.time() - behind) * 1_000)
    meter.opened(0, Standing(PartitionRow(now=at), 0, 0, None), 0.1)
    assert shown(registry).total("stream_lag_seconds") == pytest.approx(behind, abs=30)


def test_fleets_beyond_the_limit_are_added_up() -> None:
    """The first ones have a label of their own, the others one in common, and are counted."""
    registry = Registry()
    meter = PrometheusMeter(registry, fleets_max=2).of("fleets", lambda _: None)
    meter.opened(0, standing(viewed("a", "b", "c", "d")), 0.1)
    now = shown(registry)
    assert now.by("fleet_devices_total", "fleet") == {"a": 2.0, "b": 2.0, "_other": 4.0}
    assert now.by("cert_days_remaining", "fleet") == {"a": 10.0, "b": 10.0, "_other": 10.0}
    assert now.total("fleet_labels_hidden") == 2
    meter.applied(0, decided(DecisionName.ALERT_RAISED, "fleet:z"), standing(viewed("a")), 0.1)
    now = shown(registry)
    assert now.by("fleet_alerts_total", "fleet") == {"_other": 1.0}
    assert now.by("fleet_devices_total", "fleet") == {"a": 2.0}
    assert now.total("fleet_labels_hidden") == 0


def test_an_alert_is_counted_for_the_fleet_of_its_device() -> None:
    """The row that raised it knows; a device in no fleet has an empty label."""
    registry = Registry()
    meter = PrometheusMeter(registry).of("devices", lambda _: None)
    row = Log().registered().row
    member = replace(row, belongs=replace(row.belongs, fleet_id="pumps"))
    for one, name in (
        (member, DecisionName.ALERT_RAISED),
        (member, DecisionName.ROTATION_ABANDONED),
        (row, DecisionName.CERTIFICATE_EXPIRED),
        (row, DecisionName.EVENT_REFUSED),
    ):
        batch = decided(
            name,
            f"device:{DEVICE}",
            [(DEVICE.encode(), one)],
            severity=Severity.WARNING,
            rule="silent" if name is DecisionName.ALERT_RAISED else "",
        )
        meter.applied(0, batch, standing(), 0.1)
    now = shown(registry)
    assert now.by("fleet_alerts_total", "fleet") == {"pumps": 2.0, "": 1.0}
    assert now.by("fleet_alerts_total", "rule") == {
        "silent": 1.0,
        "rotation-abandoned": 1.0,
        "expired": 1.0,
    }
    assert now.total("stream_decisions_total", name="EventRefused", reason="silent") == 1


def test_how_rotations_end_is_shown_from_the_start() -> None:
    """Prometheus sees the first failure of a worker as an increase, whatever its reason."""
    registry = Registry()
    PrometheusMeter(registry)
    now, decisions = shown(registry), "stream_decisions_total"
    assert now.by(decisions, "reason", name="RotationFailed") == dict.fromkeys(FAILURES, 0.0)
    assert now.by(decisions, "name", severity="info") == {"RotationCompleted": 0.0}


def test_an_order_is_measured_from_its_beginning_to_its_end() -> None:
    """In seconds, by fleet and outcome."""
    registry = Registry()
    meter = PrometheusMeter(registry).of("fleets", lambda _: None)
    values = {"outcome": "succeeded", "duration_ms": 2_500}
    batch = decided(DecisionName.DEVICE_FINISHED, "fleet:pumps", values=values)
    meter.applied(0, batch, standing(), 0.1)
    now = shown(registry)
    labels = {"fleet": "pumps", "outcome": "succeeded"}
    assert now.total("fleet_update_duration_sum", **labels) == 2.5
    assert now.total("fleet_update_duration_bucket", le="1.0", **labels) == 0
    assert now.total("fleet_update_duration_bucket", le="5.0", **labels) == 1


def test_every_state_of_a_rotation_has_its_total() -> None:
    """A row in a state counts once under it, and once among those that rotate."""
    row = Log().registered().row
    assert count(row) == Totals(registered=1)
    for kind, state in NAMES.items():
        if state == "idle":
            continue
        values = {one: 0 for one in kind.__dataclass_fields__}
        part = count(replace(row, rotation=kind(**values)))  # type: ignore[arg-type]
        assert (part.rotating, getattr(part, state.replace("-", "_"))) == (1, 1)
        assert (
            sum(getattr(part, one.replace("-", "_")) for one in NAMES.values() if one != "idle")
            == 1
        )
