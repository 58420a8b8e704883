"""Writing records: one counts as written when Kafka has acknowledged it, and not before."""

import time
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from client.errors import FleetError
from client.kafka import Timeouts, settings
from configuration import look
from configuration.cluster import Cluster
from schemas import codec
from schemas.envelope import Position
from schemas.topics import PARTITIONER

MARGIN_SECONDS = 1.0
"""librdkafka gives a record up after `send_seconds`; its report comes a moment later."""
ROOM_SECONDS = 0.1


class Writer:
    """An idempotent producer, made at the first record."""

    def __init__(self, cluster: Cluster, timeouts: Timeouts) -> None:
        self._cluster, self._timeouts = cluster, timeouts
        self._producer: Producer | None = None
        self._failures: list[str] = []
        self.last: Position | None = None

    def send(self, topic: str, key: bytes, record: Any, partition: int = -1) -> None:
        """Hand a record over; `flush` tells whether it was written. Raises FleetError."""
        name = self._cluster.named(topic)
        where = {} if partition < 0 else {"partition": partition}
        until = time.monotonic() + self._timeouts.send_seconds
        while True:
            try:
                self._open().produce(
                    name, codec.encode(record), key, on_delivery=self._delivered, **where
                )
                break
            except BufferError as error:
                if time.monotonic() > until:
                    raise FleetError(f"{topic}: Kafka takes records too slowly; go on later") from (
                        error
                    )
                self._open().poll(ROOM_SECONDS)
        self._open().poll(0)

    def flush(self) -> None:
        """Wait until Kafka has acknowledged all. Raises FleetError for what it has not."""
        if self._producer is None:
            return
        waiting = self._producer.flush(self._timeouts.send_seconds + MARGIN_SECONDS)
        if waiting:
            self._producer.purge()
            self._producer.flush(MARGIN_SECONDS)
        failures, self._failures = self._failures, []
        if failures and (refused := look.why(self._cluster)):
            raise FleetError(refused)
        if failures:
            raise FleetError(
                f"{len(failures)} record(s) are not written, the first is {failures[0]}; is the "
                f"stack at {self._cluster} up? (fleetcert status)"
            )

    def _open(self) -> Producer:
        if self._producer is None:
            self._producer = Producer(
                settings(
                    self._cluster,
                    partitioner=PARTITIONER,
                    acks="all",
                    **{
                        "enable.idempotence": True,
                        "message.timeout.ms": int(self._timeouts.send_seconds * 1000),
                    },
                )
            )
        return self._producer

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            topic = self._cluster.plain(message.topic())
            self.last = Position(topic, message.partition(), message.offset())
            return
        key = (message.key() or b"").decode(errors="replace")
        self._failures.append(f"{key} for {message.topic()} ({error.str()})")
