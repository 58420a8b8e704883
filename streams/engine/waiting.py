"""Batches that wait for their partition: in order, bounded, and taken all at once.

A fetch brings what was written since the fetch before, however little: a step and a transaction
for each would bind a worker that is behind to the round trips of its commits. What comes while a
batch is applied is one batch afterwards.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence

from streams.engine.program import Input

WAITING_BYTES_MAX = 1_048_576
"""Bytes of values that wait for a partition; beyond, whoever brings more waits."""


class Waiting:
    """What came for one partition and is not applied yet."""

    def __init__(self, records_max: int, bytes_max: int = WAITING_BYTES_MAX) -> None:
        self._records_max, self._bytes_max = records_max, bytes_max
        self._batches: list[Sequence[Input]] = []
        self._records = self._bytes = 0
        self._closed = False
        self._changed = asyncio.Condition()

    async def put(self, batch: Sequence[Input]) -> None:
        """Add a batch behind the others, once it has room or is the only one; none once closed."""
        size = sum(len(one.value or b"") for one in batch)
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or self._fits(len(batch), size))
            if not self._closed:
                self._batches.append(batch)
                self._records += len(batch)
                self._bytes += size
                self._changed.notify_all()

    async def take(self) -> Sequence[Sequence[Input]]:
        """Return the batches that wait, as soon as there are any; none once closed."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or self._batches)
            taken, self._batches, self._records, self._bytes = self._batches, [], 0, 0
            self._changed.notify_all()
            return taken

    async def close(self) -> None:
        """Forget what waits, and let go of all who wait."""
        async with self._changed:
            self._closed, self._batches = True, []
            self._changed.notify_all()

    def _fits(self, records: int, size: int) -> bool:
        return not self._batches or (
            self._records + records <= self._records_max and self._bytes + size <= self._bytes_max
        )


def joined(
    batches: Iterable[Sequence[Input]],
    expected: int,
    missing: Callable[[int, int], Iterable[Input]],
) -> tuple[list[Input], int]:
    """Return the records from offset `expected` on, once each, and how many came in vain.

    Within a batch nothing is missing but what is no record; between two, Faust may have dropped
    one that a rebalance overtook, or have gone back: `missing` reads what stands between.
    """
    records: list[Input] = []
    came = 0
    for batch in batches:
        came += len(batch)
        new = [one for one in batch if one.offset >= expected]
        if not new:
            continue
        if new[0].offset > expected:
            between = list(missing(expected, new[0].offset))
            came += len(between)
            records += between
        records += new
        expected = new[-1].offset + 1
    return records, came - len(records)
