"""What a bridge records, and when it knows: an idempotent producer whose acknowledgements count.

Kafka away means that nothing is acknowledged and nothing is lost: deliveries never time out, what
waits for Kafka is bounded in bytes, and everything goes out in order once Kafka is back.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MethodType
from typing import Any, Protocol

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer

from configuration.cluster import Cluster
from schemas import topics

log = structlog.get_logger()
EXIT_FATAL = 3
WAITING_BYTES_MAX = 32 * 1024 * 1024
"""Bytes that wait for Kafka; beyond, nothing more is taken from the door."""
RECORD_OVERHEAD = 400
"""What a record that waits costs besides its bytes (librdkafka's message, our entries)."""
OVERSHOOT = 8
"""How far beyond the limit the producer's own queue reaches: what was taken is always kept."""
POLL_SECONDS = 0.002
IDLE_SECONDS = 0.02


class Full(OSError):
    """The queue is full all the same: leave the session, the door keeps what is unsaid."""


class Record(Protocol):
    """One record of many: `done` becomes true once Kafka has it."""

    key: bytes
    value: bytes | None
    done: bool


class Recorder:
    """Publishes records of the language and calls back when Kafka has them."""

    def __init__(
        self,
        cluster: Cluster,
        waiting_bytes_max: int = WAITING_BYTES_MAX,
        client_id: str = "bridge",
    ) -> None:
        self._fatal: KafkaError | None = None
        self._named = cluster.named
        self._waiting_bytes, self._waiting_bytes_max = 0, waiting_bytes_max
        self._heard = 0.0
        self._room = asyncio.Event()
        self._room.set()
        self._producer = Producer(
            cluster.settings(
                {
                    "client.id": client_id,
                    "partitioner": topics.PARTITIONER,
                    "acks": "all",
                    "enable.idempotence": True,
                    "linger.ms": 5,
                    "compression.type": "lz4",
                    "message.timeout.ms": 0,
                    "message.max.bytes": topics.RECORD_BYTES_MAX,
                    "queue.buffering.max.messages": 0,
                    "queue.buffering.max.kbytes": OVERSHOOT * waiting_bytes_max // 1024,
                    "error_cb": self._on_error,
                }
            )
        )

    def record(
        self,
        topic: str,
        key: bytes,
        value: bytes,
        done: Callable[[], None],
        partition: int | None = None,
    ) -> None:
        """Publish; `done` is called from `poll` once all replicas have it.

        Raises Full, an OSError like every other end of a session.
        """
        size = len(value) + RECORD_OVERHEAD
        delivered = partial(self._delivered, done, size)
        name = self._named(topic)
        try:
            if partition is None:
                self._producer.produce(name, value, key, on_delivery=delivered)
            else:
                self._producer.produce(name, value, key, partition, on_delivery=delivered)
        except BufferError as error:
            raise Full(f"{len(self._producer)} records wait for Kafka") from error
        self._wait_for(size)

    def record_all(self, by_topic: Mapping[str, Sequence[Record]]) -> None:
        """Publish many records, those of a topic in their order: half the time of one by one.

        Raises Full before the first of them where not all have room.
        """
        records = [one for some in by_topic.values() for one in some]
        size = sum([len(one.value or b"") for one in records]) + RECORD_OVERHEAD * len(records)
        if self._waiting_bytes + size > OVERSHOOT * self._waiting_bytes_max:
            raise Full(f"{len(self._producer)} records wait for Kafka")
        arrived = self._arrived  # bound to a record below: a method is cheaper than a partial
        for topic, some in by_topic.items():
            messages: list[dict[str, Any]] = [
                {"key": one.key, "value": one.value, "callback": MethodType(arrived, one)}
                for one in some
            ]
            if self._producer.produce_batch(self._named(topic), messages) < len(messages):
                raise KafkaException(next(one["_error"] for one in messages if "_error" in one))
        self._wait_for(size)

    @property
    def waiting_bytes(self) -> int:
        """How much waits for Kafka."""
        return self._waiting_bytes

    @property
    def silent_seconds(self) -> float:
        """How long Kafka has acknowledged nothing of what waits for it."""
        return time.monotonic() - self._heard if self._waiting_bytes else 0.0

    async def until_room(self) -> None:
        """Wait while too much waits for Kafka: whoever takes from a door asks first."""
        await self._room.wait()

    async def keep_polling(self, progressed: Callable[[], None]) -> None:
        """Run the callbacks of what Kafka has, for ever; call `progressed` after each turn."""
        while True:
            if self.poll():
                progressed()
            await asyncio.sleep(POLL_SECONDS if self._waiting_bytes else IDLE_SECONDS)

    def poll(self) -> int:
        """Run the callbacks that are ready; return their number. Raises SystemExit when fatal."""
        before = self._waiting_bytes
        count = int(self._producer.poll(0))  # errors are among them
        if self._waiting_bytes < before:
            self._heard = time.monotonic()
            if self._waiting_bytes <= self._waiting_bytes_max // 2:
                self._room.set()
        if self._fatal is not None:
            log.error("kafka.fatal", error=str(self._fatal))
            raise SystemExit(EXIT_FATAL)
        return count

    def flush(self, seconds: float) -> int:
        """Wait for what is on its way; return how many records still are."""
        return int(self._producer.flush(seconds))

    def partitions(self, topic: str, seconds: float) -> int:
        """Return the partition count of a topic, 0 where there is none."""
        name = self._named(topic)
        found = self._producer.list_topics(name, timeout=seconds).topics[name]
        return len(found.partitions)

    def _wait_for(self, size: int) -> None:
        """Let so many bytes more wait for Kafka."""
        if not self._waiting_bytes:
            self._heard = time.monotonic()
        self._waiting_bytes += size
        if self._waiting_bytes > self._waiting_bytes_max:
            self._room.clear()

    def _delivered(
        self, done: Callable[[], None], size: int, error: KafkaError | None, _message: object
    ) -> None:
        self._waiting_bytes -= size
        if error is None:
            done()
        else:
            self._fatal = error

    def _arrived(self, record: Record, error: KafkaError | None, _message: object) -> None:
        """Like `_delivered`, in one call: this runs for each message of a device."""
        self._waiting_bytes -= len(record.value or b"") + RECORD_OVERHEAD
        if error is None:
            record.done = True
        else:
            self._fatal = error

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = error
        else:
            log.warning("kafka.error", error=str(error))
