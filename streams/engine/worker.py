"""The partitions of a program that this process owns: opened, worked on, closed.

A partition is opened in the background when it is assigned, worked on by a task of its own, and
closed when it is revoked. Folding, Kafka and RocksDB run in threads, so that the event loop keeps
its heartbeats. Any failure of the engine ends the process: the supervisor starts it anew, and the
recovery is the same as ever.
"""

import asyncio
import functools
import os
import threading
import time
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import structlog
from confluent_kafka import Producer

from schemas import codec
from schemas.envelope import BROADCAST_KEY
from schemas.events import ClockTicked
from schemas.topics import PARTITIONER
from streams.core.partition import Folded
from streams.engine.failure import fail
from streams.engine.program import Input, Program
from streams.engine.recovery import Abandoned
from streams.engine.table import Place, Standing, TablePartition
from streams.engine.waiting import Waiting

R = TypeVar("R", bound=Any)
log = structlog.get_logger()

TICK_SECONDS_MAX = 5.0
"""A tick that Kafka has not taken by then is dropped: it would be refused for its age."""


class Meter(Protocol):
    """What the worker tells of itself."""

    def opened(self, partition: int, standing: Standing, seconds: float) -> None:
        """Show a partition that was opened."""

    def applied(
        self, partition: int, folded: Folded[Any], standing: Standing, seconds: float
    ) -> None:
        """Count one batch, and show how the partition stands behind it."""

    def closed(self, partition: int) -> None:
        """Forget what was shown of a partition."""


@dataclass(frozen=True, slots=True)
class Owned(Generic[R]):
    """A partition that this process owns: its opening, how to end that early, the work on it."""

    opening: asyncio.Task[TablePartition[R] | None]
    abandon: threading.Event
    waiting: Waiting
    working: asyncio.Task[None]

    @property
    def table(self) -> TablePartition[R] | None:
        """The partition, once it is open."""
        return self.opening.result() if self.opening.done() else None


class Worker(Generic[R]):
    """All partitions of one program that this process owns."""

    def __init__(self, program: Program[R], place: Place, meter: Meter, batch_max: int) -> None:
        """Apply at most `batch_max` records at once."""
        self._program, self._place, self._meter = program, place, meter
        self._batch_max = batch_max
        self._owned: dict[int, Owned[R]] = {}
        self._busy = asyncio.Lock()

    @functools.cached_property
    def _ticks(self) -> Producer:
        return Producer(
            self._place.cluster.settings(
                {
                    "partitioner": PARTITIONER,
                    "acks": "all",
                    "enable.idempotence": True,
                    "message.timeout.ms": int(TICK_SECONDS_MAX * 1000),
                }
            )
        )

    def progress(self) -> Mapping[int, int | None]:
        """Return the applied offset of every owned partition, None while it is being opened."""
        owned = list(self._owned.items())
        return {number: None if one.table is None else one.table.applied for number, one in owned}

    def assigned(self, partitions: Iterable[int]) -> None:
        """Open what is new, in the background, and work on what comes for it."""
        for number in partitions:
            if number not in self._owned:
                abandon, waiting = threading.Event(), Waiting(self._batch_max)
                opening = asyncio.create_task(self._open(number, abandon))
                working = asyncio.create_task(self._work(number, opening, waiting))
                self._owned[number] = Owned(opening, abandon, waiting, working)

    async def revoked(self, partitions: Iterable[int]) -> None:
        """Close what is gone; a batch in work is finished first, an opening is abandoned."""
        for number in partitions:
            owned = self._owned.pop(number, None)
            if owned is None:
                continue
            owned.abandon.set()
            await owned.waiting.close()
            await owned.working
            if owned.table is not None:
                await asyncio.to_thread(owned.table.close)
            self._meter.closed(number)
            log.info("partition.closed", program=self._program.name, partition=number)

    async def take(self, number: int, batch: Sequence[Input]) -> None:
        """Keep a batch for its partition, if it is ours; wait while much waits there already."""
        owned = self._owned.get(number)
        if owned is not None:
            await owned.waiting.put(batch)

    def tick(self) -> None:
        """Write the time into every partition that is open."""
        at = time.time_ns() // 1_000_000
        for number, owned in self._owned.items():
            if owned.table is not None:
                tick = ClockTicked(number=at, at=at, random=os.urandom(32))
                self._ticks.produce(
                    self._place.cluster.named(self._program.events),
                    codec.encode(tick),
                    BROADCAST_KEY,
                    partition=number,
                )
        self._ticks.poll(0)

    async def close(self) -> None:
        """Close all partitions and flush the ticks."""
        await self.revoked(list(self._owned))
        await asyncio.to_thread(self._ticks.flush, TICK_SECONDS_MAX)

    async def _work(
        self, number: int, opening: Awaitable[TablePartition[R] | None], waiting: Waiting
    ) -> None:
        """Apply what comes until the partition is given up. Ends the process where that fails."""
        table = await opening
        try:
            while table is not None and (batches := await waiting.take()):
                async with self._busy:
                    started = time.perf_counter()
                    folded = await asyncio.to_thread(table.apply, batches)
                    seconds = time.perf_counter() - started
                    self._meter.applied(number, folded, table.standing, seconds)
        except Exception as error:
            fail(error)

    async def _open(self, number: int, abandon: threading.Event) -> TablePartition[R] | None:
        started = time.perf_counter()
        try:
            table = await asyncio.to_thread(self._opened, number, abandon)
        except Exception as error:
            fail(error)
        if table is not None:
            seconds = time.perf_counter() - started
            self._meter.opened(number, table.standing, seconds)
            log.info(
                "partition.opened",
                program=self._program.name,
                partition=number,
                rows=table.row.rows,
                applied_offset=table.row.applied_offset,
                seconds=round(seconds, 3),
            )
        return table

    def _opened(self, number: int, abandon: threading.Event) -> TablePartition[R] | None:
        table = TablePartition(self._program, number, self._place)
        try:
            table.open(abandon)
        except Abandoned:
            table.close()
            return None
        return table
