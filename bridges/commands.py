"""Every command, for a door that holds sessions itself: read from the beginning, without a group.

Rules of this file: a process delivers to its own sessions and knows all refusals, so it reads all
of `device.commands` whenever it starts; nothing is committed. Commands of before are for nobody:
the machine sends what is pending when a session opens.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, get_args

import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from configuration.cluster import Cluster
from schemas import codec
from schemas.commands import Command
from schemas.topics import DEVICE_COMMANDS

log = structlog.get_logger()
COMMANDS = get_args(Command)
NOTHING: Mapping[str, tuple[type, ...]] = {}
BATCH_MAX = 500
METADATA_SECONDS = 5.0
AWAY_SECONDS = 1.0


class AllCommands:
    """A consumer of whole topics: `device.commands`, and further ones with words for this door."""

    def __init__(
        self,
        cluster: Cluster,
        deliver: Callable[[Any], Awaitable[None]],
        caught_up: asyncio.Event,
        name: str,
        further: Mapping[str, tuple[type, ...]] = NOTHING,
    ) -> None:
        """Deliver commands, and of each further topic the records of these types."""
        self._deliver, self._caught_up = deliver, caught_up
        wanted = {DEVICE_COMMANDS: COMMANDS, **further}
        self._topics = {cluster.named(topic): types for topic, types in wanted.items()}
        self._behind: set[tuple[str, int]] = set()
        self._consumer = Consumer(
            cluster.settings(
                {
                    "group.id": name,  # the client demands one; nothing is committed
                    "enable.auto.commit": False,
                    "isolation.level": "read_committed",
                    "auto.offset.reset": "earliest",
                    "enable.partition.eof": True,
                    "fetch.wait.max.ms": 50,
                }
            )
        )

    async def run(self, stopping: asyncio.Event) -> None:
        """Deliver until `stopping`."""
        while not stopping.is_set() and not await asyncio.to_thread(self._assign):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), AWAY_SECONDS)
        while not stopping.is_set():
            for message in await asyncio.to_thread(self._consumer.consume, BATCH_MAX, 0.2):
                await self._take(message)
        await asyncio.to_thread(self._consumer.close)

    def _assign(self) -> bool:
        """Take every partition from its beginning; tell whether Kafka and the topics were there."""
        try:
            listed = self._consumer.list_topics(timeout=METADATA_SECONDS).topics
        except KafkaException as error:
            log.warning("kafka.away", error=str(error))
            return False
        if any(one not in listed or not listed[one].partitions for one in self._topics):
            return False
        self._behind = {(one, part) for one in self._topics for part in listed[one].partitions}
        self._consumer.assign(
            [TopicPartition(topic, part, OFFSET_BEGINNING) for topic, part in self._behind]
        )
        return True

    async def _take(self, message: Message) -> None:
        error = message.error()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                self._behind.discard((message.topic() or "", message.partition() or 0))
                if not self._behind:
                    self._caught_up.set()
            else:
                log.warning("kafka.error", error=str(error))
            return
        try:
            command = codec.decode(message.value() or b"")
        except codec.Undecodable as problem:  # the MQTT bridge keeps it in a dead letter
            log.warning("command.undecodable", offset=message.offset(), error=str(problem))
            return
        if isinstance(command, self._topics[message.topic() or ""]):
            await self._deliver(command)
