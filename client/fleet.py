"""The typed Python client: register devices, order rotations, read rows, events and decisions.

    fleet = Fleet("127.0.0.1:9092")
    fleet.register("pump-7", "pump", certificate=Path("pump-7.pem").read_bytes())
    fleet.rotate("pump-7")
    print(fleet.device("pump-7").certificates)

All methods block; `follow` reads on for ever. Errors are FleetError and say what to do next.
"""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from pki.facts import facts
from schemas import codec, topics
from schemas.decisions import Decision, DecisionName
from schemas.envelope import BROADCAST_KEY, is_device_id
from schemas.events import DeviceRegistered, PolicyActivated, RotationOrdered
from schemas.states import PARTITION_KEY, DeviceRow, PartitionRow, Policy
from streams.engine.failure import EngineFailed
from streams.engine.log import read_to_end

SEND_SECONDS = 15.0
READ_SECONDS = 120.0


class FleetError(RuntimeError):
    """What was asked cannot be done; the message says why and what to do next."""


@dataclass(frozen=True, slots=True)
class Found:
    """A record of a topic, where it stands and when the broker took it."""

    topic: str
    partition: int
    offset: int
    at: int
    key: bytes
    record: Any


class Fleet:
    """A fleet as seen through its topics."""

    def __init__(self, bootstrap: str = "127.0.0.1:9092", actor: str = "operator") -> None:
        self._bootstrap, self._actor = bootstrap, actor
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "partitioner": topics.PARTITIONER,
                "acks": "all",
                "enable.idempotence": True,
                "message.timeout.ms": int(SEND_SECONDS * 1000),
            }
        )

    def register(
        self,
        device_id: str,
        device_type: str = "device",
        protocols: tuple[str, ...] = ("mqtt",),
        *,
        certificate: bytes,
        wait: bool = True,
    ) -> None:
        """Register a device with the certificate it holds (PEM or DER).

        Raises FleetError for an id outside `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`, an unreadable
        certificate, or when Kafka does not take the record.
        """
        if not is_device_id(device_id):
            raise FleetError(
                f"{device_id!r} is no device id: letters, digits, '.', '_' and '-', at most 64, "
                "beginning with a letter or digit"
            )
        try:
            held = facts(certificate)
        except ValueError as error:
            raise FleetError(f"the certificate of {device_id} is unreadable: {error}") from error
        event = DeviceRegistered(device_id, device_type, protocols, held, self._actor)
        self._send(device_id, event)
        if wait:
            self.flush()

    def rotate(self, device_id: str) -> str:
        """Order a rotation now; return the id of the order."""
        order_id = f"order-{secrets.token_hex(8)}"
        self._send(device_id, RotationOrdered(device_id, order_id, self._actor))
        self.flush()
        return order_id

    def activate(self, policy: Policy) -> None:
        """Make every partition's machine go by this policy from now on."""
        for number in self.partitions(topics.DEVICE_EVENTS):
            row = self.partition_row(number)
            event = PolicyActivated(row.broadcast_number + 1, policy, self._actor)
            self._producer.produce(
                topics.DEVICE_EVENTS, codec.encode(event), BROADCAST_KEY, partition=number
            )
        self.flush()

    def flush(self) -> None:
        """Wait until Kafka has everything. Raises FleetError when it does not take it."""
        if self._producer.flush(SEND_SECONDS):
            raise FleetError(
                f"Kafka at {self._bootstrap} did not take the record; is the stack up? "
                "(fleetcert status)"
            )

    def devices(self) -> dict[str, DeviceRow]:
        """Return the rows of all devices, by id."""
        rows: dict[str, DeviceRow] = {}
        for found in self.read(topics.DEVICE_STATE):
            if isinstance(found.record, DeviceRow):
                rows[found.record.device_id] = found.record
        return dict(sorted(rows.items()))

    def device(self, device_id: str) -> DeviceRow:
        """Return one device's row. Raises FleetError where it is not registered."""
        row = self.devices().get(device_id)
        if row is None:
            raise FleetError(f"no device {device_id!r} is registered; see `fleetcert device list`")
        return row

    def partition_row(self, partition: int) -> PartitionRow:
        """Return the partition row, as `device.state` holds it."""
        row = PartitionRow()
        for found in self._read(topics.DEVICE_STATE, partition):
            if found.key == PARTITION_KEY:
                row = found.record
        return row

    def alerts(self) -> list[Decision]:
        """Return the alerts that are raised and not cleared, oldest first."""
        raised: dict[tuple[str, str], Decision] = {}
        for found in self.read(topics.DECISIONS):
            decision = found.record
            if not isinstance(decision, Decision):
                continue
            if decision.name == DecisionName.ALERT_RAISED:
                raised[decision.subject, decision.rule] = decision
            elif decision.name == DecisionName.ALERT_CLEARED:
                raised.pop((decision.subject, decision.rule), None)
        return sorted(raised.values(), key=lambda one: one.decided_at)

    def decisions(self, device_id: str = "") -> list[Decision]:
        """Return the decisions, of one device where an id is given, in their order."""
        subject = f"device:{device_id}"
        return [
            found.record
            for found in self.read(topics.DECISIONS)
            if isinstance(found.record, Decision)
            and (not device_id or found.record.subject == subject)
        ]

    def read(self, topic: str) -> Iterator[Found]:
        """Yield every record of a topic as it stands now, partition by partition.

        An undecodable record is yielded with `record` None.
        """
        for number in self.partitions(topic):
            yield from self._read(topic, number)

    def follow(self, topic: str) -> Iterator[Found]:
        """Yield the records that come from now on, for ever."""
        consumer = Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": "unused",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "latest",
            }
        )
        try:
            consumer.assign([TopicPartition(topic, one) for one in self.partitions(topic)])
            while True:
                message = consumer.poll(1.0)
                if message is not None and message.error() is None:
                    yield _found(message)
        finally:
            consumer.close()

    def _send(self, device_id: str, event: Any) -> None:
        self._producer.produce(topics.DEVICE_EVENTS, codec.encode(event), device_id.encode())
        self._producer.poll(0)

    def _read(self, topic: str, partition: int) -> Iterator[Found]:
        try:
            for chunk in read_to_end(self._bootstrap, topic, partition, 0, within=READ_SECONDS):
                yield from (_found(one) for one in chunk.messages)
        except EngineFailed as error:
            raise FleetError(f"{error}; is the stack up? (fleetcert status)") from error

    def partitions(self, topic: str) -> list[int]:
        """Return the partitions of a topic. Raises FleetError where Kafka or the topic is away."""
        try:
            listed = self._producer.list_topics(topic, timeout=SEND_SECONDS).topics[topic]
        except KafkaException as error:
            raise FleetError(
                f"Kafka at {self._bootstrap} does not answer: {error.args[0].str()}; start the "
                "stack with `fleetcert up`"
            ) from error
        if listed.error is not None and listed.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise FleetError(f"there is no topic {topic}; `fleetcert up` creates the topics")
        return sorted(listed.partitions)


def _found(message: Any) -> Found:
    try:
        record = codec.decode(message.value() or b"")
    except codec.Undecodable:
        record = None
    return Found(
        message.topic(),
        message.partition(),
        message.offset(),
        message.timestamp()[1],
        message.key() or b"",
        record,
    )
