"""The watchdog: a worker that owns partitions and applies nothing has stopped consuming.

Faust and aiokafka can stop without an error after a broker's outage or a rebalance (their issues
#175, #523, #532, #640; #1154, #847). Every owned partition gets a tick each second, so a worker
that applies nothing while Kafka answers is stuck: it ends, and the supervisor starts it anew.
"""

import asyncio
import time

import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from streams.engine.failure import EngineFailed, fail

log = structlog.get_logger()


class Watchdog:
    """Ends the process where nothing was applied for `stall_seconds` while Kafka answers."""

    def __init__(self, bootstrap: str, application: str, stall_seconds: float) -> None:
        self._bootstrap, self._application = bootstrap, application
        self._stall_seconds = stall_seconds
        self._away_until = time.monotonic()

    async def look(self, applied_at: float, owns: bool) -> None:
        """Judge once. `applied_at` is the monotonic time of the last batch."""
        now = time.monotonic()
        if not owns or now - max(applied_at, self._away_until) < self._stall_seconds:
            return
        if not await asyncio.to_thread(self._kafka_answers):
            self._away_until = time.monotonic()
            log.warning("watchdog.kafka_away")
            return
        fail(EngineFailed(f"nothing applied for {now - applied_at:.0f} s while Kafka answers"))

    def _kafka_answers(self) -> bool:
        try:
            AdminClient({"bootstrap.servers": self._bootstrap}).list_topics(timeout=3)
        except KafkaException:
            return False
        return True
