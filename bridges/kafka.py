"""What a bridge records, and when it knows: an idempotent producer whose acknowledgements count.

Kafka away means that nothing is acknowledged and nothing is lost: deliveries never time out, the
caller bounds what is in flight, and everything goes out in order once Kafka is back.
"""

from collections.abc import Callable
from typing import Any

import structlog
from confluent_kafka import KafkaError, Producer

from schemas import codec, topics

log = structlog.get_logger()
EXIT_FATAL = 3
QUEUED_MAX = 1_000_000
"""Records waiting for Kafka; beyond, nothing more is taken from the door."""


class Full(OSError):
    """Kafka is away and the queue is full: leave the session, the door keeps what is unsaid."""


class Recorder:
    """Publishes records of the language and calls back when Kafka has them."""

    def __init__(self, bootstrap: str) -> None:
        self._fatal: KafkaError | None = None
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "partitioner": topics.PARTITIONER,
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 5,
                "compression.type": "lz4",
                "message.timeout.ms": 0,
                "queue.buffering.max.messages": QUEUED_MAX,
                "error_cb": self._on_error,
            }
        )

    def record(self, topic: str, key: bytes, record: Any, done: Callable[[], None]) -> None:
        """Publish; `done` is called from `poll` once all replicas have it.

        Raises Full, an OSError like every other end of a session.
        """

        def delivered(error: KafkaError | None, _message: object) -> None:
            if error is None:
                done()
            else:
                self._fatal = error

        try:
            self._producer.produce(topic, codec.encode(record), key, on_delivery=delivered)
        except BufferError as error:
            raise Full(f"{len(self._producer)} records wait for Kafka") from error

    def poll(self) -> int:
        """Run the callbacks that are ready; return their number. Raises SystemExit when fatal."""
        count = self._producer.poll(0)
        if self._fatal is not None:
            log.error("kafka.fatal", error=str(self._fatal))
            raise SystemExit(EXIT_FATAL)
        return int(count)

    def flush(self, seconds: float) -> int:
        """Wait for what is on its way; return how many records still are."""
        return int(self._producer.flush(seconds))

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = error
        else:
            log.warning("kafka.error", error=str(error))
