"""Faust's Kafka transport at the speed of batches: one record batch is one Faust event.

Faust's own path hands over message by message (14,000 events/s here); this consumer yields, per
partition, one message whose value is the list of raw records and whose offset is the last one's.
Its acknowledgement commits the whole batch.
"""

from collections.abc import AsyncIterator
from typing import Any

import faust.transport.drivers.aiokafka as driver
from faust.types import TP


class BatchConsumer(driver.Consumer):
    """Yields a batch per partition and poll."""

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:  # noqa: ASYNC109 - Faust's
        """Yield (partition, message); the message's value is a list of aiokafka records."""
        records, active = await self._wait_next_records(timeout)
        if records is None or self.should_stop or not self.flow_active:
            return
        for where, batch in records.items():
            tp = TP(where.topic, where.partition)
            if not batch or (active is not None and tp not in active):
                continue
            message = self._to_message(tp, batch[-1])
            message.value = batch
            yield tp, message

    def _new_offset(self, tp: TP) -> int | None:
        """Return the offset after the last acknowledged batch.

        Batches of a partition are acknowledged in their order (concurrency is 1), so the newest
        acknowledgement stands for all before it; Faust's search for gaps would commit one batch
        per interval.
        """
        acked = self._acked[tp]
        if not acked:
            return None
        offset = int(max(acked)) + 1
        self._acked_index[tp].difference_update(acked)
        acked.clear()
        return offset


class BatchTransport(driver.Transport):
    """Faust's `kafka://` transport with the batch consumer."""

    Consumer = BatchConsumer
