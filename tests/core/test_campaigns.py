"""Campaigns: each knob by itself, and what happens to the devices in work."""

import json
from dataclasses import replace
from typing import Any

import pytest

from schemas import fleet_events as events
from schemas.decisions import Decision
from schemas.events import RotationOrdered
from schemas.fleet_orders import UpdateOrdered
from schemas.fleet_states import CampaignGroup, CampaignRate, TimeWindow
from streams.core import campaign, dispatch, enrolment, fleet, ring
from tests.helpers.fleets import (
    ARTEFACT,
    CAUSE,
    DAY,
    FLEET,
    HOUR,
    NOON,
    Fleets,
    decided,
    orders,
    refused,
    rotation,
    update,
)

DEVICES = [f"d{number:02d}" for number in range(20)]
MINUTE = 60_000


def config(batch: int = 10, start: str = "00:00", end: str = "24:00", **policy: Any) -> str:
    """Return a configuration with a batch size and a window."""
    window = {"start": start, "end": end}
    return json.dumps({"updatePolicy": {"batchSize": batch, "timeWindow": window, **policy}})


def ready(batch: int = 10, devices: int = 20, **policy: Any) -> Fleets:
    """Return a fleet with members."""
    return Fleets().created(config(batch, **policy)).joined(DEVICES[:devices])


def decision(records: list[Any], name: str) -> Decision:
    """Return the one decision of a name."""
    (found,) = [one for one in records if isinstance(one, Decision) and one.name == name]
    return found


def moved(fleets: Fleets, kind: Any, campaign_id: str = "c", **more: Any) -> list[Any]:
    """Let a person pause, resume, abort, or open a gate."""
    return fleets.add(kind(FLEET, campaign_id, actor="ops", **more))


def test_a_campaign_orders_a_batch_and_then_one_for_each_that_ends() -> None:
    """Every device once, never more in work than batchSize; then the campaign is completed."""
    fleets = ready(batch=3)
    first = orders(fleets.order(update()))
    assert len(first) == 3
    assert all(isinstance(one, UpdateOrdered) and one.artefact == ARTEFACT for one in first)
    assert len(orders(fleets.end(first[0]))) == 1
    assert len(fleets.in_work()) == fleets.fleet.in_work == 3
    fleets.finish()
    row = fleets.campaign()
    assert (row.state, row.reason, row.groups[0].succeeded) == ("completed", "all-done", 20)
    ordered = [one.device_id for one in orders([each.record for each in fleets.outputs])]
    assert sorted(ordered) == DEVICES
    assert (fleets.fleet.in_work, fleets.fleet.campaigns) == (0, ())
    assert fleets.fleet.campaigns_ended == ("c",)


def test_a_rotation_orders_rotations() -> None:
    """With the campaign's and the fleet's id, so that the end finds its way back."""
    fleets = ready(devices=1)
    (order,) = orders(fleets.order(rotation()))
    assert isinstance(order, RotationOrdered)
    assert (order.fleet_id, order.campaign_id, order.actor) == (FLEET, "c", "ops")
    assert order.cause is not None
    assert order.cause.hops == 1


def test_every_choice_is_a_decision() -> None:
    """Who, in which group and attempt, and why; then how it ended and how long it took."""
    fleets = ready(devices=1)
    chosen = decision(fleets.order(update()), "DeviceChosen")
    assert (chosen.reason, chosen.subject) == ("next-in-line", f"fleet:{FLEET}")
    assert chosen.values["device"] == "d00"
    (order,) = fleets.in_work()
    fleets.stage.pass_time(NOON + 5_000)
    ended = decision(fleets.end_work("failed", "device-refused"), "DeviceFinished")
    assert ended.reason == "device-refused"
    assert (ended.values["outcome"], ended.values["duration_ms"]) == ("failed", "5000")
    assert order.order is not None
    assert ended.values["order"] == order.order.order_id


def test_a_campaign_may_have_a_smaller_batch_never_a_larger_one() -> None:
    """Its own batch size counts up to the fleet's; all campaigns share the fleet's."""
    fleets = ready(batch=5)
    assert len(orders(fleets.order(update(batch_size=2), "small"))) == 2
    assert len(orders(fleets.order(update(batch_size=50), "large"))) == 3
    assert fleets.fleet.in_work == 5


def test_a_smaller_batch_size_holds_from_the_next_order_on() -> None:
    """Devices in work finish; nobody follows until there is room again."""
    fleets = ready(batch=6)
    first = orders(fleets.order(update()))
    fleets.add(events.FleetConfigChanged(FLEET, config(2), 0, None, "ops"))
    for one in first[:4]:
        assert orders(fleets.end(one)) == []
    assert len(orders(fleets.end(first[4]))) == 1
    larger = fleets.add(events.FleetConfigChanged(FLEET, config(8), 0, None, "ops"))
    assert len(orders(larger)) == 6


def test_a_campaign_halts_above_the_failure_threshold() -> None:
    """Failed / finished > 0.1 with at least five finished; devices in work finish."""
    fleets = ready(batch=5)
    first = orders(fleets.order(update()))
    for one in first[:4]:
        fleets.end(one, "failed", "device-failed")
    assert fleets.campaign().state == "running"
    said = fleets.end(first[4])
    assert ("CampaignChanged", "failure-threshold") in decided(said)
    row = fleets.campaign()
    assert (row.state, row.reason) == ("halted", "failure-threshold")
    assert len(fleets.in_work()) == 4
    fleets.finish()
    assert fleets.campaign().state == "halted", "a person looks first"
    assert len(orders(moved(fleets, events.CampaignResumed))) == 5


@pytest.mark.parametrize(("failures", "state"), [(1, "running"), (2, "halted")])
def test_the_threshold_itself_does_not_halt(failures: int, state: str) -> None:
    """One of ten is a tenth: not above it. Two of ten are."""
    fleets = ready(batch=10)
    first = orders(fleets.order(update(finished_min=10)))
    for number, one in enumerate(first):
        fleets.end(one, "failed" if number >= 10 - failures else "succeeded")
    assert fleets.campaign().state == state


def test_a_device_that_says_nothing_has_failed() -> None:
    """Its order times out by its own deadline, and counts against the threshold."""
    fleets = ready(batch=5)
    fleets.order(update(order_within_ms=10 * MINUTE))
    fleets.wait(10 * MINUTE - 1)
    assert len(fleets.in_work()) == 5
    said = fleets.wait(1)
    assert ("DeviceFinished", "timed-out") in decided(said)
    row = fleets.campaign()
    assert (row.state, row.groups[0].timed_out) == ("halted", 5)
    assert fleets.member(next(iter(d for d in DEVICES if fleets.member(d).last))).last is not None


def test_an_end_that_comes_too_late_changes_nothing() -> None:
    """It is refused and said; so is one for another order."""
    fleets = ready(batch=5, devices=1)
    (order,) = orders(fleets.order(update(order_within_ms=10 * MINUTE, failure_threshold=1.0)))
    fleets.wait(10 * MINUTE)
    before = fleets.campaign()
    assert refused(fleets.end(order))[0] == "late"
    assert fleets.campaign() == before
    assert refused(fleets.end(replace(order, device_id="nobody")))[0] == "late"


def test_a_failed_attempt_comes_again_after_a_back_off() -> None:
    """Each later than the one before, with a jitter of the device's own; then it has failed."""
    fleets = ready(batch=1, devices=1)
    fleets.order(
        update(attempts_max=3, backoff_ms=MINUTE, backoff_max_ms=HOUR, failure_threshold=1.0)
    )
    waits = []
    for attempt in (2, 3):
        said = fleets.end_work("failed", "device-failed")
        assert decided(said)[0] == ("DeviceDeferred", "retried")
        ended_at = fleets.stage.now
        fleets.wait(HOUR)
        (row,) = fleets.in_work()
        assert row.order is not None
        assert row.order.attempt == attempt
        waits.append(row.order.ordered_at - ended_at)
        fleets.stage.now = row.order.ordered_at
    assert MINUTE // 2 <= waits[0] <= MINUTE
    assert MINUTE <= waits[1] <= 2 * MINUTE
    fleets.end_work("failed")
    row = fleets.campaign()
    assert (row.state, row.groups[0].failed) == ("completed", 1)
    last = fleets.member("d00").last
    assert last is not None
    assert last.attempts == 3


def test_nobody_is_ordered_outside_the_window() -> None:
    """The campaign says so once, and begins when the window opens; the end is exclusive."""
    fleets = ready(batch=2, devices=6)
    fleets.add(events.FleetConfigChanged(FLEET, config(2, "14:00", "15:00"), 0, None, "ops"))
    said = fleets.order(update())
    assert orders(said) == []
    assert ("CampaignWaited", "window-closed") in decided(said)
    assert orders(fleets.wait(2 * HOUR - 1)) == []
    assert len(orders(fleets.wait(1))) == 2
    fleets.stage.now = NOON + 3 * HOUR
    assert orders(fleets.end_work()) == []
    assert len(orders(fleets.wait(23 * HOUR))) == 2


def test_a_campaign_may_have_its_own_window_or_none() -> None:
    """Its window counts instead of the fleet's; `any_time` is bound by none."""
    fleets = Fleets().created(config(10, "02:00", "04:00")).joined(DEVICES[:2])
    own = update(window=TimeWindow(13 * 60, 14 * 60))
    assert orders(fleets.order(own)) == []
    assert len(orders(fleets.wait(HOUR))) == 2
    fleets.finish()
    assert len(orders(fleets.order(update(any_time=True), "now"))) == 2


def test_groups_go_on_when_enough_succeed() -> None:
    """The canary first; the next group opens at the success threshold, the rest at the end."""
    fleets = ready(batch=10)
    groups = (CampaignGroup(count=2, success_threshold=1.0), CampaignGroup(percent=40))
    first = orders(fleets.order(update(groups=groups)))
    assert [one.size for one in fleets.campaign().groups] == [2, 8, 10]
    assert len(first) == 2
    assert orders(fleets.end(first[0])) == []
    said = fleets.end(first[1])
    assert ("GroupOpened", "none") in decided(said)
    second = orders(said)
    assert len(second) == 8
    for one in second[:7]:
        assert orders(fleets.end(one)) == []
    assert len(orders(fleets.end(second[7]))) == 10
    fleets.finish()
    assert fleets.campaign().state == "completed"


def test_a_group_that_succeeds_too_little_halts_the_campaign() -> None:
    """A person may resume: what failed is forgiven, and the next group opens."""
    fleets = ready(batch=10)
    groups = (CampaignGroup(count=2, success_threshold=0.9),)
    first = orders(fleets.order(update(groups=groups)))
    fleets.end(first[0], "failed")
    fleets.end(first[1])
    row = fleets.campaign()
    assert (row.state, row.reason, row.group) == ("halted", "success-threshold", 0)
    said = moved(fleets, events.CampaignResumed)
    assert len(orders(said)) == 10
    row = fleets.campaign()
    assert (row.state, row.group, row.forgiven_failed, row.forgiven_finished) == (
        "running", 1, 1, 2,
    )  # fmt: skip


def test_a_gate_waits_for_a_person() -> None:
    """The group before it goes on; the gated one begins when it is let."""
    fleets = ready(batch=10)
    groups = (CampaignGroup(count=1), CampaignGroup(count=2, gate=True))
    fleets.order(update(groups=groups))
    said = fleets.end_work()
    assert orders(said) == []
    assert fleets.campaign().state == "gated"
    assert len(orders(moved(fleets, events.GateOpened, group=1))) == 2
    assert refused(moved(fleets, events.GateOpened, group=7))[0] == "invalid-campaign"


def test_a_fleet_that_is_not_automatic_gates_every_campaign() -> None:
    """updatePolicy.automatic off: the first group waits for a person."""
    fleets = ready(automatic=False)
    assert orders(fleets.order(update())) == []
    assert fleets.campaign().state == "gated"
    assert len(orders(moved(fleets, events.GateOpened, group=0))) == 10


def test_the_rate_is_kept_and_grows() -> None:
    """Six a minute are one every ten seconds; twice as many for each two that succeed."""
    fleets = ready(batch=20)
    rate = CampaignRate(per_minute=6, growth_percent=200, grow_every=2, per_minute_max=12)
    first = orders(fleets.order(update(rate=rate)))
    assert len(first) == 1
    assert len(orders(fleets.wait(30_000))) == 3
    fleets.end(first[0])
    fleets.end_work()
    assert campaign.per_minute(fleets.campaign()) == 12
    assert 4 <= len(orders(fleets.wait(30_000))) <= 7


def test_a_campaign_waits_for_its_start() -> None:
    """Planned until then; paused before its start, it is planned again when resumed."""
    fleets = ready()
    assert orders(fleets.order(update(start_at=NOON + HOUR))) == []
    assert fleets.campaign().state == "planned"
    moved(fleets, events.CampaignPaused)
    assert orders(fleets.wait(2 * HOUR)) == []
    moved(fleets, events.CampaignResumed)
    assert len(orders(fleets.wait(1))) + len(fleets.in_work()) >= 10


def test_a_pause_stops_new_orders_only() -> None:
    """Devices in work finish and are counted; resuming goes on where it stopped."""
    fleets = ready(batch=4)
    first = orders(fleets.order(update()))
    moved(fleets, events.CampaignPaused)
    for one in first:
        assert orders(fleets.end(one)) == []
    assert fleets.campaign().groups[0].succeeded == 4
    assert len(orders(moved(fleets, events.CampaignResumed))) == 4
    assert refused(moved(fleets, events.CampaignResumed))[0] == "wrong-state"


def test_an_abort_lets_the_devices_in_work_finish() -> None:
    """Nobody follows, the queue is cleared, and the campaign is aborted when all have ended."""
    fleets = ready(batch=4)
    first = orders(fleets.order(update(attempts_max=5)))
    moved(fleets, events.CampaignAborted)
    assert fleets.campaign().state == "ending"
    for one in first[:3]:
        assert orders(fleets.end(one)) == []
    fleets.end(first[3], "failed")
    row = fleets.campaign()
    assert (row.state, row.ended_at, campaign.queued(row)) == ("aborted", NOON, 0)
    assert row.groups[0].dropped == 16
    assert fleets.stage.rows.scan(ring.queue(FLEET, "c"), b"", 1) == []
    assert all(not fleets.member(one).queued for one in DEVICES)
    assert refused(moved(fleets, events.CampaignAborted))[0] == "wrong-state"


def test_every_campaign_has_a_last_instant() -> None:
    """Whatever it waits for: a gate that nobody opens, a pause that nobody ends."""
    fleets = ready(automatic=False)
    fleets.order(update(end_after_ms=DAY))
    fleets.order(update(end_after_ms=DAY), "paused")
    moved(fleets, events.CampaignPaused, "paused")
    fleets.wait(DAY)
    assert {fleets.campaign(one).state for one in ("c", "paused")} == {"expired"}
    assert fleets.fleet.campaigns == ()


def test_the_higher_priority_goes_first() -> None:
    """When there is room for one, the campaign of the higher priority takes it."""
    fleets = ready(batch=1, devices=4)
    fleets.order(update(), "low")
    fleets.order(update(priority=5), "high")
    (following,) = orders(fleets.end_work())
    assert following.campaign_id == "high"
    fleets.finish()
    states = {one: fleets.campaign(one).state for one in ("low", "high")}
    assert states == {"low": "completed", "high": "completed"}


def test_a_device_is_in_one_campaign_at_a_time() -> None:
    """The other one waits, says so, and has the device as soon as it is free."""
    fleets = ready(batch=5, devices=1)
    fleets.order(update(), "first")
    said = fleets.order(rotation(), "second")
    assert orders(said) == []
    assert ("DeviceDeferred", "device-busy") in decided(said)
    (order,) = orders(fleets.end_work())
    assert order.campaign_id == "second"


def test_a_device_that_is_away_is_put_off_but_not_for_ever() -> None:
    """Three times an hour; then it is ordered all the same, and counts as it ends."""
    fleets = ready(devices=1)
    fleets.add(events.HealthReported(FLEET, "d00", "gone", "silent", CAUSE))
    said = fleets.order(update())
    assert ("DeviceDeferred", "device-away") in decided(said)
    assert orders(fleets.wait(3 * enrolment.DEFER_MS - 1)) == []
    assert len(orders(fleets.wait(1))) == 1


def test_a_device_that_comes_back_is_ordered_at_once() -> None:
    """Its health is told, and the campaign that had put it off takes it."""
    fleets = ready(devices=1)
    fleets.add(events.HealthReported(FLEET, "d00", "silent", "silent", CAUSE))
    fleets.order(update())
    back = events.HealthReported(FLEET, "d00", "connected", "none", CAUSE)
    assert len(orders(fleets.add(back))) == 1
    assert decided(fleets.add(back)) == []


@pytest.mark.parametrize(("continuous", "ordered"), [(False, 0), (True, 1)])
def test_who_joins_later_is_taken_by_a_continuous_campaign(continuous: bool, ordered: int) -> None:
    """A snapshot keeps to its members; a continuous campaign goes on until its last instant."""
    fleets = ready(devices=2, batch=1)
    fleets.order(update(continuous=continuous, end_after_ms=DAY))
    fleets.stage.now += 1_000
    fleets.joined(["late"])
    devices = [one.device_id for one in orders(fleets.finish())]
    assert devices.count("late") == ordered
    assert fleets.campaign().state == ("running" if continuous else "completed")
    fleets.wait(DAY)
    assert fleets.campaign().ended_at


def test_only_certificates_that_end_soon_are_selected() -> None:
    """`expiring`: within so many days; the others are passed over and counted."""
    fleets = Fleets().created(config()).joined(["soon"], NOON + 5 * DAY).joined(["late"])
    said = fleets.order(rotation(selection="expiring", expiring_days=10))
    assert [one.device_id for one in orders(said)] == ["soon"]
    assert fleets.campaign().passed_over == 1


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"kind": "party"}, "expected rotation or update"),
        ({"artefact": None}, "an update needs an artefact"),
        ({"artefact": replace(ARTEFACT, sha256=b"x")}, "1 bytes, not 32"),
        ({"artefact": replace(ARTEFACT, uri="")}, "uri"),
        ({"selection": "some"}, "expected all, expiring or neared"),
        ({"selection": "neared"}, "start themselves"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"attempts_max": 0}, "attempts_max is 0"),
        ({"failure_threshold": 1.5}, "not within 0 to 1"),
        ({"failure_threshold": float("nan")}, "not within 0 to 1"),
        ({"groups": (CampaignGroup(percent=5, count=5),)}, "either a percentage"),
        ({"groups": (CampaignGroup(count=1, success_threshold=2),)}, "success_threshold"),
        ({"groups": (CampaignGroup(count=1),) * 30}, "at most 20"),
        ({"rate": CampaignRate(per_minute=-1)}, "rate.per_minute"),
        ({"window": TimeWindow(5, 5)}, "two different times"),
        ({"window": TimeWindow(1, 5, "UTC", ())}, "no days"),
        ({"window": TimeWindow(1, 5, "Europe/Berlin")}, "no table of offsets"),
    ],
)
def test_a_campaign_that_is_not_valid_is_refused(changes: dict[str, Any], detail: str) -> None:
    """With what is wrong, and without a row."""
    fleets = ready(devices=1)
    why, what = refused(fleets.order(update(**changes)))
    assert (why, detail in what) == ("invalid-campaign", True), what
    assert fleets.campaign() is None


def test_ids_and_numbers_of_campaigns_have_limits() -> None:
    """A taken id, a wrong id, an unknown one, and one more than a fleet may have open."""
    fleets = ready(devices=1)
    for number in range(fleet.CAMPAIGNS_MAX):
        fleets.order(update(start_at=NOON + DAY), f"c{number}")
    assert refused(fleets.order(update(), "c1"))[0] == "campaign-exists"
    assert refused(fleets.order(update(), "one-more"))[0] == "too-many-campaigns"
    assert refused(fleets.order(update(), "a/b"))[0] == "invalid-campaign"
    assert refused(moved(fleets, events.CampaignPaused, "none"))[0] == "unknown-campaign"


def test_campaigns_that_are_over_leave_in_the_end() -> None:
    """The last ones keep their row, older ones go."""
    fleets = ready(devices=1)
    for number in range(dispatch.ENDED_KEPT_MAX + 2):
        fleets.order(update(), f"c{number}")
        fleets.finish()
    assert len(fleets.fleet.campaigns_ended) == dispatch.ENDED_KEPT_MAX
    assert fleets.campaign("c1") is None
    assert fleets.campaign("c2").state == "completed"


def test_a_campaign_over_no_devices_is_done_at_once() -> None:
    """Also with groups: none of them has anybody to wait for."""
    fleets = ready(devices=0)
    fleets.order(update(groups=(CampaignGroup(percent=10), CampaignGroup(count=5))))
    assert fleets.campaign().state == "completed"


def test_the_order_is_fixed_and_differs_from_campaign_to_campaign() -> None:
    """The same campaign id gives the same order; the canaries of another are others."""

    def first(campaign_id: str) -> list[str]:
        fleets = ready(batch=5)
        return [one.device_id for one in orders(fleets.order(update(), campaign_id))]

    assert first("one") == first("one")
    assert len({tuple(first(f"c{number}")) for number in range(6)}) > 3


def test_work_longer_than_a_step_goes_on_by_itself() -> None:
    """More members than one step looks at, more orders than one step gives."""
    many = [f"d{number:04d}" for number in range(2 * enrolment.ENROL_MAX + 50)]
    patch = json.dumps({"maxDevices": 10_000, **json.loads(config(400))})
    fleets = Fleets().created(patch).joined(many)
    said = fleets.order(update())
    assert len(orders(said)) == 400
    row = fleets.campaign()
    assert (row.enrolled_all, row.enrolled, row.continuing) == (True, len(many), False)
    fleets.finish()
    assert fleets.campaign().groups[0].succeeded == len(many)
