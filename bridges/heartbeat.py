"""A door's heartbeat: which shares of the devices it serves, told in every partition.

Rules of this file: only a share that is served right now is told of, so that silence behind a
door that is down is held against nobody. While Kafka has not taken the last word, none is added.
"""

import asyncio
import time
from dataclasses import dataclass

import structlog
from confluent_kafka import KafkaException

from bridges.bridge import Bridge
from bridges.kafka import Recorder
from schemas import codec
from schemas.envelope import BROADCAST_KEY
from schemas.events import DoorServed
from schemas.topics import DEVICE_EVENTS

log = structlog.get_logger()
LOOKS = 10
"""Looks at what is served in one interval: a share that has just come up is told of soon."""
METADATA_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How many shares the door has, and how often each of them is told of."""

    shares: int
    seconds: float = 10.0


class Heartbeat:
    """Writes DoorServed for what a bridge serves."""

    def __init__(self, rhythm: Rhythm, bridge: Bridge, recorder: Recorder) -> None:
        self._rhythm, self._bridge, self._recorder = rhythm, bridge, recorder
        self._told: dict[int, int] = {}
        self._on_way = 0

    async def beat(self) -> None:
        """Beat until cancelled."""
        partitions = await self._partitions()
        while True:
            self.once(partitions, time.time_ns() // 1_000_000)
            await asyncio.sleep(self._rhythm.seconds / LOOKS)

    def once(self, partitions: int, now: int) -> None:
        """Tell of each served share that is due at `now` (ms)."""
        served = self._bridge.served()
        self._told = {share: at for share, at in self._told.items() if share in served}
        if self._on_way:
            return
        due = now - int(self._rhythm.seconds * 1000)
        for share in served:
            if self._told.get(share, due) <= due:
                self._told[share] = now
                self._tell(share, partitions, now)

    def _tell(self, share: int, partitions: int, now: int) -> None:
        word = DoorServed(self._bridge.door, share, self._rhythm.shares, now, now)
        for partition in range(partitions):
            self._recorder.record(
                DEVICE_EVENTS, BROADCAST_KEY, codec.encode(word), self._kept, partition
            )
            self._on_way += 1

    def _kept(self) -> None:
        self._on_way -= 1

    async def _partitions(self) -> int:
        """Return how many partitions there are to be told, once Kafka says so."""
        while True:
            try:
                count = await asyncio.to_thread(
                    self._recorder.partitions, DEVICE_EVENTS, METADATA_SECONDS
                )
            except KafkaException as error:
                log.warning("kafka.away", error=str(error))
                count = 0
            if count:
                return count
            await asyncio.sleep(METADATA_SECONDS)
