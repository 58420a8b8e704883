"""A device crashes at each state of its rotation, and is renewed all the same."""

import pytest

from schemas.events import CertificateIssued, CertificateRevoked
from schemas.states import Idle
from streams.core import certificate, rotation
from tests.simulation.world import Device, World

STATES = [one for one in rotation.MOVES if one not in ("idle", "abandoned")]
STEPS_MAX = 200


def step(world: World) -> None:
    """Let one thing happen: what is on its way first, then time."""
    for waiting, deliver in (
        (world.up, world.deliver_up),
        (world.asked, world.deliver_asked),
        (world.down, world.deliver_down),
    ):
        if waiting:
            deliver()
            return
    world.tick(1_000)


def reach(world: World, device: Device, state: str) -> None:
    """Go on until the saga stands there; `failed` comes of a command that is lost."""
    for _ in range(STEPS_MAX):
        if rotation.name(world.row(device).rotation) == state:
            return
        if state == "failed":
            world.down.clear()
        step(world)
    raise AssertionError(f"{state} was never reached")


def lose(world: World, device: Device) -> None:
    """Crash: the session is gone, and what the device had said and nobody had yet recorded."""
    device.crash()
    world.up = [one for one in world.up if isinstance(one, CertificateIssued | CertificateRevoked)]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("away", [0, 70_000, 400_000], ids=["at once", "late", "very late"])
@pytest.mark.parametrize("times", [1, 3])
def test_a_device_that_crashes_in_a_state_is_renewed_in_the_end(
    state: str, away: int, times: int
) -> None:
    """Back at once, after its deadline or much later; once or again and again; never locked out."""
    world = World(1)
    (device,) = world.devices.values()
    first = device.identities[0]
    world.connect(device)
    reach(world, device, state)
    for _ in range(times):
        lose(world, device)
        for _ in range(away // 10_000):
            world.tick(10_000)
        world.connect(device)
        assert world.locked_out() == []
        step(world)
    for _ in range(STEPS_MAX):
        world.settle()
        world.tick(5_000)
        assert world.locked_out() == []
        if isinstance(world.row(device).rotation, Idle) and world.row(device).rotations:
            break
    row = world.row(device)
    assert isinstance(row.rotation, Idle)
    assert certificate.active(row).fingerprint != first
    old = certificate.find(row, first)
    assert old is not None
    assert old.status == certificate.RETIRED
