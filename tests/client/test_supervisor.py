"""The supervisor's care for one process: back-off, haste, and a full volume."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from client.local.processes import Process
from client.local.supervisor import BACKOFF_SECONDS, FULL, RUNNING, WAITING, Child, back_off
from tests.helpers.wait import until_async

SLEEPS = ("sleep", "600")
ENDS = (sys.executable, "-c", "")


@contextlib.asynccontextmanager
async def kept(process: Process, folder: Path) -> AsyncIterator[Child]:
    """Keep a process running for the time of the block."""
    child = Child(process, folder, lambda: None)
    keeping = asyncio.create_task(child.keep())
    try:
        yield child
    finally:
        await child.stop()
        await keeping


def test_a_process_that_was_healthy_starts_anew_at_once() -> None:
    """Only ends in a row make the wait longer, up to its most."""
    waits = [back_off(failures) for failures in range(len(BACKOFF_SECONDS) + 3)]
    assert waits[0] == min(BACKOFF_SECONDS) < 1
    assert waits == sorted(waits)
    assert waits[-1] == max(BACKOFF_SECONDS)


async def test_haste_ends_the_wait(tmp_path: Path) -> None:
    """A process that waits for its back-off is started when another one has become ready."""
    async with kept(Process("ends", ENDS, lambda: False), tmp_path) as child:
        await until_async(lambda: child.restarts == 4 and child.state == WAITING)
        assert back_off(child.restarts) >= 5
        child.hurry()
        await until_async(lambda: child.restarts == 5, within=back_off(4) / 2)


async def test_a_process_that_ended_for_want_of_room_waits_for_it(tmp_path: Path) -> None:
    """It had noticed first; it is not tried again while its volume is full."""
    process = Process("ends", ENDS, lambda: False, volume=tmp_path, room_min=1 << 62)
    async with kept(process, tmp_path) as child:
        await until_async(lambda: child.restarts == 4 and child.state == WAITING)
        child.look_for_room()
        assert child.state == FULL
        child.hurry()
        child.process = replace(process, room_min=1)
        child.look_for_room()
        await until_async(lambda: child.restarts == 5, within=back_off(4) / 2)


async def test_a_full_volume_stops_the_process_until_there_is_room(tmp_path: Path) -> None:
    """It is stopped with an alarm that says what to do, not started while full, then by itself."""
    process = Process("sleeps", SLEEPS, lambda: True, volume=tmp_path, room_min=1)
    async with kept(process, tmp_path) as child:
        await until_async(lambda: child.state == RUNNING)
        assert child.look_for_room() > 1
        assert not child.alarm
        child.process = replace(process, room_min=1 << 62)
        child.look_for_room()
        assert "make room" in child.alarm
        await until_async(lambda: child.state == FULL)
        child.hurry()
        child.process = process
        child.look_for_room()
        assert not child.alarm
        await until_async(lambda: child.state == RUNNING)
