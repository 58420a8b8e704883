"""The one agent loop of a program: batches in, tables written, acknowledgements out.

A partition is opened in the background when it is assigned and closed when it is revoked. Folding,
Kafka and RocksDB run in threads, so that the event loop keeps its heartbeats. Any failure of the
engine ends the process: the supervisor starts it anew, and the recovery is the same as ever.
"""

import asyncio
import functools
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
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
    """A partition that this process owns: its opening, and how to end that early."""

    opening: asyncio.Task[TablePartition[R] | None]
    abandon: threading.Event

    @property
    def table(self) -> TablePartition[R] | None:
        """The partition, once it is open."""
        return self.opening.result() if self.opening.done() else None


class Worker(Generic[R]):
    """All partitions of one program that this process owns."""

    def __init__(self, program: Program[R], place: Place, meter: Meter) -> None:
        self._program, self._place, self._meter = program, place, meter
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
        return {
            number: None if one.table is None else one.table.row.applied_offset
            for number, one in owned
        }

    def assigned(self, partitions: Iterable[int]) -> None:
        """Open what is new, in the background."""
        for number in partitions:
            if number not in self._owned:
                abandon = threading.Event()
                opening = asyncio.create_task(self._open(number, abandon))
                self._owned[number] = Owned(opening, abandon)

    async def revoked(self, partitions: Iterable[int]) -> None:
        """Close what is gone; a batch in work is finished first, an opening is abandoned."""
        for number in partitions:
            owned = self._owned.pop(number, None)
            if owned is None:
                continue
            owned.abandon.set()
            table = await owned.opening
            if table is not None:
                async with self._busy:
                    await asyncio.to_thread(table.close)
            self._meter.closed(number)
            log.info("partition.closed", program=self._program.name, partition=number)

    async def apply(self, number: int, batch: Sequence[Input]) -> None:
        """Apply one record batch. Ends the process where the engine fails."""
        owned = self._owned.get(number)
        table = None if owned is None else await owned.opening
        if table is None:
            return
        async with self._busy:
            if self._owned.get(number) is not owned:
                return
            started = time.perf_counter()
            try:
                folded = await asyncio.to_thread(table.apply, batch)
            except Exception as error:
                fail(error)
            seconds = time.perf_counter() - started
            self._meter.applied(number, folded, table.standing, seconds)

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
