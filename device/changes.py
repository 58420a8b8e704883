"""Waiting for a condition that this process itself brings about, without polling."""

import asyncio
from collections.abc import Callable


class Changes:
    """Whoever changes something calls `tell`; whoever waits has its condition looked at then."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def tell(self) -> None:
        """Make everyone who waits look at their condition."""
        for one in self._waiting:
            if not one.done():
                one.set_result(None)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when the condition holds."""
        while not condition():
            told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.add(told)
            try:
                await told
            finally:
                self._waiting.discard(told)
