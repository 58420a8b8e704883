"""Faust's Kafka transport at the speed of batches: one record batch is one Faust event.

Faust's own path hands over message by message (14,000 events/s here); this consumer yields, per
partition, one message whose value is the list of raw records and whose offset is the last one's.
It is acknowledged as soon as it waits for its partition; the group's offset follows the rows. Only
committed records are read: what an aborted transaction wrote is no part of the history.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import faust.transport.drivers.aiokafka as driver
from faust.types import TP

from streams.engine import faults

OPENING_SECONDS = 0.1
"""How long the partitions that are open are waited for while others are being opened."""


class CommittedThread(driver.AIOKafkaConsumerThread):
    """Faust's consumer thread; it reads committed records without Faust's own transactions."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"  # Faust asks for it only with exactly_once
        return consumer

    async def _commit(self, offsets: Any) -> bool:
        try:
            faults.point(faults.OFFSET_COMMIT)
        except faults.Injected:
            return False  # as Faust answers a commit that came too late; it then forgets the offset
        return bool(await super()._commit(offsets))


class BatchConsumer(driver.Consumer):
    """Yields a batch per partition and poll."""

    def _new_consumer_thread(self) -> CommittedThread:
        return CommittedThread(self, loop=self.loop, beacon=self.beacon)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:  # noqa: ASYNC109 - Faust's
        """Yield (partition, message); the message's value is a list of aiokafka records."""
        records, active = await self._wait_next_records(timeout)
        if records is None or self.should_stop:
            return
        if not self.flow_active:
            await self.perform_seek()  # a rebalance began meanwhile: these come again
            return
        for where, batch in records.items():
            tp = TP(where.topic, where.partition)
            wanted = active is None or tp in active
            if not batch or not wanted or not self.flow_active:
                continue
            message = self._to_message(tp, batch[-1])
            message.value = batch
            yield tp, message

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:  # noqa: ASYNC109 - Faust's
        """Ask for open partitions alone: what comes for one that recovers would bar all others."""
        active = active_partitions or set()
        ready = active & self.transport.open()
        if not ready:
            await self.sleep(OPENING_SECONDS)
            return {}
        wait = timeout if ready == active else min(timeout, OPENING_SECONDS)
        return await super()._getmany(ready, wait)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Remember no gaps: Faust's tree of them grows by every batch, and is sorted each time."""

    def _new_offset(self, tp: TP) -> int | None:
        """Return the offset after what has been acknowledged, and is in the rows.

        Batches of a partition are acknowledged in their order (concurrency is 1), so the newest
        acknowledgement stands for all before it; Faust's search for gaps would commit one batch
        per interval. Acknowledged is also what still waits, and what Faust skips: a batch that a
        rebalance overtook, or that came while its partition was given up. What no row holds is
        never committed.
        """
        acked = self._acked[tp]
        applied: int | None = self.transport.applied(tp)
        if not acked or applied is None:
            return None
        newest = int(max(acked))
        acked[:] = [one for one in acked if one > applied]
        self._acked_index[tp].intersection_update(acked)
        return int(min(newest, applied)) + 1

    def on_buffer_full(self, tp: TP) -> None:
        """Pause nothing: where a stream's buffer is full, the fetcher itself waits for it.

        Faust would fetch nothing more of the partition, and ask again after a second.
        """


class BatchTransport(driver.Transport):
    """Faust's `kafka://` transport with the batch consumer.

    `progress` gives by topic how far each open partition was applied.
    """

    Consumer = BatchConsumer

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.progress: dict[str, Callable[[], Mapping[int, int | None]]] = {}

    def open(self) -> set[TP]:
        """Return the partitions that are open."""
        return {
            TP(topic, number)
            for topic, progress in self.progress.items()
            for number, applied in progress().items()
            if applied is not None
        }

    def applied(self, tp: TP) -> int | None:
        """Return the offset up to which the rows hold a partition; None where it is not open."""
        progress = self.progress.get(tp.topic)
        return None if progress is None else progress().get(tp.partition)
