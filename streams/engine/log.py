"""Reading one partition: committed records only, to the *position*.

A reader that waits for a record at highwater-1 waits for ever where a transaction marker or a
removed tombstone stands there. The end is the partition's end-of-file at or past the watermark
that stood when the reading began, which is the border of a transaction.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from configuration.cluster import Cluster
from streams.engine.failure import EngineFailed

READ_COMMITTED, READ_UNCOMMITTED = "read_committed", "read_uncommitted"
READ_MAX = 5_000
REQUEST_SECONDS = 30.0
POLL_SECONDS = 0.05
"""A call waits for READ_MAX messages or this long, at the end too: longer delays every reader."""
PASSING = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError._UNKNOWN_PARTITION,
)
"""What Kafka answers while a topic is new or its leader moves."""
PASSING_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some messages in the order of their offsets, and the next offset to read."""

    messages: list[Message]
    following: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """The offset of the first record that Kafka keeps, and the one behind the last."""

    low: int
    high: int


def bounds(cluster: Cluster, topic: str, partition: int, isolation: str = READ_COMMITTED) -> Bounds:
    """Return where the partition begins and ends. Raises EngineFailed.

    For a reader of what is committed it ends where the first open transaction begins.
    """
    consumer = _consumer(cluster, isolation=isolation)
    try:
        return bounds_of(consumer, TopicPartition(cluster.named(topic), partition))
    except KafkaException as error:
        raise EngineFailed(f"cannot ask for {topic}[{partition}]: {error}") from error
    finally:
        consumer.close()


def bounds_of(consumer: Consumer, where: TopicPartition, within: float = REQUEST_SECONDS) -> Bounds:
    """Ask until the partition has a leader that answers, at most `within` seconds.

    A consumer whose first look at a partition finds no leader never looks again by itself: each
    later request fails at once from what it remembers. So it is told to look. Raises
    KafkaException.
    """
    until = time.monotonic() + within
    while True:
        try:
            low, high = consumer.get_watermark_offsets(where, timeout=within)
            return Bounds(low, high)
        except KafkaException as error:
            if error.args[0].code() not in PASSING or time.monotonic() > until:
                raise
        time.sleep(PASSING_SECONDS)
        consumer.list_topics(where.topic, timeout=within)


def committed(cluster: Cluster, group: str, topic: str, partition: int) -> int | None:
    """Return the offset that a consumer group goes on with, None for none. Raises EngineFailed."""
    consumer = _consumer(cluster, group)
    where = TopicPartition(cluster.named(topic), partition)
    try:
        (found,) = consumer.committed([where], timeout=REQUEST_SECONDS)
    except KafkaException as error:
        raise EngineFailed(f"cannot ask for the offsets of {group}: {error}") from error
    finally:
        consumer.close()
    return int(found.offset) if found.offset >= 0 else None


def read_to_end(
    cluster: Cluster, topic: str, partition: int, start: int, *, within: float
) -> Iterator[Chunk]:
    """Yield what was committed from offset `start` to the end as it stands now.

    Where `start` is no longer there, the reading starts with what is. Raises EngineFailed where
    the end is not reached `within` seconds.
    """
    consumer = _consumer(cluster)
    try:
        yield from _read(consumer, TopicPartition(cluster.named(topic), partition), start, within)
    except KafkaException as error:
        raise EngineFailed(f"cannot read {topic}[{partition}]: {error}") from error
    finally:
        consumer.close()


def read_between(
    cluster: Cluster, topic: str, partition: int, start: int, stop: int, *, within: float
) -> list[Message]:
    """Return what was committed from `start` until before `stop`; a record stands at `stop`.

    Raises EngineFailed where a part of it is gone.
    """
    low = bounds(cluster, topic, partition).low
    if low > start:
        raise EngineFailed(
            f"{topic}[{partition}] begins at {low}, offset {start} is needed: the history was cut "
            "before it was applied"
        )
    found: list[Message] = []
    for chunk in read_to_end(cluster, topic, partition, start, within=within):
        found += [one for one in chunk.messages if one.offset() < stop]
        if chunk.following >= stop:
            break
    return found


def _consumer(cluster: Cluster, group: str = "unused", isolation: str = READ_COMMITTED) -> Consumer:
    return Consumer(
        cluster.settings(
            {
                "group.id": group,
                "enable.auto.commit": False,
                "isolation.level": isolation,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 20,
            }
        )
    )


def _read(consumer: Consumer, where: TopicPartition, start: int, within: float) -> Iterator[Chunk]:
    until = time.monotonic() + within
    end = bounds_of(consumer, where)
    first = start if end.low <= start <= end.high else OFFSET_BEGINNING
    consumer.assign([TopicPartition(where.topic, where.partition, first)])
    following, ended = start, False
    while not ended:
        if time.monotonic() > until:
            raise EngineFailed(
                f"reading {where.topic}[{where.partition}] stands at {following} of {end.high} "
                f"after {within:.0f} s"
            )
        messages = []
        for message in consumer.consume(READ_MAX, POLL_SECONDS):
            error = message.error()
            if error is None:
                messages.append(message)
                following = message.offset() + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                following = max(following, message.offset())
                if message.offset() >= end.high:
                    ended = True
                    break  # what follows is newer, perhaps a part of a transaction
            elif error.fatal():
                raise EngineFailed(f"reading {where.topic}[{where.partition}]: {error}")
        if messages or ended:
            yield Chunk(messages, following)
