"""Processes are killed while devices report: nothing recorded is lost, no effect is doubled."""

import asyncio
import json
import os
import random
from collections import Counter
from pathlib import Path

from client.demo import fleet as demo
from client.fleet import Fleet
from device.simulator import Plan, Simulator
from schemas.decisions import Decision
from schemas.topics import DECISIONS, DEVICE_EVENTS
from streams import replay
from tests.helpers.stack import RunningStack, running_stack
from tests.helpers.wait import until, until_async

KILLS = 200 if os.environ.get("FLEETCERT_CHAOS") else 10
DEVICES = 10
RECOVERY_SECONDS = 60.0


def recorded(ledger: Path) -> set[tuple[str, int, int]]:
    """Return what the devices were told is recorded."""
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    return {
        (one["device"], one["boot"], one["sequence"]) for one in lines if one["what"] == "recorded"
    }


def in_history(fleet: Fleet) -> set[tuple[str, int, int]]:
    """Return the numbers of all device events in the history."""
    return {
        (found.record.device_id, found.record.numbering.boot, found.record.numbering.sequence)
        for found in fleet.read(DEVICE_EVENTS)
        if getattr(found.record, "numbering", None) is not None
    }


async def hurt(stack: RunningStack, simulator: Simulator, seed: int) -> None:
    """Kill one process after another; each time wait until all run and devices are heard."""
    chance = random.Random(seed)
    for _ in range(KILLS):
        name = chance.choice(sorted(stack.processes()))
        stack.kill(name)
        await until_async(
            lambda name=name: not stack.processes()[name]["pid"] or not stack.all_run(),
            within=5,
            describe=f"{name} is dead",
        )
        await until_async(stack.all_run, within=RECOVERY_SECONDS, describe=f"{name} is back")
        heard = simulator.ledger.counts["recorded"]
        await until_async(
            lambda heard=heard: simulator.ledger.counts["recorded"] > heard + DEVICES,
            within=RECOVERY_SECONDS,
            describe=f"devices are heard after {name} was killed (seed {seed})",
        )


async def test_nothing_recorded_is_lost_while_processes_are_killed(tmp_path: Path) -> None:
    """Whatever process dies: what a device was told is recorded stands in the history."""
    seed = random.SystemRandom().randrange(1_000_000)
    with running_stack(tmp_path / "stack") as stack:
        ca_file = stack.layout.pki_dir / "service-ca" / "ca.pem"
        plan = Plan(
            tmp_path / "devices", "localhost", stack.layout.device_port, ca_file, DEVICES, rate=5.0
        )
        simulator = Simulator(plan)
        fleet = stack.fleet
        demo.enrol(stack.authorities, plan.directory, simulator.behaviours, fleet)
        living = asyncio.create_task(simulator.run())
        await hurt(stack, simulator, seed)
        simulator.stop()
        await living
        told = recorded(plan.directory / "ledger.jsonl")
        assert len(told) > DEVICES * KILLS
        assert told <= in_history(fleet), f"seed {seed}"
        ids = Counter(
            one.record.decision_id
            for one in fleet.read(DECISIONS)
            if isinstance(one.record, Decision)
        )
        assert [one for one, count in ids.items() if count > 1] == [], f"seed {seed}"
        for number in fleet.partitions(DEVICE_EVENTS):
            verdict = until(
                lambda number=number: replay.verify(stack.layout.bootstrap, number),
                within=30,
            )
            assert verdict.identical, f"{verdict.difference} (seed {seed})"
