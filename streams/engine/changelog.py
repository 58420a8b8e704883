"""The changelog of one table partition: fenced for one owner, read to the position, written whole.

Order at opening: first `init_transactions`, which fences a former owner and ends its open
transaction; then the high watermark; then reading. What is read is therefore all there is.
Faust's own recovery waits for a *record* at highwater-1; `log.py` says why that never ends here.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from schemas.topics import PARTITIONER
from streams.engine.failure import EngineFailed
from streams.engine.log import read_to_end

RECOVERY_SECONDS = 300.0
"""How long a recovery may go without finishing before it fails loudly."""
FENCE_SECONDS = 60.0
COMMIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Publication:
    """One record of a transaction. `partition` is -1 where the key decides."""

    topic: str
    key: bytes
    value: bytes
    partition: int = -1


class Changelog:
    """The transactional producer and the recovery of one partition."""

    def __init__(self, bootstrap: str, topic: str, partition: int, application: str) -> None:
        self._bootstrap, self._topic, self._partition = bootstrap, topic, partition
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "transactional.id": f"{application}-{topic}-{partition}",
                "transaction.timeout.ms": 60_000,
                "partitioner": PARTITIONER,
                "compression.type": "lz4",
                "linger.ms": 1,
                "queue.buffering.max.messages": 1_000_000,
            }
        )

    def fence(self) -> None:
        """End a former owner. Raises EngineFailed where Kafka does not answer."""
        try:
            self._producer.init_transactions(FENCE_SECONDS)
        except KafkaException as error:
            raise EngineFailed(
                f"cannot fence {self._topic}[{self._partition}]: {error}; is Kafka reachable?"
            ) from error

    def read(
        self, start: int, *, within: float = RECOVERY_SECONDS
    ) -> Iterator[tuple[list[tuple[bytes, bytes | None]], int]]:
        """Yield what was committed from offset `start` on: records, and the next offset to read.

        Raises EngineFailed where the end is not reached `within` seconds.
        """
        chunks = read_to_end(self._bootstrap, self._topic, self._partition, start, within=within)
        for chunk in chunks:
            rows = [(one.key() or b"", one.value()) for one in chunk.messages]
            yield rows, chunk.following

    def commit(
        self, publications: Sequence[Publication], inside: Callable[[], None] = lambda: None
    ) -> int:
        """Publish all or nothing; return the changelog offset after the last row.

        Raises EngineFailed where another owner has fenced this one, or where Kafka refuses.
        """
        last = -1

        def delivered(error: KafkaError | None, message: Any) -> None:
            nonlocal last
            if (
                error is None
                and message.topic() == self._topic
                and message.partition() == self._partition
            ):
                last = max(last, message.offset())

        try:
            self._producer.begin_transaction()
            for one in publications:
                self._produce(one, delivered)
            inside()
            self._producer.commit_transaction(COMMIT_SECONDS)
        except (KafkaException, BufferError) as error:
            raise EngineFailed(
                f"transaction of {self._topic}[{self._partition}] failed: {error}"
            ) from error
        return last + 1

    def _produce(self, one: Publication, delivered: Callable[..., None]) -> None:
        where = {} if one.partition < 0 else {"partition": one.partition}
        while True:
            try:
                self._producer.produce(
                    one.topic, one.value, one.key, on_delivery=delivered, **where
                )
                return
            except BufferError:
                self._producer.poll(0.1)
