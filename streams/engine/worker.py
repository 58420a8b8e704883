"""The one agent loop: batches in, tables written, acknowledgements out.

A partition is opened in the background when it is assigned and closed when it is revoked. Crypto,
Kafka and RocksDB run in threads, so that the event loop keeps its heartbeats. Any failure of the
engine ends the process: the supervisor starts it anew, and the recovery is the same as ever.
"""

import asyncio
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import structlog
from confluent_kafka import Producer

from schemas import codec
from schemas.envelope import BROADCAST_KEY
from schemas.events import ClockTicked
from schemas.states import PartitionRow
from schemas.topics import PARTITIONER
from streams.core.machine import Folded, Machine
from streams.engine.failure import fail
from streams.engine.table import Record, TablePartition

R = TypeVar("R", bound=Any)
log = structlog.get_logger()


class Meter(Protocol):
    """What the worker tells of itself."""

    def applied(self, partition: int, folded: Folded[Any], seconds: float) -> None:
        """Count one batch."""

    def standing(self, partition: int, row: PartitionRow) -> None:
        """Show the partition row after a batch."""


class Worker(Generic[R]):
    """All partitions that this process owns."""

    def __init__(
        self, machine: Machine[R], table: str, bootstrap: str, data_dir: Path, meter: Meter
    ) -> None:
        self._machine, self._table = machine, table
        self._bootstrap, self._data_dir, self._meter = bootstrap, data_dir, meter
        self._owned: dict[int, asyncio.Task[TablePartition[R]]] = {}
        self._busy = asyncio.Lock()
        self._ticks = Producer(
            {
                "bootstrap.servers": bootstrap,
                "partitioner": PARTITIONER,
                "acks": "all",
                "enable.idempotence": True,
                "message.timeout.ms": 5_000,
            }
        )
        self.applied_at = time.monotonic()

    def assigned(self, partitions: Iterable[int]) -> None:
        """Open what is new, in the background."""
        for number in partitions:
            if number not in self._owned:
                self._owned[number] = asyncio.create_task(self._open(number))

    async def revoked(self, partitions: Iterable[int]) -> None:
        """Close what is gone; a batch in work is finished first."""
        for number in partitions:
            opening = self._owned.pop(number, None)
            if opening is None:
                continue
            table = await opening
            async with self._busy:
                await asyncio.to_thread(table.close)
            log.info("partition.closed", partition=number)

    async def apply(self, number: int, batch: Iterable[Any]) -> None:
        """Apply one record batch. Ends the process where the engine fails."""
        opening = self._owned.get(number)
        if opening is None:
            return
        table = await opening
        records = [
            Record(one.offset, one.timestamp, one.key or b"", one.value or b"") for one in batch
        ]
        async with self._busy:
            if number not in self._owned:
                return
            started = time.perf_counter()
            try:
                folded = await asyncio.to_thread(table.apply, records)
            except Exception as error:
                fail(error)
        self.applied_at = time.monotonic()
        self._meter.applied(number, folded, time.perf_counter() - started)
        self._meter.standing(number, table.row)

    def tick(self) -> None:
        """Write the time into every partition that is open."""
        at = time.time_ns() // 1_000_000
        for number, opening in self._owned.items():
            if opening.done() and not opening.cancelled():
                tick = ClockTicked(number=at, at=at, random=os.urandom(32))
                self._ticks.produce(
                    self._machine.topic, codec.encode(tick), BROADCAST_KEY, partition=number
                )
        self._ticks.poll(0)

    async def close(self) -> None:
        """Close all partitions and flush the ticks."""
        await self.revoked(list(self._owned))
        await asyncio.to_thread(self._ticks.flush, 5.0)

    async def _open(self, number: int) -> TablePartition[R]:
        started = time.perf_counter()
        try:
            table = await asyncio.to_thread(self._opened, number)
        except Exception as error:
            fail(error)
        seconds = time.perf_counter() - started
        log.info("partition.opened", partition=number, seconds=round(seconds, 3))
        return table

    def _opened(self, number: int) -> TablePartition[R]:
        table = TablePartition(self._machine, number, self._table, self._bootstrap, self._data_dir)
        table.open()
        return table
