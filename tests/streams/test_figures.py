"""A fleet's figures, kept by what changes, equal those of a scan over all rows."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import fleet_events as events
from schemas.fleet_states import CampaignGroup, FleetSums
from streams.core import ring
from streams.core.windows import DAY_MS
from streams.figures import FleetFigures, FleetView, together
from tests.helpers.fleets import CAUSE, DAY, FLEET, NOON, Fleets, update

DEVICES = [f"d-{number}" for number in range(6)]


def rows_of(fleets: Fleets) -> dict[bytes, Any]:
    """Return all rows as they are."""
    return dict(fleets.stage.rows.items())


def first_of(fleets: Fleets, prefix: bytes) -> bytes | None:
    """Return the first key behind a prefix."""
    found = fleets.stage.rows.scan(prefix, b"", 1)
    return found[0][0] if found else None


def follow(view: FleetView, before: dict[bytes, Any], fleets: Fleets) -> None:
    """Let a view follow what has changed since, as a table does behind a batch."""
    after = rows_of(fleets)
    for key in {*before, *after}:
        if key.startswith(view.rows) and before.get(key) is not after.get(key):
            view.row(key, after.get(key))
        if key.startswith(view.keys) and (key in before) is not (key in after):
            view.key(key, 1 if key in after else -1)
    view.settle(lambda prefix: first_of(fleets, prefix))


def assert_is_a_scan(figures: FleetFigures, fleets: Fleets) -> None:
    """Compare with what the members' rows say, one by one."""
    members = [row for _, row in fleets.stage.rows.scan(ring.members(FLEET), b"", 1_000)]
    ends = [one.not_after_at for one in members if one.confirmed and one.not_after_at]
    assert figures.devices == len(members)
    assert figures.in_work == sum(one.order is not None for one in members)
    assert figures.first_not_after_at == min(ends, default=0)
    assert figures.days == dict(Counter(end // DAY_MS for end in ends))
    mean = figures.days_mean(NOON)
    if ends:
        assert mean is not None
        assert abs(mean - sum(end - NOON for end in ends) / len(ends) / DAY) < 0.001
    else:
        assert mean is None


MOVES = st.one_of(
    st.tuples(st.just("join"), st.sampled_from(DEVICES), st.integers(1, 400)),
    st.tuples(st.just("confirm"), st.sampled_from(DEVICES), st.integers(1, 400)),
    st.tuples(st.just("leave"), st.sampled_from(DEVICES), st.just(0)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(MOVES, max_size=25))
def test_figures_follow_whatever_changes(moves: list[tuple[str, str, int]]) -> None:
    """Devices join, rotate and leave in any order: nothing drifts, nothing is left behind."""
    fleets = Fleets().created()
    view = FleetView()
    follow(view, {}, fleets)
    for move, device, days in moves:
        before = rows_of(fleets)
        if move == "join":
            fleets.joined([device], NOON + days * DAY)
        elif move == "confirm":
            fleets.confirm(device, NOON + days * DAY)
        else:
            fleets.add(events.DeviceRemoved(FLEET, device, "ordered", "ops"))
        follow(view, before, fleets)
        assert_is_a_scan(view.figures[FLEET], fleets)
    opened = FleetView()
    follow(opened, {}, fleets)
    assert opened.figures == view.figures


def test_the_window_gives_rate_and_latency() -> None:
    """Failed / finished since the window began, and nothing below five results."""
    fleets = Fleets().created().joined(DEVICES)
    view = FleetView()
    few = FleetSums(0, connected=6, finished=4, failed=2, latencies=(4,))
    fleets.add(events.FleetTotalsReported(FLEET, few, CAUSE))
    follow(view, {}, fleets)
    figures = view.figures[FLEET]
    assert (figures.error_rate(), figures.latency_seconds()) == (0.0, 0.0)
    assert (figures.connected, figures.finished, figures.failed) == (6, 4, 2)
    before = rows_of(fleets)
    latencies = (0, 0, 0, 0, 10)
    more = FleetSums(0, connected=6, finished=10, failed=5, rotations=3, latencies=latencies)
    fleets.add(events.FleetTotalsReported(FLEET, more, CAUSE))
    follow(view, before, fleets)
    figures = view.figures[FLEET]
    assert figures.error_rate() == 0.5
    assert 0.01 <= figures.latency_seconds() <= 0.02
    assert figures.rotations == 3


def test_days_are_those_of_the_machine() -> None:
    """The least and the mean come down as time passes; the distribution counts whole days."""
    fleets = Fleets().created().joined(["a"], NOON + 10 * DAY).joined(["b"], NOON + 30 * DAY)
    view = FleetView()
    follow(view, {}, fleets)
    figures = view.figures[FLEET]
    assert (figures.days_least(NOON), figures.days_mean(NOON)) == (10.0, 20.0)
    assert figures.days_least(NOON + 11 * DAY) == -1.0
    assert (figures.days_least(0), figures.days_mean(0)) == (None, None), "before the first tick"
    within = {days: figures.ending_within(days, NOON) for days in (0, 10, 11, 30, 31)}
    assert within == {0: 0, 10: 0, 11: 1, 30: 1, 31: 2}
    assert figures.ending_within(0, NOON + 11 * DAY) == 1


def test_campaigns_are_counted_until_they_end() -> None:
    """One waits for its gate, one runs and halts; what has ended is no longer shown."""
    fleets = Fleets().created().joined(DEVICES)
    view = FleetView()
    follow(view, {}, fleets)
    assert view.figures[FLEET].campaigns == {}
    gated = update(groups=(CampaignGroup(count=2, gate=True),))
    frail = update(failure_threshold=0.1, finished_min=1)
    steps: list[tuple[Callable[[], Any], dict[str, int]]] = [
        (lambda: fleets.order(gated, "gated"), {"gated": 1}),
        (lambda: fleets.order(frail, "frail"), {"gated": 1, "running": 1}),
        (lambda: fleets.end_work("failed"), {"gated": 1, "halted": 1}),
        (lambda: fleets.add(events.CampaignAborted(FLEET, "frail", "ops")), {"gated": 1}),
    ]
    for step, counts in steps:
        before = rows_of(fleets)
        step()
        follow(view, before, fleets)
        assert view.figures[FLEET].campaigns == counts
    opened = FleetView()
    follow(opened, {}, fleets)
    assert opened.figures == view.figures


def test_several_fleets_add_up() -> None:
    """What has no label of its own is summed; the first end of a certificate is the least."""
    one = FleetFigures(devices=2, first_not_after_at=500, days={1: 2}, latencies=(1,))
    other = FleetFigures(devices=3, first_not_after_at=400, days={1: 1, 2: 2}, latencies=(0, 2))
    other.campaigns["halted"] = 1
    nobody = FleetFigures()
    both = together([one, other, nobody])
    assert (both.fleets, both.devices, both.first_not_after_at) == (3, 5, 400)
    assert (both.days, both.latencies) == ({1: 3, 2: 2}, (1, 2))
    assert both.campaigns == {"halted": 1}
