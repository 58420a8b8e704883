"""Large fleets in the rehearsal: random failures from a seed, and a fleet issued in one second."""

import json
import os
import random
from collections import Counter

import pytest

from schemas import fleet_events as events
from schemas.decisions import Decision
from schemas.fleet_states import CampaignGroup, CampaignSpec
from schemas.records import changed
from streams.core import campaign, rehearsal, ring
from streams.core.rehearsal import HOUR_MS, Order, Stage, Theatre
from streams.core.turn import Output
from tests.helpers.fleets import ARTEFACT, CAUSE, DAY, FLEET, NOON, Fleets, update

DEVICES = 100_000 if os.environ.get("FLEETCERT_CHAOS") else 10_000
BATCH = 500


def populated(count: int, config: dict, not_after_at: int) -> Stage:
    """Return a stage with so many confirmed members, all certified alike."""
    fleets = Fleets().created(json.dumps({"maxDevices": 10_000_000, **config}))
    fleets.joined(["d0"], not_after_at)
    rows, one = fleets.stage.rows, fleets.member("d0")
    for number in range(1, count):
        row = changed(one, device_id=f"d{number}")
        rows.put(ring.member_key(FLEET, row.device_id), row)
    fleet = changed(
        fleets.fleet,
        members=count,
        confirmed=count,
        not_after_sum_seconds=count * not_after_at // 1000,
    )
    rows.put(ring.fleet_key(FLEET), fleet)
    return fleets.stage


class Onlooker:
    """Counts who is in work, and what was decided."""

    def __init__(self, theatre: Theatre) -> None:
        self.in_work = self.most = 0
        self.ordered: Counter[str] = Counter()
        self.decided: Counter[tuple[str, str]] = Counter()
        self.hours: Counter[int] = Counter()
        self.theatre = theatre
        theatre.on_output = self.look

    def look(self, output: Output) -> None:
        """Look at one output."""
        record = output.record
        if isinstance(record, Decision):
            self.decided[record.name, record.reason] += 1
            if record.name == "DeviceFinished" or record.reason == "retried":
                self.in_work -= 1
            elif record.name == "DeviceChosen":
                self.in_work += 1
                self.most = max(self.most, self.in_work)
                self.ordered[record.values["device"]] += 1
                self.hours[record.decided_at // HOUR_MS] += 1


@pytest.mark.parametrize("seed", [1])
def test_a_large_fleet_with_random_failures(seed: int) -> None:
    """Canaries, then a tenth, then all: each device once or twice, never more than the batch."""
    chance = random.Random(seed)
    config = {
        "updatePolicy": {"batchSize": BATCH, "timeWindow": {"start": "00:00", "end": "24:00"}}
    }
    stage = populated(DEVICES, config, NOON + 90 * DAY)

    def behaves(_order: Order) -> tuple[int, str, str] | None:
        luck = chance.random()
        if luck < 0.02:
            return None
        outcome = campaign.FAILED if luck < 0.05 else campaign.SUCCEEDED
        return chance.randrange(5_000, 60_000), outcome, "device-failed"

    theatre = Theatre(stage, behaves)
    onlooker = Onlooker(theatre)
    spec = update(
        attempts_max=2,
        order_within_ms=600_000,
        groups=(CampaignGroup(percent=1), CampaignGroup(percent=10)),
    )
    theatre.apply(events.CampaignOrdered(FLEET, "c", spec, None, "ops"))
    theatre.run(lambda: bool(stage.campaign(FLEET, "c").ended_at), NOON + 90 * DAY)
    row = stage.campaign(FLEET, "c")
    assert (row.state, row.reason) == ("completed", "all-done"), f"seed {seed}"
    assert len(onlooker.ordered) == DEVICES
    assert max(onlooker.ordered.values()) == 2
    assert onlooker.most == BATCH
    assert campaign.succeeded(row) + campaign.failed(row) == DEVICES
    assert 0 < campaign.failed(row) < DEVICES // 100


def test_a_bad_update_stops_at_the_canaries() -> None:
    """Half of them fail: the campaign halts, and almost nobody was touched."""
    chance = random.Random(2)
    config = {"updatePolicy": {"timeWindow": {"start": "00:00", "end": "24:00"}}}
    stage = populated(DEVICES, config, NOON + 90 * DAY)
    theatre = Theatre(
        stage, lambda _: (9_000, chance.choice((campaign.FAILED, campaign.SUCCEEDED)), "none")
    )
    onlooker = Onlooker(theatre)
    theatre.apply(events.CampaignOrdered(FLEET, "c", update(), None, "ops"))
    theatre.run(lambda: False, NOON + DAY)
    assert stage.campaign(FLEET, "c").state == "halted"
    assert len(onlooker.ordered) < 40


@pytest.mark.parametrize(
    "window", [{"start": "00:00", "end": "24:00"}, {"start": "02:00", "end": "04:00"}]
)
def test_a_fleet_issued_in_one_second_does_not_stampede(window: dict[str, str]) -> None:
    """10,000 certificates near their end at once: the busiest hour is at most twice the mean."""
    count, end = 10_000, NOON + 30 * DAY
    stage = populated(count, {"updatePolicy": {"batchSize": 100, "timeWindow": window}}, end)
    theatre = Theatre(stage, lambda _: (20_000, campaign.SUCCEEDED, "none"))
    onlooker = Onlooker(theatre)
    for number in range(count):
        begins = end - 90 * DAY
        theatre.apply(events.CertificateNeared(FLEET, f"d{number}", begins, end, CAUSE))
    theatre.run(lambda: False, end)
    assert len(onlooker.ordered) == count
    assert onlooker.decided["DeviceChosen", "expiry-wins"] == 0
    assert stage.now < end
    first, last = min(onlooker.hours), max(onlooker.hours)
    open_hours = last - first + 1 if window["end"] == "24:00" else len(onlooker.hours)
    assert open_hours >= 28
    assert max(onlooker.hours.values()) <= 2 * count / open_hours


def test_a_plan_is_what_then_happens() -> None:
    """Groups, hours, first devices and the end: the machine itself was asked."""
    config = {"updatePolicy": {"batchSize": 20, "timeWindow": {"start": "02:00", "end": "03:00"}}}
    stage = populated(1_000, config, NOON + 90 * DAY)
    spec = update(groups=(CampaignGroup(percent=5, gate=True),))
    event = events.CampaignOrdered(FLEET, "c", spec, None, "ops")
    before = dict(stage.rows.items())
    planned = rehearsal.plan(before.items(), event, NOON, typical_ms=60_000)
    assert dict(stage.rows.items()) == before, "a dry run changes nothing"
    theatre = Theatre(stage, lambda _: (60_000, campaign.SUCCEEDED, "none"))
    onlooker = Onlooker(theatre)
    theatre.apply(event)
    theatre.apply(events.GateOpened(FLEET, "c", 0, "ops"))
    theatre.run(lambda: bool(stage.campaign(FLEET, "c").ended_at), NOON + 30 * DAY)
    assert [one.size for one in planned.groups] == [50, 950]
    assert planned.hours == tuple((hour * HOUR_MS, n) for hour, n in sorted(onlooker.hours.items()))
    assert planned.ends_at == stage.campaign(FLEET, "c").ended_at
    assert planned.enrolled == sum(onlooker.ordered.values()) == 1_000
    assert set(planned.first) <= set(onlooker.ordered)


def test_a_plan_says_why_a_campaign_would_be_refused() -> None:
    """With the machine's own words."""
    stage = populated(3, {}, NOON + 90 * DAY)
    wrong = CampaignSpec(kind="update", artefact=ARTEFACT, attempts_max=0)
    planned = rehearsal.plan(
        stage.rows.items(), events.CampaignOrdered(FLEET, "c", wrong, None, "ops"), NOON
    )
    assert planned.state == "refused"
    assert "attempts_max is 0" in planned.refused


def test_a_forecast_shows_the_load_before_it_comes() -> None:
    """Every certificate once, spread over the hours, none before it nears its end."""
    window = {"updatePolicy": {"timeWindow": {"start": "00:00", "end": "24:00"}}}
    stage = populated(500, window, NOON + 90 * DAY)
    hours = rehearsal.forecast(stage.rows.items(), FLEET, NOON, NOON + 90 * DAY)
    assert sum(count for _, count in hours) == 500
    assert hours[0][0] >= NOON + 60 * DAY
    assert hours[-1][0] <= NOON + 75 * DAY
    assert len(hours) > 200
