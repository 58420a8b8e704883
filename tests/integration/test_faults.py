"""Processes are killed and stopped while devices report and rotate: nothing is lost or doubled."""

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

from client.demo import fleet as demo
from client.fleet import Fleet, FleetError
from device.simulator import Plan, Simulator
from schemas.states import Idle, Policy
from tests.helpers import ledger
from tests.helpers.chaos import SEED_VARIABLE, Chaos, Fault, Probe, seed
from tests.helpers.stack import RunningStack, running_stack
from tests.helpers.wait import lasting, until_async

LARGE = bool(os.environ.get("FLEETCERT_CHAOS"))
FAULTS = 200 if LARGE else 10
KAFKA_AWAY_SECONDS = 60.0 if LARGE else 15.0
DEVICES = 10
RATE = 5.0
WHOLE_SECONDS = 90.0
ROTATED_SECONDS = 120.0
ORDER_SECONDS = 0.7
POLICY = Policy(
    stagger_ms=0,
    answer_within_ms=15_000,
    issue_within_ms=15_000,
    prove_within_ms=20_000,
    grace_ms=3_000,
    backoff_ms=1_000,
    backoff_max_ms=3_000,
    attempts_max=100,
)


@contextlib.asynccontextmanager
async def rotating(fleet: Fleet, devices: list[str], chance: random.Random) -> AsyncIterator[None]:
    """Order rotations all the time, as far as Kafka takes them."""

    async def order() -> None:
        while True:
            with contextlib.suppress(FleetError):
                await asyncio.to_thread(fleet.rotate, chance.choice(devices))
            await lasting(ORDER_SECONDS)

    task = asyncio.create_task(order())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def hurt(stack: RunningStack, simulator: Simulator, number: int) -> Chaos:
    """Inflict all faults, Kafka's long absence in their middle; return how it went."""
    probe = Probe(stack, lambda: simulator.ledger.counts["recorded"])
    chaos = Chaos(stack, probe, number)
    for count in range(FAULTS):
        if count == FAULTS // 2:
            await chaos.inflict(Fault("kafka", KAFKA_AWAY_SECONDS), WHOLE_SECONDS)
        await chaos.inflict(chaos.choose(), WHOLE_SECONDS)
    return chaos


def all_idle(fleet: Fleet) -> bool:
    """Tell whether no rotation is under way."""
    rows = fleet.devices().values()
    return len(rows) == DEVICES and all(isinstance(one.rotation, Idle) for one in rows)


async def test_nothing_is_lost_or_doubled_while_processes_are_killed_and_stopped(
    tmp_path: Path,
) -> None:
    """Whatever process dies or sleeps, Kafka's absence included: all recovers unattended.

    What devices kept stands in the history; a decision, a certificate of a request and a key of
    a command are there once; rows equal the replay; every device has a working identity.
    """
    number = seed()
    hint = f"{SEED_VARIABLE}={number}"
    print(hint)
    with running_stack(tmp_path / "stack") as stack:
        fleet = stack.fleet
        fleet.activate(POLICY)
        ca_file = stack.layout.pki_dir / "service-ca" / "ca.pem"
        plan = Plan(
            tmp_path / "devices", "localhost", stack.layout.device_port, ca_file, DEVICES, rate=RATE
        )
        simulator = Simulator(plan)
        demo.enrol(stack.authorities, plan.directory, simulator.behaviours, fleet)
        living = asyncio.create_task(simulator.run())
        async with rotating(fleet, list(simulator.behaviours), random.Random(number)):
            chaos = await hurt(stack, simulator, number)
        print(chaos.table())
        await until_async(
            lambda: asyncio.to_thread(all_idle, fleet),
            ROTATED_SECONDS,
            f"all rotations end ({hint})",
        )
        simulator.stop()
        await living
        assert simulator.left() == 0, hint
        assert sum(row.rotations for row in fleet.devices().values()) >= FAULTS, hint
        ledgers = [plan.directory / "ledger.jsonl"]
        assert len(ledger.told(ledgers, "recorded")) > DEVICES * FAULTS
        ledger.assert_nothing_lost_or_doubled(fleet, ledgers, hint)
        ledger.assert_no_device_is_locked_out(fleet, plan.directory, hint)
        ledger.assert_rows_are_the_replay(fleet, stack.layout.bootstrap, hint)
