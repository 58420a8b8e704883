"""Batches that wait for their partition: in order, bounded, and taken all at once.

A fetch brings what was written since the fetch before, however little: a step and a transaction
for each would bind a worker that is behind to the round trips of its commits. What comes while a
batch is applied is one batch afterwards.
"""

import asyncio
from collections.abc import Sequence

from streams.engine.program import Input

WAITING_BYTES_MAX = 1_048_576
"""Bytes of values that wait for a partition; beyond, whoever brings more waits."""


class Waiting:
    """What came for one partition and is not applied yet."""

    def __init__(self, records_max: int, bytes_max: int = WAITING_BYTES_MAX) -> None:
        self._records_max, self._bytes_max = records_max, bytes_max
        self._records: list[Input] = []
        self._bytes = 0
        self._closed = False
        self._changed = asyncio.Condition()

    async def put(self, batch: Sequence[Input]) -> None:
        """Add a batch behind the others, once it has room or is the only one; none once closed."""
        size = sum(len(one.value or b"") for one in batch)
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or self._fits(len(batch), size))
            if not self._closed:
                self._records += batch
                self._bytes += size
                self._changed.notify_all()

    async def take(self) -> Sequence[Input]:
        """Return all that waits, as soon as there is something; nothing once closed."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or self._records)
            taken, self._records, self._bytes = self._records, [], 0
            self._changed.notify_all()
            return taken

    async def close(self) -> None:
        """Forget what waits, and let go of all who wait."""
        async with self._changed:
            self._closed, self._records = True, []
            self._changed.notify_all()

    def _fits(self, records: int, size: int) -> bool:
        return not self._records or (
            len(self._records) + records <= self._records_max
            and self._bytes + size <= self._bytes_max
        )
