"""Fault points: named, closed, and deadly only to the one that is armed."""

import asyncio

import pytest

from device import faults


def test_every_durable_write_has_a_point_on_each_side() -> None:
    """The list of points is the list of writes, before and after."""
    assert len(faults.POINTS) == 2 * len(faults.WRITES)
    assert "store:before-current" in faults.POINTS
    assert len(faults.UPDATE_POINTS) == 2 * len(faults.UPDATE_WRITES)
    assert not set(faults.POINTS) & set(faults.UPDATE_POINTS)


def test_an_unknown_point_is_a_bug() -> None:
    """A name that is not listed raises at once, armed or hit."""
    with pytest.raises(ValueError, match="no fault point"):
        faults.point("store:nowhere")
    with pytest.raises(ValueError, match="no fault point"):
        faults.arm("store:nowhere")


async def test_an_armed_task_dies_once_and_alone() -> None:
    """Only the task that armed the point, and its children, die there; once."""

    async def doomed() -> int:
        faults.arm("store:before-current")
        with pytest.raises(faults.Died):
            faults.point("store:before-current")
        faults.point("store:before-current")
        return 1

    async def other() -> int:
        faults.point("store:before-current")
        return 2

    assert await asyncio.gather(asyncio.create_task(doomed()), asyncio.create_task(other())) == [
        1,
        2,
    ]
