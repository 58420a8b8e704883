"""What one event costs in rows looked at: the same in a small fleet and in a large one."""

from collections.abc import Callable
from typing import Any

import pytest

from schemas import fleet_events as events
from schemas.fleet_states import FleetSums
from streams.core.rows import Ordered
from tests.helpers.fleets import CAUSE, DAY, FLEET, NOON, Fleets, orders, update

SMALL, LARGE = 250, 1_000
"""Both above what one step may enrol."""
DEVICES = [f"d{number:04}" for number in range(LARGE)]
FIVE_MINUTES = 300_000


class Counting(Ordered):
    """Rows that count how many were looked at."""

    __slots__ = ("looked",)

    def get(self, key: bytes) -> Any:
        """Return the row, None where there is none."""
        self.looked += 1
        return super().get(key)

    def scan(self, prefix: bytes, after: bytes, limit: int) -> list[tuple[bytes, Any]]:
        """Return at most `limit` rows whose key begins with `prefix` and lies behind `after`."""
        found = super().scan(prefix, after, limit)
        self.looked += len(found)
        return found


def health(fleets: Fleets) -> None:
    """A device has become silent."""
    fleets.add(events.HealthReported(FLEET, DEVICES[7], "silent", "silent", CAUSE))


def renewal(fleets: Fleets) -> None:
    """A certificate nears its end, and the device is ordered to rotate; it does."""
    (order,) = orders(fleets.neared(DEVICES[7], NOON + 90 * DAY))
    fleets.end(order)


def report(fleets: Fleets) -> None:
    """A partition tells its sums, and the window closes."""
    fleets.add(events.FleetTotalsReported(FLEET, FleetSums(0, finished=10), CAUSE))
    fleets.wait(FIVE_MINUTES)


def second(fleets: Fleets) -> None:
    """A second passes in which nothing is due."""
    fleets.wait(1_000)


def rollout(fleets: Fleets) -> None:
    """An update is ordered, in the step that enrols the first devices."""
    fleets.stage._keep = _kept_alone(fleets)  # type: ignore[method-assign]
    fleets.order(update())


def _kept_alone(fleets: Fleets) -> Callable[..., Any]:
    keep = fleets.stage._keep
    return lambda turn, overlay, waiting: keep(turn, overlay, [])


def looked(size: int, act: Callable[[Fleets], None]) -> int:
    """Return how many rows an act looks at in a fleet of that size."""
    config = (
        '{"updatePolicy":{"timeWindow":{"start":"00:00","end":"24:00"}},'
        '"certRotation":{"staggered":false}}'
    )
    fleets = Fleets().created(config).joined(DEVICES[:size])
    rows = Counting()
    rows.looked = 0
    for key, row in fleets.stage.rows.items():
        rows.put(key, row)
    fleets.stage.rows = rows
    act(fleets)
    return rows.looked


@pytest.mark.parametrize("act", [health, renewal, report, second, rollout])
def test_an_event_costs_what_it_changes(act: Callable[[Fleets], None]) -> None:
    """Four times as many devices beside it: not one row more is looked at."""
    assert looked(SMALL, act) == looked(LARGE, act)


def test_the_first_step_of_a_rollout_is_bounded() -> None:
    """It looks at the members that it enrols and at few rows more."""
    assert 200 < looked(LARGE, rollout) < 1_500
