"""Rotation campaigns that start themselves: stagger, expiry against windows, failures."""

import json
from typing import Any

from schemas import fleet_events as events
from schemas.decisions import Decision
from streams.core import dispatch
from tests.helpers.fleets import (
    DAY,
    FLEET,
    HOUR,
    NOON,
    Fleets,
    decided,
    orders,
    refused,
    update,
)

AUTOMATIC = "rotation-1"


def config(staggered: bool = True, enabled: bool = True, **window: str) -> str:
    """Return a configuration; the window is the whole day if none is given."""
    return json.dumps(
        {
            "updatePolicy": {"timeWindow": window or {"start": "00:00", "end": "24:00"}},
            "certRotation": {"staggered": staggered, "enabled": enabled},
        }
    )


def ready(**changes: Any) -> Fleets:
    """Return a fleet of three whose certificates end in 30 days."""
    return Fleets().created(config(**changes)).joined(["a", "b", "c"], NOON + 30 * DAY)


def test_a_certificate_that_nears_its_end_starts_a_campaign() -> None:
    """Without a person; without stagger at once."""
    fleets = ready(staggered=False)
    said = fleets.neared("a", NOON + 30 * DAY)
    assert ("CertificateNearedExpiry", "near-expiry") in decided(said)
    (order,) = orders(said)
    assert (order.device_id, order.campaign_id) == ("a", AUTOMATIC)
    assert fleets.fleet.campaigns[0].automatic


def test_the_next_ones_join_the_same_campaign_for_a_week() -> None:
    """Then a new one begins, and the old one ends when all are through."""
    fleets = ready(staggered=False)
    fleets.neared("a", NOON + 30 * DAY)
    fleets.finish()
    fleets.wait(DAY)
    (second,) = orders(fleets.neared("b", NOON + 30 * DAY))
    assert second.campaign_id == AUTOMATIC
    fleets.wait(HOUR)
    fleets.end(second)
    fleets.wait(dispatch.ACCEPTS_MS)
    assert fleets.campaign(AUTOMATIC).state == "completed"
    (third,) = orders(fleets.neared("c", NOON + 30 * DAY))
    assert third.campaign_id == "rotation-2"


def test_a_device_is_not_taken_twice() -> None:
    """A second word about the same certificate changes nothing."""
    fleets = ready()
    fleets.neared("a", NOON + 30 * DAY)
    assert orders(fleets.neared("a", NOON + 30 * DAY)) == []
    assert fleets.campaign(AUTOMATIC).enrolled == 1


def test_a_fleet_of_short_lives_is_rotated_each_time() -> None:
    """Also within the week in which one campaign takes all: no certificate ends."""
    fleets = Fleets().created(config(staggered=False)).joined(["a"], NOON + DAY)
    for number in range(1, 15):
        fleets.wait(NOON + number * 16 * HOUR - fleets.stage.now)
        ends = NOON + (number - 1) * 16 * HOUR + DAY
        (order,) = orders(fleets.neared("a", ends))
        fleets.end(order)
        fleets.confirm("a", NOON + number * 16 * HOUR + DAY)
    assert fleets.fleet.campaign_counter == 2


def test_rotation_switched_off_is_said_loudly() -> None:
    """Nobody is ordered, and the decision warns."""
    fleets = ready(enabled=False)
    said = fleets.neared("a", NOON + 30 * DAY)
    (warning,) = [one for one in said if isinstance(one, Decision)]
    assert (warning.reason, warning.severity) == ("rotation-disabled", "warning")
    assert fleets.fleet.campaigns == ()


def test_a_campaign_that_an_operator_named_alike_stays_what_it_is() -> None:
    """The one that starts itself takes the next number."""
    fleets = ready(staggered=False)
    (order,) = orders(fleets.order(update(batch_size=1), AUTOMATIC))
    other = next(one for one in "abc" if one != order.device_id)
    (second,) = orders(fleets.neared(other, NOON + 30 * DAY))
    assert second.campaign_id == "rotation-2"
    assert fleets.campaign(AUTOMATIC).spec.kind == "update"
    fleets.finish()
    assert fleets.campaign(AUTOMATIC).state == "completed"


def test_a_stranger_starts_nothing() -> None:
    """Only members do, and only confirmed ones."""
    fleets = ready()
    assert refused(fleets.neared("x", NOON + DAY))[0] == "not-a-member"
    fleets.add(events.DeviceAdded(FLEET, "y", "operator", "ops"))
    assert refused(fleets.neared("y", NOON + DAY))[0] == "not-a-member"


def test_staggered_devices_spread_over_half_the_time_there_is() -> None:
    """All three begin within it, at different times."""
    fleets = ready()
    for one in "abc":
        assert orders(fleets.neared(one, NOON + 30 * DAY)) == []
    times = []
    while len(times) < 3:
        said = fleets.wait(HOUR)
        times += [fleets.stage.now for _ in orders(said)]
        fleets.finish()
    assert len(set(times)) == 3
    assert max(times) <= NOON + 15 * DAY


def test_windows_bend_and_expiry_does_not() -> None:
    """No window opens before the certificate ends: it rotates anyway, and says so."""
    fleets = Fleets().created(config(start="02:00", end="04:00")).joined(["a"], NOON + 10 * HOUR)
    said = fleets.neared("a", NOON + 10 * HOUR)
    while not orders(said):
        said += fleets.wait(HOUR)
    assert fleets.stage.now < NOON + 10 * HOUR
    assert ("DeviceChosen", "expiry-wins") in decided(said)


def test_a_device_that_missed_its_last_window_is_urgent() -> None:
    """Two devices, room for one, and the first blocks the window: the second goes outside it."""
    patch = json.dumps(
        {
            "updatePolicy": {"batchSize": 1, "timeWindow": {"start": "13:00", "end": "14:00"}},
            "certRotation": {"staggered": False},
        }
    )
    end = NOON + 40 * HOUR
    fleets = Fleets().created(patch).joined(["a", "b"], end)
    fleets.neared("a", end)
    fleets.neared("b", end)
    (first,) = orders(fleets.wait(HOUR))
    assert orders(fleets.wait(30 * 60_000)) == []
    fleets.stage.pass_time(NOON + 2 * HOUR + 1)
    said = fleets.end(first) + fleets.wait(2 * HOUR)
    assert len(orders(said)) == 1
    assert ("DeviceChosen", "expiry-wins") in decided(said)


def test_an_updates_window_is_never_broken() -> None:
    """Only certificates end; an update waits."""
    fleets = Fleets().created(config(start="02:00", end="04:00")).joined(["a"], NOON + 10 * HOUR)
    assert orders(fleets.order(update()) + fleets.wait(10 * HOUR)) == []


def test_a_failed_rotation_is_tried_again() -> None:
    """Up to five times, an hour and more apart."""
    fleets = ready(staggered=False)
    fleets.neared("a", NOON + 30 * DAY)
    for _ in range(4):
        fleets.end_work("failed", "device-away")
        said = fleets.wait(HOUR // 2 - 1)
        assert orders(said) == []
        while not orders(said):
            said = fleets.wait(HOUR)
    fleets.end_work("failed", "device-away")
    last = fleets.member("a").last
    assert last is not None
    assert (last.outcome, last.attempts) == ("failed", 5)


def test_rotations_come_before_updates() -> None:
    """An automatic rotation has the higher priority."""
    patch = json.loads(config(staggered=False))
    patch["updatePolicy"]["batchSize"] = 1
    fleets = Fleets().created(json.dumps(patch)).joined(["a", "b", "c"], NOON + 30 * DAY)
    fleets.order(update())
    busy = fleets.in_work()[0].device_id
    other = next(one for one in "abc" if one != busy)
    fleets.neared(other, NOON + 30 * DAY)
    (following,) = orders(fleets.end_work())
    assert following.campaign_id == AUTOMATIC


def test_a_removed_fleet_member_ends_its_urgency() -> None:
    """Its deadline goes with its row."""
    fleets = Fleets().created(config(start="13:00", end="14:00")).joined(["a"], NOON + 40 * HOUR)
    fleets.neared("a", NOON + 40 * HOUR)
    fleets.add(events.DeviceRemoved(FLEET, "a", "ordered", "ops"))
    assert orders(fleets.wait(40 * HOUR)) == []
    assert fleets.campaign(AUTOMATIC).urgent == 0
