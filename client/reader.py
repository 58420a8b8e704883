"""Reading topics: what stands in them and what comes. No group is joined, nothing is committed.

What a call costs: every record of the partitions it reads is fetched once. Naming a device leaves
one partition, and only that device's records are decoded; naming an instant skips what is older.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from client.errors import FleetError
from client.kafka import Timeouts, away, settings
from configuration.cluster import Cluster
from schemas import codec
from schemas.partition import partition_of
from schemas.topics import DECISIONS
from streams.engine.failure import EngineFailed
from streams.engine.log import bounds_of, read_to_end

FOLLOW_MAX = 500
FOLLOW_SECONDS = 0.2
"""How long `follow` waits for more before it looks whether it shall stop."""


@dataclass(frozen=True, slots=True)
class Found:
    """A record of a topic, where it stands and when the broker took it.

    `record` is None where the bytes are no record of the language.
    """

    topic: str
    partition: int
    offset: int
    at: int
    key: bytes
    record: Any

    @property
    def kind(self) -> str:
        """The record's name, `undecodable` where it has none."""
        return "undecodable" if self.record is None else type(self.record).__name__


def key_of(topic: str, device_id: str) -> bytes:
    """Return the key under which a topic holds what concerns a device."""
    return (f"device:{device_id}" if topic == DECISIONS else device_id).encode()


class Reader:
    """Reads the topics of one Kafka."""

    def __init__(self, cluster: Cluster, timeouts: Timeouts) -> None:
        self._cluster, self._timeouts = cluster, timeouts
        self._asking: Consumer | None = None

    def close(self) -> None:
        """Close the connection that answers about topics and offsets."""
        if self._asking is not None:
            self._asking.close()
            self._asking = None

    def partitions(self, topic: str) -> list[int]:
        """Return the partitions of a topic. Raises FleetError where Kafka or the topic is away."""
        name = self._cluster.named(topic)
        try:
            listed = self._ask().list_topics(name, timeout=self._timeouts.connect_seconds)
        except KafkaException as error:
            raise away(self._cluster, error.args[0].str()) from error
        found = listed.topics[name]
        if found.error is not None and found.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise FleetError(f"there is no topic {name}; `fleetcert up` creates the topics")
        return sorted(found.partitions)

    def size(self, topic: str, since: int | None = None) -> int:
        """Return how many offsets `read` would pass over: what a progress bar goes by."""
        numbers = self.partitions(topic)
        ends = self.ends(topic, numbers)
        starts = self._starts(topic, numbers, since)
        return sum(max(0, ends[one] - starts[one]) for one in numbers)

    def read(
        self,
        topic: str,
        *,
        device_id: str = "",
        partition: int | None = None,
        key: bytes = b"",
        since: int | None = None,
        ordered: bool = False,
        on_record: Callable[[], None] = lambda: None,
        wanted: Callable[[bytes], bool] = lambda key: True,
    ) -> Iterator[Found]:
        """Yield what stands in a topic now: all, or one device's, or those of one key.

        Keys that are not `wanted` are passed over without decoding their records. `since` is an
        instant in milliseconds. Partition after partition, or `ordered` by time. `on_record` is
        called for every record passed over. Raises FleetError.
        """
        numbers, key = self._where(topic, device_id, partition, key)
        if key:
            wanted = key.__eq__
        starts = self._starts(topic, numbers, since)
        parts = [self._read(topic, one, starts[one], wanted, on_record) for one in numbers]
        if ordered:
            yield from heapq.merge(*parts, key=lambda one: (one.at, one.partition, one.offset))
            return
        for part in parts:
            yield from part

    def follow(
        self,
        *topics: str,
        device_id: str = "",
        since: int | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> Iterator[Found]:
        """Yield what comes from the moment of the call on (or from `since`), until `stopping`.

        The order is that of each partition. Raises FleetError.
        """
        wanted, places = {}, []
        for topic in topics:
            numbers, wanted[topic] = self._where(topic, device_id, None, b"")
            name = self._cluster.named(topic)
            ends = self.ends(topic, numbers)
            starts = ends if since is None else self._starts(topic, numbers, since)
            places += [TopicPartition(name, one, starts[one]) for one in numbers]
        consumer = Consumer(settings(self._cluster, **READING))
        consumer.assign(places)
        return _follow(consumer, self._cluster, wanted, stopping)

    def keys(self, topic: str, kind: type) -> set[bytes]:
        """Return the keys of a compacted topic that hold a record of this kind; none is decoded."""
        held: set[bytes] = set()
        for key, _, holds in self._changes(topic, kind):
            change = held.add if holds else held.discard
            change(key)
        return held

    def newest(self, topic: str, kind: type) -> list[Any]:
        """Return the records of this kind that a compacted topic holds; no other is decoded."""
        held: dict[bytes, Message] = {}
        for key, message, holds in self._changes(topic, kind):
            if holds:
                held[key] = message
            else:
                held.pop(key, None)
        records = [found(topic, message).record for message in held.values()]
        return [one for one in records if one is not None]

    def _changes(self, topic: str, kind: type) -> Iterator[tuple[bytes, Message, bool]]:
        """Yield each key, its message, and whether that holds a record of this kind."""
        headers = tuple(
            codec.HEADER.pack(codec.MAGIC, one) for one in codec.catalogue()[kind.__name__]
        )
        for number in self.partitions(topic):
            for message in self._messages(topic, number, 0):
                holds = (message.value() or b"").startswith(headers)
                yield message.key() or b"", message, holds

    def _where(
        self, topic: str, device_id: str, partition: int | None, key: bytes
    ) -> tuple[list[int], bytes]:
        numbers = self.partitions(topic)
        if device_id:
            key = key_of(topic, device_id)
            return [partition_of(key, len(numbers))], key
        return (numbers if partition is None else [partition]), key

    def _starts(self, topic: str, numbers: Sequence[int], since: int | None) -> dict[int, int]:
        """Return the first offset of each partition at or after the instant."""
        if since is None:
            return dict.fromkeys(numbers, 0)
        name = self._cluster.named(topic)
        asked = [TopicPartition(name, one, since) for one in numbers]
        ends = self.ends(topic, numbers)
        try:
            found = self._ask().offsets_for_times(asked, timeout=self._timeouts.connect_seconds)
        except KafkaException as error:
            raise away(self._cluster, error.args[0].str()) from error
        return {
            one.partition: one.offset if one.offset >= 0 else ends[one.partition] for one in found
        }

    def ends(self, topic: str, numbers: Sequence[int]) -> dict[int, int]:
        """Return where each partition ends now: the offset that comes next. Raises FleetError."""
        seconds, name = self._timeouts.connect_seconds, self._cluster.named(topic)
        try:
            return {
                one: bounds_of(self._ask(), TopicPartition(name, one), seconds).high
                for one in numbers
            }
        except KafkaException as error:
            raise away(self._cluster, error.args[0].str()) from error

    def _read(
        self,
        topic: str,
        partition: int,
        start: int,
        wanted: Callable[[bytes], bool],
        on_record: Callable[[], None],
    ) -> Iterator[Found]:
        for message in self._messages(topic, partition, start):
            on_record()
            if wanted(message.key() or b""):
                yield found(topic, message)

    def _messages(self, topic: str, partition: int, start: int) -> Iterator[Message]:
        within = self._timeouts.read_seconds
        try:
            for chunk in read_to_end(self._cluster, topic, partition, start, within=within):
                yield from chunk.messages
        except EngineFailed as error:
            raise FleetError(f"{error}; is the stack up? (fleetcert status)") from error

    def _ask(self) -> Consumer:
        if self._asking is None:
            self._asking = Consumer(settings(self._cluster, **READING))
        return self._asking


READING = {
    "group.id": "unused",
    "enable.auto.commit": False,
    "isolation.level": "read_committed",
    "auto.offset.reset": "earliest",
    "fetch.wait.max.ms": 50,
}


def _follow(
    consumer: Consumer, cluster: Cluster, wanted: dict[str, bytes], stopping: Callable[[], bool]
) -> Iterator[Found]:
    try:
        while not stopping():
            for message in consumer.consume(FOLLOW_MAX, FOLLOW_SECONDS):
                if message.error() is not None:
                    if message.error().fatal():
                        raise FleetError(f"reading stopped: {message.error().str()}")
                    continue
                topic = cluster.plain(message.topic())
                key = wanted[topic]
                if not key or message.key() == key:
                    yield found(topic, message)
    finally:
        consumer.close()


def found(topic: str, message: Message) -> Found:
    """Return a message of a topic as what was found."""
    try:
        record = codec.decode(message.value() or b"")
    except codec.Undecodable:
        record = None
    return Found(
        topic,
        message.partition(),
        message.offset(),
        message.timestamp()[1],
        message.key() or b"",
        record,
    )
