"""Records and waits until Kafka has them: for doors that answer each request by itself.

Rules of this file: nobody waits longer than `seconds`, and no more than WAITING_MAX wait at once;
whoever gives up does not know whether Kafka has the record, and is told so (Away).
"""

import asyncio
import time
from collections import deque
from typing import Any

from bridges.kafka import Full, Recorder
from schemas import codec

WAITING_MAX = 20_000
"""Requests that wait for Kafka; beyond, their devices are told at once."""
POLL_SECONDS = 0.002


class Away(Exception):
    """Kafka did not answer in time: whether it has the message is not known."""


class Confirmed:
    """Publishes records and knows when Kafka has them."""

    def __init__(self, recorder: Recorder, seconds: float) -> None:
        self._recorder, self._seconds = recorder, seconds
        self._waiting = 0
        self._patience: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._asked = asyncio.Event()

    async def record(self, topic: str, key: bytes, record: Any) -> None:
        """Return once Kafka has the record. Raises Away where that is not known in time."""
        await self.publish(topic, key, codec.encode(record))

    def publish(self, topic: str, key: bytes, value: bytes) -> asyncio.Future[None]:
        """Return what is done once Kafka has these bytes. Raises Away where too much waits."""
        if self._waiting >= WAITING_MAX:
            raise Away
        kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done() -> None:
            self._waiting -= 1
            if not kept.done():
                kept.set_result(None)

        try:
            self._recorder.record(topic, key, value, done)
        except Full as error:
            raise Away from error
        self._waiting += 1
        self._patience.append((time.monotonic() + self._seconds, kept))
        self._asked.set()
        return kept

    async def poll(self) -> None:
        """Run the callbacks of what Kafka has, soon while somebody waits; until cancelled."""
        while True:
            if not self._waiting:
                self._patience.clear()
                self._asked.clear()
                await self._asked.wait()
            self._recorder.poll()
            self._give_up()
            await asyncio.sleep(POLL_SECONDS)

    def _give_up(self) -> None:
        """Tell those who have waited for Kafka long enough; all wait equally long."""
        now = time.monotonic()
        while self._patience and (self._patience[0][1].done() or self._patience[0][0] <= now):
            _, kept = self._patience.popleft()
            if not kept.done():
                kept.set_exception(Away())
