"""Wait for a condition with a deadline: what the tests use where others sleep."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import TypeVar

T = TypeVar("T")

WITHIN_SECONDS = 10.0
POLL_SECONDS = 0.02


def until(
    condition: Callable[[], T | None],
    within: float = WITHIN_SECONDS,
    describe: str | Callable[[], str] = "the condition",
) -> T:
    """Return the first truthy value of `condition`; AssertionError after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(_missed(describe, within, value))
        time.sleep(POLL_SECONDS)


async def until_async(
    condition: Callable[[], Awaitable[T | None] | T | None],
    within: float = WITHIN_SECONDS,
    describe: str | Callable[[], str] = "the condition",
) -> T:
    """Like `until`, for a plain or asynchronous condition; other tasks run meanwhile."""
    deadline = time.monotonic() + within
    while True:
        answer = condition()
        value = await answer if isawaitable(answer) else answer
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(_missed(describe, within, value))
        await asyncio.sleep(POLL_SECONDS)


async def printed(
    process: asyncio.subprocess.Process, within: float, given: bytes | None = None
) -> tuple[bytes, bytes]:
    """Return what a process prints until it ends: standard output, standard error.

    One that does not end `within` seconds is killed. Raises TimeoutError.
    """
    try:
        async with asyncio.timeout(within):
            return await process.communicate(given)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def lasting(seconds: float) -> None:
    """Let a fault have its own length. No way to wait for something to come true."""
    await asyncio.sleep(seconds)


def _missed(describe: str | Callable[[], str], within: float, last: object) -> str:
    what = describe() if callable(describe) else describe
    return f"{what} did not come true within {within:g} s (last value: {last!r})"
