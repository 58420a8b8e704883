"""A clock that a test writes by hand: ticks recorded into the logs of a stack that writes none.

The stack's workers have `worker.clock: recorded`, and its logs take the instant that a record
brings (docs/replay.md). The machines accept such a tick as they accept a live one: its instant is
its record's. Time only goes forward, as everywhere.
"""

import os
from collections.abc import Iterator

from confluent_kafka import Message, Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from client.kafka import Timeouts
from client.reader import Reader
from configuration.cluster import Cluster
from schemas import codec
from schemas.envelope import BROADCAST_KEY
from schemas.events import ClockTicked
from schemas.states import PARTITION_KEY
from schemas.topics import DEVICE_EVENTS, DEVICE_STATE, FLEET_EVENTS, FLEET_STATE
from tests.helpers.wait import until

CONFIG = "worker:\n  clock: recorded\n"
"""What the file of such a stack says."""
LOGS = {FLEET_EVENTS: FLEET_STATE, DEVICE_EVENTS: DEVICE_STATE}
"""Each log and its rows; fleets first, for devices tell them what their own tick woke."""
ROUNDS = 3
"""A device tells its fleet, the fleet orders, the device asks: so often they answer each other."""
ALTER_SECONDS = 10.0


def take_instants(bootstrap: str) -> None:
    """Let the logs take the instants that records bring."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    name, value = "message.timestamp.type", "CreateTime"
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    wanted = [
        ConfigResource(ConfigResource.Type.TOPIC, log, incremental_configs=[entry]) for log in LOGS
    ]
    for altered in admin.incremental_alter_configs(wanted).values():
        altered.result(ALTER_SECONDS)


class RecordedClock:
    """Moves the time of all partitions of both machines; `now` is where it stands."""

    def __init__(self, bootstrap: str) -> None:
        self._reader = Reader(Cluster(bootstrap), Timeouts())
        self._producer = Producer({"bootstrap.servers": bootstrap, "acks": "all"})
        self.now = 0

    def close(self) -> None:
        """Close the connections."""
        self._reader.close()

    def to(self, at: int) -> None:
        """Let it be `at`, and return when both machines have said all that follows from it."""
        assert at >= self.now, f"time goes forward: it is {self.now}, not yet {at}"
        self.now = at
        for _ in range(ROUNDS):
            for log, rows in LOGS.items():
                self._tick(log, rows)

    def _tick(self, log: str, rows: str) -> None:
        """Record the instant; wait until the machine has applied it. A repeat is a mark only."""
        tick = ClockTicked(number=self.now, at=self.now, random=os.urandom(32))
        written: list[Message] = []

        def delivered(error: object, message: Message) -> None:
            assert error is None, error
            written.append(message)

        for number in self._reader.partitions(log):
            self._producer.produce(
                log,
                codec.encode(tick),
                BROADCAST_KEY,
                partition=number,
                timestamp=self.now,
                on_delivery=delivered,
            )
        self._producer.flush()
        for one in written:
            offset, partition = one.offset(), one.partition()
            assert offset is not None
            assert partition is not None
            until(
                lambda p=partition, o=offset: max(self._applied(rows, p), default=-1) >= o,
                within=30,
                describe=f"{log}[{partition}] is applied up to {offset}",
            )

    def _applied(self, rows: str, partition: int) -> Iterator[int]:
        found = self._reader.read(rows, partition=partition, key=PARTITION_KEY)
        return (one.record.applied_offset for one in found)
