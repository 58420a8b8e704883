"""Reading one partition from an offset to its end: committed records only, to the *position*.

A reader that waits for a record at highwater-1 waits for ever where a transaction marker or a
removed tombstone stands there. The end is the partition's end-of-file at or past the watermark
that stood when the reading began.
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

from streams.engine.failure import EngineFailed

READ_MAX = 5_000
REQUEST_SECONDS = 30.0
POLL_SECONDS = 0.05
"""A call waits for READ_MAX messages or this long, at the end too: longer delays every reader."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some messages in the order of their offsets, and the next offset to read."""

    messages: list[Message]
    following: int


def read_to_end(
    bootstrap: str, topic: str, partition: int, start: int, *, within: float
) -> Iterator[Chunk]:
    """Yield what was committed from offset `start` to the end as it stands now.

    Raises EngineFailed where the end is not reached `within` seconds.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "unused",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 20,
        }
    )
    try:
        yield from _read(consumer, TopicPartition(topic, partition), start, within)
    except KafkaException as error:
        raise EngineFailed(f"cannot read {topic}[{partition}]: {error}") from error
    finally:
        consumer.close()


def _read(consumer: Consumer, where: TopicPartition, start: int, within: float) -> Iterator[Chunk]:
    until = time.monotonic() + within
    low, high = consumer.get_watermark_offsets(where, timeout=REQUEST_SECONDS)
    first = start if low <= start <= high else OFFSET_BEGINNING
    consumer.assign([TopicPartition(where.topic, where.partition, first)])
    following, ended = start, False
    while not ended:
        if time.monotonic() > until:
            raise EngineFailed(
                f"reading {where.topic}[{where.partition}] stands at {following} of {high} "
                f"after {within:.0f} s"
            )
        messages = []
        for message in consumer.consume(READ_MAX, POLL_SECONDS):
            error = message.error()
            if error is None:
                messages.append(message)
                following = message.offset() + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                ended = message.offset() >= high
                following = max(following, message.offset())
            elif error.fatal():
                raise EngineFailed(f"reading {where.topic}[{where.partition}]: {error}")
        if messages or ended:
            yield Chunk(messages, following)
