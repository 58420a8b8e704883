"""Scenarios in plain words, on the whole stack: days pass by recorded ticks, all else is real.

Kafka, broker, bridge, workers and issuer run; the devices are agents over MQTT with TLS. The clock
begins three days ago and ends today, so that every certificate is valid for whoever looks at it by
his own clock. Each scenario has its own hours, in the order of the file; each runs alone as well.
"""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from client.campaigns import Campaigns
from client.fleets import Fleets
from device import provision
from device.simulator import Plan, Simulator
from device.store import Store
from pki.profile import issue_device
from schemas.decisions import Decision
from schemas.fleet_states import CampaignRow, CampaignSpec, MemberRow
from schemas.states import Policy
from schemas.topics import DECISIONS
from tests.helpers.recorded_clock import CONFIG, RecordedClock, take_instants
from tests.helpers.scenario import given, then, when
from tests.helpers.stack import RunningStack, running_stack
from tests.helpers.wait import until

HOUR = 3_600_000
DAY = 24 * HOUR
TODAY = time.time_ns() // 1_000_000 // HOUR * HOUR
"""The last full hour. A rotation is real in the day before it: the issuer believes no older one."""
PATIENCE = replace(
    Policy(),
    answer_within_ms=3 * DAY,
    issue_within_ms=DAY,
    prove_within_ms=DAY,
    backoff_ms=2_000,
    backoff_max_ms=4_000,
)
"""A command is as old as its recorded instant: no door shall take it for expired. What fails on a
busy machine is tried again within seconds."""
SECOND = 1_000
ROTATES_WITHIN = 45.0


@dataclass
class World:
    """The stack, its clock, and the words that scenarios are made of."""

    stack: RunningStack
    clock: RecordedClock
    fleets: Fleets
    campaigns: Campaigns
    directory: Path

    def fleet(self, fleet_id: str, devices: Sequence[str], **config: Any) -> None:
        """Make a fleet of these registered devices, and wait until all are members."""
        config.setdefault("certRotation", {"daysBeforeExpiry": 30, "staggered": False})
        self.fleets.create(fleet_id, devices=tuple(devices), config=config)
        until(
            lambda: [one.confirmed for one in self.members(fleet_id)] == [True] * len(devices),
            describe=lambda: f"every device is a member: {self.members(fleet_id)}",
        )

    def register(self, device_id: str, begins_at: int, ends_at: int) -> None:
        """Register a device with a certificate of that life, on its own key."""
        folder = self.directory / device_id
        folder.mkdir(parents=True)
        der = issue_device(
            self.stack.authorities,
            device_id,
            Store(folder).pending_key(provision.ENROLMENT).public_key(),
            f"enrolment-{device_id}",
            datetime.fromtimestamp(begins_at / 1000, UTC),
            timedelta(milliseconds=ends_at - begins_at),
        )
        self.stack.fleet.register(device_id, "pump", certificate=der)
        provision.adopt(device_id, folder, x509.load_der_x509_certificate(der))

    @contextmanager
    def living(self, prefix: str, count: int, begins_at: int, ends_at: int) -> Iterator[list[str]]:
        """Let registered devices live, connected, each with a certificate of that life."""
        simulator = Simulator(
            Plan(
                directory=self.directory,
                host="localhost",
                port=self.stack.layout.device_port,
                ca_file=self.stack.layout.pki_dir / "service-ca" / "ca.pem",
                count=count,
                prefix=prefix,
                drain_seconds=3.0,
            )
        )
        for one in simulator.behaviours:
            self.register(one, begins_at, ends_at)
        loop = asyncio.new_event_loop()
        running = threading.Thread(target=loop.run_until_complete, args=(simulator.run(),))
        running.start()
        try:
            yield list(simulator.behaviours)
        finally:
            loop.call_soon_threadsafe(simulator.stop)
            running.join()
            loop.close()

    def members(self, fleet_id: str) -> list[MemberRow]:
        """Return the members of a fleet."""
        return self.fleets.members(fleet_id)

    def decided(self, fleet_id: str, name: str) -> list[Decision]:
        """Return the decisions of one name about a fleet, in order."""
        key = f"fleet:{fleet_id}".encode()
        found = (one.record for one in self.stack.fleet.read(DECISIONS, key=key))
        return [one for one in found if isinstance(one, Decision) and one.name == name]

    def ordered(self, fleet_id: str) -> dict[str, int]:
        """Return when each device of a fleet was ordered to rotate."""
        return {
            one.values["device"]: one.decided_at for one in self.decided(fleet_id, "DeviceChosen")
        }

    def wait_for_work(self, fleet_id: str) -> None:
        """Wait, as the seconds pass, until all that were ordered have proven a new certificate."""

        def nobody() -> bool:
            if not any(one.order for one in self.members(fleet_id)):
                return True
            self.clock.to(self.clock.now + SECOND)
            return False

        until(
            nobody,
            within=ROTATES_WITHIN,
            describe=lambda: f"nobody is in work: {self.members(fleet_id)}",
        )

    def rotated(self, fleet_id: str) -> set[str]:
        """Return the members that have proven a new certificate."""
        ended = {one.device_id: one.last.outcome for one in self.members(fleet_id) if one.last}
        held = {one: self.stack.fleet.device(one).certificates for one in ended}
        return {one for one, why in ended.items() if why == "succeeded" and len(held[one]) == 2}

    def campaign(self, fleet_id: str, campaign_id: str) -> CampaignRow:
        """Return a campaign."""
        return self.campaigns.campaign(fleet_id, campaign_id)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One stack whose clock is recorded, at the hour where the first scenario begins."""
    directory: Path = tmp_path_factory.mktemp("acceptance")
    config = directory / "fleetcert.yaml"
    config.write_text(CONFIG)
    with running_stack(directory / "stack", partitions=1, config=config) as stack:
        take_instants(stack.layout.bootstrap)
        clock = RecordedClock(stack.layout.bootstrap)
        clock.to(TODAY - 72 * HOUR)
        stack.fleet.activate(PATIENCE)
        bootstrap = stack.layout.bootstrap
        made = World(stack, clock, Fleets(bootstrap), Campaigns(bootstrap), directory / "devices")
        yield made
        made.fleets.close()
        made.campaigns.close()
        clock.close()


def hours_ago(hours: float) -> int:
    """Return an instant before today's."""
    return TODAY - int(hours * HOUR)


def all_day() -> dict[str, Any]:
    """Return a window that never closes."""
    return {"timeWindow": {"start": "00:00", "end": "24:00"}}


def clock_time(at: int) -> str:
    """Return the time of day as a configuration says it."""
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%H:%M")


def test_a_device_with_29_days_left_rotates(world: World) -> None:
    """Given daysBeforeExpiry 30: nothing with 30 days and an hour left, a rotation with 29."""
    begin = hours_ago(70)
    ends_at = begin + 31 * DAY
    world.clock.to(begin)
    with given("a fleet with daysBeforeExpiry 30 and a device with 31 days left"):
        living = world.living("late", 1, ends_at - 90 * DAY, ends_at)
    with living as devices:
        world.fleet("late", devices, updatePolicy=all_day())
        with when("it has 30 days and an hour left"):
            world.clock.to(begin + 23 * HOUR)
        with then("nobody is ordered"):
            assert world.ordered("late") == {}
        with when("it has 29 days left"):
            world.clock.to(begin + 48 * HOUR)
        with then("it is ordered to rotate, because its certificate nears its end"):
            assert world.ordered("late") == {devices[0]: begin + 48 * HOUR}
            (neared,) = world.decided("late", "CertificateNearedExpiry")
            assert (neared.reason, neared.values["days"]) == ("near-expiry", "29")
        with then("it proves a new certificate"):
            world.wait_for_work("late")
            assert world.rotated("late") == set(devices)


def test_a_rotation_waits_for_the_window(world: World) -> None:
    """Given a window of two hours: a device that nears its end before it waits until it opens."""
    opens = hours_ago(18)
    ends_at = hours_ago(19.5) + 30 * DAY
    world.clock.to(hours_ago(20))
    window = {"start": clock_time(opens), "end": clock_time(opens + 2 * HOUR)}
    with given("a fleet that may be worked on for two hours a day"):
        living = world.living("window", 1, ends_at - 90 * DAY, ends_at)
    with living as devices:
        world.fleet("window", devices, updatePolicy={"timeWindow": window})
        with when("its device has 30 days left, an hour before the window opens"):
            world.clock.to(opens - HOUR)
        with then("the campaign waits for the window"):
            assert world.ordered("window") == {}
            (waited,) = world.decided("window", "CampaignWaited")
            assert waited.reason == "window-closed"
        with when("the window opens"):
            world.clock.to(opens)
        with then("the device is ordered at that instant, and proves a new certificate"):
            assert world.ordered("window") == {devices[0]: opens}
            world.wait_for_work("window")
            assert world.rotated("window") == set(devices)


def test_no_more_than_a_batch_rotate_at_once(world: World) -> None:
    """Given batchSize 2 and five devices that near their end together: two at a time, all five."""
    near = hours_ago(17)
    world.clock.to(near - HOUR // 2)
    with given("a fleet of five with batchSize 2 and certificates of the same second"):
        living = world.living("batch", 5, near - 60 * DAY, near + 30 * DAY)
    with living as devices:
        world.fleet("batch", devices, updatePolicy={**all_day(), "batchSize": 2})
        with when("all five have 30 days left"):
            world.clock.to(near)
        with then("all five rotate"):
            world.wait_for_work("batch")
            assert world.rotated("batch") == set(devices)
        with then("never more than two at once"):
            assert most_at_once(world, "batch") == 2


def most_at_once(world: World, fleet_id: str) -> int:
    """Return how many devices of a fleet were in work at once at most."""
    key = f"fleet:{fleet_id}".encode()
    now = most = 0
    for one in world.stack.fleet.read(DECISIONS, key=key):
        now += (one.record.name == "DeviceChosen") - (one.record.name == "DeviceFinished")
        most = max(most, now)
    return most


def test_staggered_devices_rotate_at_different_hours(world: World) -> None:
    """Given certRotation.staggered: six devices of the same second spread over half the time."""
    near, ends_at = hours_ago(15), hours_ago(-9)
    must_begin_at = ends_at - (ends_at - near) * 3 // 10
    world.clock.to(near - HOUR // 2)
    with given("a staggered fleet of six, certificates of three days, daysBeforeExpiry 1"):
        living = world.living("spread", 6, ends_at - 3 * DAY, ends_at)
    with living as devices:
        world.fleet(
            "spread",
            devices,
            updatePolicy=all_day(),
            certRotation={"daysBeforeExpiry": 1, "staggered": True},
        )
        with when("all six have a day left, and the hours pass"):
            for hour in range(10):
                world.clock.to(near + hour * HOUR)
                world.wait_for_work("spread")
        with then("all six have rotated, in the first half of the time there is"):
            assert world.rotated("spread") == set(devices)
            instants = sorted(world.ordered("spread").values())
            assert instants[-1] <= near + (must_begin_at - near) // 2 + HOUR
        with then("they did so at different hours"):
            assert len(set(instants)) >= 4, instants


def test_a_campaign_halts_when_too_many_fail(world: World) -> None:
    """Given failureThreshold 0.1: five devices that say nothing halt it, and nobody follows."""
    begin = hours_ago(5)
    world.clock.to(begin)
    devices = [f"mute-{number}" for number in range(12)]
    with given("a fleet of twelve with failureThreshold 0.1, and none of them is there"):
        for one in devices:
            world.register(one, begin, begin + 90 * DAY)
        policy = {**all_day(), "batchSize": 5, "failureThreshold": 0.1}
        world.fleet("mute", devices, updatePolicy=policy)
    with when("a rotation of all is ordered, with an hour for each"):
        world.campaigns.order("mute", "all", CampaignSpec("rotation", order_within_ms=HOUR))
    with then("five are ordered"):
        assert len(world.ordered("mute")) == 5
    with when("the hour is over"):
        world.clock.to(begin + HOUR)
    with then("the campaign halts at the fifth that has failed"):
        row = world.campaign("mute", "all")
        assert (row.state, row.reason) == ("halted", "failure-threshold")
        assert row.groups[0].timed_out == 5
    with when("two more hours pass"):
        at_halt = set(world.ordered("mute"))
        world.clock.to(begin + 3 * HOUR)
    with then("nobody else was ordered"):
        assert set(world.ordered("mute")) == at_halt
        assert world.campaign("mute", "all").state == "halted"


def test_the_history_replays_with_its_recorded_clock(world: World) -> None:
    """Given what the scenarios left: a replay gives the same rows, byte for byte."""
    with then("both machines' rows are what the history says"):
        verdicts = world.stack.json("replay")
        assert {one["machine"] for one in verdicts} == {"devices", "fleets"}
        assert all(one["identical"] for one in verdicts), verdicts
