"""Device processes killed at every durable write and at random, on the real stack."""

import asyncio
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from device import faults
from schemas.states import Policy
from tests.helpers import ledger
from tests.helpers.chaos import SEED_VARIABLE, seed
from tests.helpers.devices import Device, devices
from tests.helpers.stack import RunningStack
from tests.helpers.wait import lasting, until_async

LARGE = bool(os.environ.get("FLEETCERT_CHAOS"))
POINTS = faults.POINTS if LARGE else (
    "outbox:after-item",
    "outbox:before-recorded",
    "store:after-pending",
    "store:before-identity",
    "store:after-candidate",
    "store:before-current",
)  # fmt: skip
KILLED, KILLS = (10, 300) if LARGE else (3, 9)
LIVES_SECONDS = (0.5, 8.0)
ROTATED_SECONDS = 60.0
QUICK = Policy(
    stagger_ms=0,
    answer_within_ms=15_000,
    issue_within_ms=15_000,
    prove_within_ms=20_000,
    grace_ms=2_000,
    backoff_ms=500,
    backoff_max_ms=1_000,
    attempts_max=100,
)


@pytest.fixture
def quick(stack: RunningStack) -> Iterator[RunningStack]:
    """The stack under a policy of seconds."""
    with stack.under(QUICK):
        yield stack


async def rotated(device: Device) -> None:
    """Wait until the device has rotated."""
    await until_async(
        lambda: asyncio.to_thread(device.rotated), ROTATED_SECONDS, f"{device.device_id} rotates"
    )


async def test_killed_at_a_durable_write_a_device_rotates_all_the_same(
    quick: RunningStack, tmp_path: Path
) -> None:
    """Dead at the point and started again: the rotation ends, nothing kept is lost or doubled."""

    async def live(device: Device, point: str) -> None:
        await device.start(point)
        await asyncio.to_thread(quick.fleet.rotate, device.device_id)
        assert await device.killed(), f"{point} was never reached"
        await device.start()
        await rotated(device)
        assert await device.finish() == 0

    names = [f"dies.{point.replace(':', '.')}" for point in POINTS]
    async with devices(quick, tmp_path, names) as made:
        await asyncio.gather(*map(live, made, POINTS))
        ledgers = [one.ledger for one in made]
        ledger.assert_nothing_lost_or_doubled(quick.fleet, ledgers, "fault points")
        ledger.assert_no_device_is_locked_out(quick.fleet, tmp_path, "fault points")


async def test_killed_at_random_a_device_loses_nothing(quick: RunningStack, tmp_path: Path) -> None:
    """Devices that are killed at any moment report and rotate; what they kept is in the history."""
    number = seed()
    hint = f"{SEED_VARIABLE}={number}"
    print(hint)
    chance = random.Random(number)
    moments = [
        [chance.uniform(*LIVES_SECONDS) for _ in range(KILLS // KILLED)] for _ in range(KILLED)
    ]

    async def live(device: Device, lives: list[float]) -> None:
        for seconds in lives:
            await device.start()
            await asyncio.to_thread(quick.fleet.rotate, device.device_id)
            await lasting(seconds)
            device.say(2)
            assert device.process is not None
            device.process.kill()
            assert await device.killed()
        await device.start()
        await asyncio.to_thread(quick.fleet.rotate, device.device_id)
        await rotated(device)
        assert await device.finish() == 0

    async with devices(quick, tmp_path, [f"killed.{n}" for n in range(KILLED)]) as made:
        await asyncio.gather(*map(live, made, moments))
        ledgers = [one.ledger for one in made]
        ledger.assert_nothing_lost_or_doubled(quick.fleet, ledgers, hint)
        ledger.assert_no_device_is_locked_out(quick.fleet, tmp_path, hint)
