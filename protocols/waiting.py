"""Work that runs side by side until a part of it ends: sessions are made of it."""

import asyncio
from collections.abc import Awaitable
from typing import Any


async def until_first(*work: Awaitable[Any]) -> None:
    """Run all of this until the first of it ends, end the others, and raise what it raised."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
