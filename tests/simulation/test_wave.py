"""A thousand devices live through a rotation wave in a bad network; a failure is a seed."""

import os
import random
import secrets

import pytest

from schemas.states import Idle, PartitionRow
from streams.core import certificate
from streams.core.deadlines import Deadlines
from streams.core.device import MACHINE
from streams.core.machine import fold
from streams.core.partition import Partition
from tests.simulation.world import POLICY, World

DEVICES = 1_000
STEPS_MAX = 120
DROPPED, REPEATED, CRASHED = 0.04, 0.04, 0.002
SEED = int(os.environ.get("FLEETCERT_SEED") or secrets.randbits(32))


def disturb(world: World, chance: random.Random) -> None:
    """Deliver what is on its way, but drop, repeat and reorder some of it; crash some devices."""
    for waiting, deliver in (
        (world.up, world.deliver_up),
        (world.asked, world.deliver_asked),
        (world.down, world.deliver_down),
    ):
        for _ in range(len(waiting)):
            index = chance.randrange(min(3, len(waiting)))
            luck = chance.random()
            if luck < DROPPED:
                waiting.pop(index)
                continue
            if luck < DROPPED + REPEATED:
                waiting.append(waiting[index])  # type: ignore[attr-defined]
            deliver(index)
    for device in world.devices.values():
        if chance.random() < CRASHED:
            device.crash()
        if not device.session and chance.random() < 0.5:
            world.connect(device)


def wave(seed: int, devices: int = DEVICES) -> World:
    """Run the wave: a bad network first, a good one then, until every device has rotated."""
    chance, world = random.Random(seed), World(devices)
    for step in range(STEPS_MAX):
        world.tick(5_000)
        if step < 20:
            disturb(world, chance)
            continue
        world.settle()
        if all(isinstance(row.rotation, Idle) and row.rotations for row in world.rows.values()):
            return world
    raise AssertionError(f"the wave did not end; FLEETCERT_SEED={seed}")


@pytest.mark.parametrize(("seed", "devices"), [(1, 100), (SEED, DEVICES)])
def test_a_wave_ends_with_every_device_renewed_and_none_locked_out(seed: int, devices: int) -> None:
    """Every device is idle, renewed, reachable; the totals agree; a replay gives the same bytes."""
    again = f"FLEETCERT_SEED={seed}"
    world = wave(seed, devices)
    assert world.locked_out() == [], again
    for device in world.devices.values():
        current = certificate.active(world.row(device))
        assert current.fingerprint == device.identities[0], again
        assert current.serial.startswith("sign-"), again
    totals = world.partition.row.totals
    assert (totals.registered, totals.rotating) == (devices, 0), again
    assert totals.rotations == sum(row.rotations for row in world.rows.values()), again
    replayed = World(0)
    replayed.partition = Partition(0, PartitionRow(policy=POLICY), replayed.rows.get, Deadlines())
    folded = fold(MACHINE, replayed.partition, world.entries)
    replayed.rows.update(folded.rows)
    assert replayed.encoded() == world.encoded(), again
    assert folded.outputs == world.outputs, again
