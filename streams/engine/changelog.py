"""The changelog of one table partition: fenced for one owner, read to the position, written whole.

Order at opening: first `fence` (`init_transactions`), which ends a former owner and its open
transaction; then the end of the log; then reading. What is read is therefore all there is.
Faust's own recovery waits for a *record* at highwater-1; `log.py` says why that never ends here.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer, TopicCollection
from confluent_kafka.admin import AdminClient

from configuration.cluster import Cluster
from schemas.envelope import BROADCAST_KEY
from schemas.topics import PARTITIONER
from streams.engine.failure import EngineFailed
from streams.engine.log import (
    READ_UNCOMMITTED,
    REQUEST_SECONDS,
    Bounds,
    bounds,
    read_to_end,
)

RECOVERY_SECONDS = 300.0
"""How long a recovery may go without finishing before it fails loudly."""
FENCE_SECONDS = 60.0
COMMIT_SECONDS = 60.0
MARKERS_SECONDS = 5.0
"""How long the markers of a transaction that the fence ended may take to be seen."""
MARKERS_POLL_SECONDS = 0.1
QUEUED_RECORDS_MAX = 1_000_000
QUEUED_KIB_MAX = 1_048_576
LINGER_MS = 20
"""The commit flushes at once; until then fewer and larger requests cost less."""

Rows = list[tuple[bytes, bytes | None]]
Messages = list[dict[str, Any]]
"""What `produce_batch` takes: dictionaries with `key` and `value`."""
BY_KEY = -1
"""The partition of what its key places."""


class Changelog:
    """The transactional producer and the recovery of one partition."""

    def __init__(self, cluster: Cluster, topic: str, partition: int, application: str) -> None:
        self._cluster, self.topic, self.partition = cluster, topic, partition
        self._counts: dict[str, int] = {}
        self._producer = Producer(
            cluster.settings(
                {
                    "transactional.id": f"{application}-{topic}-{partition}",
                    "transaction.timeout.ms": int(COMMIT_SECONDS * 1000),
                    "partitioner": PARTITIONER,
                    "compression.type": "lz4",
                    "linger.ms": LINGER_MS,
                    "queue.buffering.max.messages": QUEUED_RECORDS_MAX,
                    "queue.buffering.max.kbytes": QUEUED_KIB_MAX,
                }
            )
        )

    def fence(self) -> None:
        """End a former owner. Raises EngineFailed where Kafka does not answer."""
        try:
            self._producer.init_transactions(FENCE_SECONDS)
        except KafkaException as error:
            raise EngineFailed(
                f"cannot fence {self.topic}[{self.partition}]: {error}; is Kafka reachable?"
            ) from error

    def topic_id(self) -> str:
        """Return the id that Kafka gave the topic at its creation. Raises EngineFailed."""
        admin = AdminClient(self._cluster.settings())
        name = self._cluster.named(self.topic)
        asked = admin.describe_topics(TopicCollection([name]), request_timeout=REQUEST_SECONDS)
        try:
            return str(asked[name].result().topic_id)
        except KafkaException as error:
            raise EngineFailed(f"cannot describe {self.topic}: {error}") from error

    def partitions(self, topic: str) -> int:
        """Return how many partitions a topic has: fixed at its creation. Raises EngineFailed."""
        if topic not in self._counts:
            try:
                name = self._cluster.named(topic)
                listed = self._producer.list_topics(name, REQUEST_SECONDS).topics[name]
            except KafkaException as error:
                raise EngineFailed(f"cannot list {topic}: {error}") from error
            if listed.error is not None:
                raise EngineFailed(f"cannot list {topic}: {listed.error}")
            self._counts[topic] = len(listed.partitions)
        return self._counts[topic]

    def look(self) -> tuple[Bounds, bool]:
        """Return where the changelog begins and ends, and whether a transaction is open behind it.

        After `fence` none should be. Kafka ends a transaction without its marker in a partition
        that has no leader at that moment: it takes the partition for deleted. The next marker then
        ends both transactions, in its own way: docs/decisions/0036. Raises EngineFailed.
        """
        until = time.monotonic() + MARKERS_SECONDS
        while True:
            end = bounds(self._cluster, self.topic, self.partition, READ_UNCOMMITTED).high
            kept = bounds(self._cluster, self.topic, self.partition)
            if end <= kept.high or time.monotonic() > until:
                return kept, end > kept.high
            time.sleep(MARKERS_POLL_SECONDS)

    def abort_open(self, outputs: Iterable[str]) -> None:
        """Abort what `look` found open, here and in the topics that the same owner writes to.

        Nobody who reads what is committed has seen any of it. Raises EngineFailed.
        """
        places = [(self.topic, self.partition)]
        places += [(topic, one) for topic in outputs for one in range(self.partitions(topic))]
        try:
            self._producer.begin_transaction()
            for topic, partition in places:
                name = self._cluster.named(topic)
                self._producer.produce(name, b"", BROADCAST_KEY, partition=partition)
            self._producer.flush(COMMIT_SECONDS)
            self._producer.abort_transaction(COMMIT_SECONDS)
        except (KafkaException, BufferError) as error:
            raise EngineFailed(
                f"a transaction left open in {self.topic}[{self.partition}] cannot be aborted: "
                f"{error}"
            ) from error
        _, still_open = self.look()
        if still_open:
            raise EngineFailed(
                f"{self.topic}[{self.partition}] ends in a transaction that is open, and not ours: "
                "look for it with `kafka-transactions.sh find-hanging`"
            )

    def read(self, start: int, *, within: float = RECOVERY_SECONDS) -> Iterator[tuple[Rows, int]]:
        """Yield what was committed from offset `start` on: records, and the next offset to read.

        Raises EngineFailed where the end is not reached `within` seconds.
        """
        chunks = read_to_end(self._cluster, self.topic, self.partition, start, within=within)
        for chunk in chunks:
            yield [(one.key() or b"", one.value()) for one in chunk.messages], chunk.following

    def commit(
        self,
        outputs: Mapping[tuple[str, int], Messages],
        rows: Iterable[tuple[bytes, bytes | None]],
        inside: Callable[[], None] = lambda: None,
    ) -> int:
        """Publish outputs (by place) and rows, all or nothing; return the offset after the rows.

        Raises EngineFailed where another owner has fenced this one, or where Kafka refuses.
        """
        written: list[int] = []

        def delivered(error: KafkaError | None, message: Any) -> None:
            if error is None:
                written.append(message.offset())

        changed: Messages = [{"key": key, "value": value} for key, value in rows]
        changed[-1]["callback"] = delivered  # one partition, in order: the last stands for all
        try:
            self._producer.begin_transaction()
            for (topic, partition), messages in outputs.items():
                self._produce(topic, messages, partition=partition)
            self._produce(self.topic, changed, partition=self.partition)
            inside()
            self._producer.commit_transaction(COMMIT_SECONDS)
        except (KafkaException, BufferError) as error:
            raise EngineFailed(
                f"transaction of {self.topic}[{self.partition}] failed: {error}"
            ) from error
        if not written:
            raise EngineFailed(f"{self.topic}[{self.partition}]: committed, but not delivered")
        return written[0] + 1

    def _produce(self, topic: str, messages: Messages, **where: int) -> None:
        """Queue the messages; where the queue is full, wait for room."""
        name = self._cluster.named(topic)
        while messages:
            self._producer.produce_batch(name, messages, **where)
            refused = [one for one in messages if "_error" in one]
            for one in refused:
                error: KafkaError = one.pop("_error")
                if error.code() != KafkaError._QUEUE_FULL:
                    raise KafkaException(error)
            if refused:
                self._producer.poll(0.1)
            messages = refused
