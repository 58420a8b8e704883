"""The watchdog: a worker whose partitions stand still while Kafka answers is stuck, and ends.

Faust and aiokafka can stop without an error after a broker's outage or a rebalance (their issues
#175, #523, #532, #640; #1154, #847). Every partition gets a tick each second, so each one moves on
as long as its owner is well. A worker that owns nothing watches the group's offsets instead: if
nobody moves them, it may be the one that was to own them. The watchdog is a thread: it sees an
event loop that is blocked, too.
"""

import threading
import time
from collections.abc import Callable, Mapping

import structlog
from confluent_kafka import Consumer, KafkaException, TopicPartition

from configuration.cluster import Cluster
from streams.engine.failure import EngineFailed, fail
from streams.engine.log import bounds_of

log = structlog.get_logger()

LOOKS_PER_STALL = 10
ANSWER_SECONDS = 3.0

Progress = Mapping[int, int | None]
"""The applied offset by partition; None while the partition is being opened."""


class Watchdog:
    """Ends the process where a partition stood still for `stall_seconds` while Kafka answered."""

    def __init__(
        self,
        cluster: Cluster,
        group: str,
        topic: str,
        progress: Callable[[], Progress],
        stall_seconds: float,
    ) -> None:
        self._topic, self._progress, self._stall_seconds = topic, progress, stall_seconds
        self._cluster, self._group = cluster, group
        self._name = cluster.named(topic)
        self._moved: dict[int, tuple[int, float]] = {}
        self._stopped = threading.Event()
        self.standstill_seconds = 0.0
        """How long the partition that moved last of all has stood at the last look."""

    def start(self) -> None:
        """Begin to look, in a thread."""
        threading.Thread(target=self._run, name=f"watchdog-{self._topic}", daemon=True).start()

    def stop(self) -> None:
        """End the looking."""
        self._stopped.set()

    def _run(self) -> None:
        consumer = Consumer(
            self._cluster.settings(
                {
                    "group.id": self._group,
                    "enable.auto.commit": False,
                    "log_level": 0,
                }
            )
        )
        while not self._stopped.wait(self._stall_seconds / LOOKS_PER_STALL):
            try:
                self._look(consumer, time.monotonic())
            except KafkaException as error:
                self._moved.clear()  # nobody moves while Kafka is away: count anew
                self.standstill_seconds = 0.0
                log.warning("watchdog.kafka_away", error=str(error))

    def _look(self, consumer: Consumer, now: float) -> None:
        owned = self._progress()
        stands = {number: at for number, at in owned.items() if at is not None}
        standing = self._standing(stands if owned else self._committed(consumer), now)
        self.standstill_seconds = max((now - since for _, since in standing.values()), default=0.0)
        for number, (at, since) in standing.items():
            end = bounds_of(consumer, TopicPartition(self._name, number), ANSWER_SECONDS).high
            if now - since > self._stall_seconds:
                whose = "its partition" if owned else "its group's partition"
                fail(
                    EngineFailed(
                        f"{whose} {number} of {self._topic} stands at {at} of {end} "
                        f"for {now - since:.0f} s while Kafka answers"
                    )
                )

    def _standing(self, stands: Mapping[int, int], now: float) -> dict[int, tuple[int, float]]:
        """Return which partitions have not moved since the last look, and since when."""
        before = self._moved
        self._moved = {
            number: before[number] if number in before and before[number][0] == at else (at, now)
            for number, at in stands.items()
        }
        return {number: one for number, one in self._moved.items() if one[1] != now}

    def _committed(self, consumer: Consumer) -> Mapping[int, int]:
        """Return the group's offsets by partition."""
        listed = consumer.list_topics(self._name, timeout=ANSWER_SECONDS)
        wanted = [TopicPartition(self._name, one) for one in listed.topics[self._name].partitions]
        found = consumer.committed(wanted, timeout=ANSWER_SECONDS)
        return {one.partition: one.offset for one in found}
