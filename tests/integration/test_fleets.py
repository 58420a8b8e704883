"""Fleets on a running stack: real devices, made members, rotated and updated by campaigns."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from client.demo import fleet as demo
from client.errors import FleetError
from client.fleets import Fleets
from device.simulator import Plan, Simulator, behaviours
from schemas.decisions import Decision
from schemas.fleet_states import MemberRow
from schemas.topics import DECISIONS
from tests.helpers.stack import RunningStack
from tests.helpers.wait import until, until_async

FLEET, PREFIX, COUNT, BATCH = "wells", "well", 6, 2
CONFIG = {
    "maxDevices": COUNT,
    "updatePolicy": {
        "batchSize": BATCH,
        "timeWindow": {"start": "00:00", "end": "24:00", "timeZone": "Europe/Berlin"},
    },
    "certRotation": {"staggered": False},
}
UPDATE = {
    "kind": "update",
    "artefact": {"version": "2", "uri": "https://updates/2", "sha256": "ab" * 32},
}
DEVICES = [f"{PREFIX}-{number:05d}" for number in range(1, COUNT + 1)]


@asynccontextmanager
async def living(stack: RunningStack, directory: Path) -> AsyncIterator[Simulator]:
    """Let six registered devices live, each with a certificate of ninety days."""
    plan = Plan(
        directory=directory,
        host="localhost",
        port=stack.layout.device_port,
        ca_file=stack.layout.pki_dir / "service-ca" / "ca.pem",
        count=COUNT,
        prefix=PREFIX,
    )
    demo.enrol(stack.authorities, directory, behaviours(plan), stack.fleet, near_expiry=0)
    simulator = Simulator(plan)
    running = asyncio.create_task(simulator.run())
    try:
        yield simulator
    finally:
        simulator.stop()
        await running


def members(stack: RunningStack) -> list[MemberRow]:
    """Return the members of the fleet."""
    with Fleets(stack.layout.bootstrap) as fleets:
        return fleets.members(FLEET)


def decisions(stack: RunningStack) -> list[Decision]:
    """Return what was decided about the fleet, in order."""
    key = f"fleet:{FLEET}".encode()
    found = [one.record for one in stack.fleet.read(DECISIONS, key=key)]
    return [one for one in found if isinstance(one, Decision)]


def refused_as_one_more(stack: RunningStack) -> str:
    """Return what the machine says of a member beyond maxDevices."""
    with Fleets(stack.cluster) as fleets, pytest.raises(FleetError) as refused:
        fleets.add_device(FLEET, "one-more")
    return str(refused.value)


async def test_a_fleet_lives_through_rotation_and_a_bad_update(
    stack: RunningStack, tmp_path: Path
) -> None:
    """Filled, rotated by itself when its days change, two at a time; a bad update halts."""

    async def told(*arguments: str, code: int = 0) -> str:
        done = await asyncio.to_thread(stack.command, *arguments)
        assert done.returncode == code, done.stderr
        return done.stderr if code else done.stdout

    async with living(stack, tmp_path / "devices") as simulator:
        await told("fleet", "create", FLEET, "--config", json.dumps(CONFIG))
        for one in DEVICES:
            await told("fleet", "add", FLEET, one)
        await until_async(
            lambda: asyncio.to_thread(all_confirmed, stack),
            within=60,
            describe=lambda: f"every device is a member: {members(stack)}",
        )
        await told("fleet", "config", FLEET, '{"certRotation": {"daysBeforeExpiry": 90}}')
        await until_async(
            lambda: asyncio.to_thread(all_rotated, stack),
            within=120,
            describe=lambda: f"every member has rotated: {members(stack)}",
        )
        held = {one: stack.fleet.device(one) for one in DEVICES}
        assert all(len(row.certificates) == 2 for row in held.values())
        assert "no device 'one-more'" in await told("fleet", "add", FLEET, "one-more", code=1)
        assert "maxDevices is 6" in await asyncio.to_thread(refused_as_one_more, stack)
        planned = json.loads(
            await told("campaign", "plan", FLEET, "fw", "--spec", json.dumps(UPDATE), "--json")
        )
        assert planned["enrolled"] == COUNT
        await told("campaign", "create", FLEET, "fw", "--spec", json.dumps(UPDATE))
        await until_async(
            lambda: asyncio.to_thread(is_halted, stack, "fw"),
            within=60,
            describe="the update has halted",
        )
        assert "halted (failure-threshold" in await told("campaign", "show", FLEET, "fw")
        await told("campaign", "abort", FLEET, "fw")
        installed: list[str] = []
        for agent in simulator.agents.values():
            agent.handlers.installer = lambda update: installed.append(update.version)
        await told("campaign", "create", FLEET, "fw-2", "--spec", json.dumps(UPDATE))
        assert "completed (all-done" in await told("campaign", "watch", FLEET, "fw-2")
        assert installed.count("2") >= COUNT
    assert most_in_work(decisions(stack)) == BATCH
    verdicts = stack.json("replay")
    assert {one["machine"] for one in verdicts} == {"devices", "fleets"}
    assert all(one["identical"] for one in verdicts), verdicts


def all_confirmed(stack: RunningStack) -> bool:
    """Tell whether the device machine has agreed to every member."""
    return [one.confirmed for one in members(stack)] == [True] * COUNT


def all_rotated(stack: RunningStack) -> bool:
    """Tell whether every member's rotation has succeeded."""
    ended = [one.last.outcome for one in members(stack) if one.last]
    return ended == ["succeeded"] * COUNT


def is_halted(stack: RunningStack, campaign_id: str) -> bool:
    """Tell whether a campaign has halted."""
    states = {one["campaign_id"]: one["state"] for one in stack.json("campaign", "list", FLEET)}
    return states[campaign_id] == "halted"


def most_in_work(decided: list[Decision]) -> int:
    """Return how many devices were in work at once at most."""
    now = most = 0
    for one in decided:
        now += (one.name == "DeviceChosen") - (one.name == "DeviceFinished")
        most = max(most, now)
    return most


def test_a_configuration_is_changed_shown_and_rolled_back(stack: RunningStack) -> None:
    """Every change is a version; what the machine refuses is an error with its words."""
    with Fleets(stack.layout.bootstrap) as fleets:
        fleets.create("valves", config={"certRotation": {"daysBeforeExpiry": 45}})
        assert fleets.update_config("valves", {"updatePolicy": {"batchSize": 3}}) == 2
        row = fleets.fleet("valves")
        assert (row.config.cert_rotation.days_before_expiry, row.config_version) == (45, 2)
        with pytest.raises(FleetError, match="expected version 1, it is 2"):
            fleets.update_config("valves", {"maxDevices": 5}, expected_version=1)
        with pytest.raises(FleetError, match="did you mean updatePolicy"):
            fleets.update_config("valves", {"updatepolicy": {}})
        assert fleets.roll_back("valves", 1) == 3
        assert fleets.fleet("valves").config.update_policy.batch_size == 10
        with pytest.raises(FleetError, match="The fleet id is taken"):
            fleets.create("valves")
        zone = {"updatePolicy": {"timeWindow": {"timeZone": "Mars/Olympus"}}}
        with pytest.raises(FleetError, match="is no time zone"):
            fleets.update_config("valves", zone)
    shown = stack.command("fleet", "history", "valves").stdout
    assert "updatePolicy.batchSize" in shown


def test_a_device_that_is_not_registered_is_no_member(stack: RunningStack) -> None:
    """The device machine has the last word, and the fleet lets it go."""
    with Fleets(stack.layout.bootstrap) as fleets:
        fleets.create("ghosts", devices=("never-seen",))
        until(lambda: fleets.fleet("ghosts").members == 0, within=20, describe="the ghost has left")
    key = b"fleet:ghosts"
    left = [
        one.record.reason
        for one in stack.fleet.read(DECISIONS, key=key)
        if isinstance(one.record, Decision) and one.record.name == "MemberLeft"
    ]
    assert left == ["unknown-device"]
