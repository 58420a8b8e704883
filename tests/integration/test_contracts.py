"""What we share with programs that others wrote: where a key belongs, and how a record is read."""

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from pki import authority
from schemas import codec
from schemas.envelope import Evidence, Numbering
from schemas.events import DeviceReported
from schemas.partition import partition_of
from schemas.topics import PARTITIONER
from tests.helpers.java import avro_tool, kafka_tool
from tests.helpers.kafka import KafkaBroker, kafka_broker
from tests.helpers.wait import until

PARTITIONS = 7
TOPIC = "keys"
SEED = random.Random(7)
KEYS = [
    "",
    "a",
    "pump-7",
    "@partition",
    "ключ",
    "鍵",
    "clé-é",
    "🔑🔑",
    "x" * 64,
    *(f"device-{number}" for number in range(100)),
    *("".join(SEED.choices("abcdéßñø日本🔒.-_09", k=SEED.randint(1, 40))) for _ in range(100)),
]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """A Kafka with one topic of seven partitions."""
    with kafka_broker(tmp_path_factory.mktemp("kafka")) as running:
        admin = AdminClient({"bootstrap.servers": running.bootstrap})
        admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)])[TOPIC].result()
        yield running


def by_java(bootstrap: str) -> None:
    """Kafka's own producer, as its console tool runs it."""
    options = ["--bootstrap-server", bootstrap, "--topic", TOPIC]
    options += ["--reader-property", "parse.key=true", "--reader-property", "key.separator=\t"]
    kafka_tool("ConsoleProducer", *options, input="".join(f"{key}\tjava\n" for key in KEYS))


def by_confluent(bootstrap: str) -> None:
    """What the bridges and the client use."""
    producer = Producer({"bootstrap.servers": bootstrap, "partitioner": PARTITIONER})
    for key in KEYS:
        producer.produce(TOPIC, b"confluent", key.encode())
    assert producer.flush(30) == 0


def by_aiokafka(bootstrap: str) -> None:
    """What Faust uses."""

    async def send() -> None:
        async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
            for key in KEYS:
                await producer.send(TOPIC, b"aiokafka", key.encode())

    asyncio.run(send())


def test_every_producer_puts_a_key_into_the_same_partition(broker: KafkaBroker) -> None:
    """Java, librdkafka and aiokafka agree with `partition_of`, also on keys that are no ASCII."""
    for produce in (by_java, by_confluent, by_aiokafka):
        produce(broker.bootstrap)
    settings = {"bootstrap.servers": broker.bootstrap, "auto.offset.reset": "earliest"}
    consumer = Consumer({**settings, "group.id": "contract"})
    consumer.subscribe([TOPIC])
    seen: dict[str, dict[str, int]] = {"java": {}, "confluent": {}, "aiokafka": {}}

    def complete() -> bool:
        for message in consumer.consume(1_000, 0.2):
            assert message.error() is None, message.error()
            by = (message.value() or b"").decode()
            seen[by][(message.key() or b"").decode()] = message.partition() or 0
        return all(len(found) == len(set(KEYS)) for found in seen.values())

    until(complete, within=30, describe=lambda: str({by: len(found) for by, found in seen.items()}))
    consumer.close()
    expected = {key: partition_of(key.encode(), PARTITIONS) for key in KEYS}
    assert len(set(expected.values())) == PARTITIONS
    for by, found in seen.items():
        assert found == expected, by


@pytest.mark.parametrize("numbering", [Numbering(3, 9), None], ids=["numbered", "not numbered"])
def test_the_reference_implementation_reads_what_we_write(
    tmp_path: Path, numbering: Numbering | None
) -> None:
    """Avro's own tools turn our bytes into JSON by the committed drawing, and back."""
    evidence = Evidence(bytes(range(32)), "10.0.0.1", "s", 7, "mqtt", time.time_ns() // 1_000_000)
    record = DeviceReported("pump-é-7", evidence, numbering, "reading", "", b"\x00\xff{}")
    written = codec.encode(record)[codec.HEADER.size :]
    drawing = codec.AVRO / "device" / "DeviceReported.avsc"
    text = avro_tool("fragtojson", "--schema-file", str(drawing), "-", input=written)
    read = json.loads(text)
    assert read["device_id"] == "pump-é-7"
    assert read["evidence"]["certificate_sha256"].encode("latin-1") == bytes(range(32))
    assert read["payload"].encode("latin-1") == b"\x00\xff{}"
    named = None if numbering is None else {"fleetcert.Numbering": {"boot": 3, "sequence": 9}}
    assert read["numbering"] == named
    back = tmp_path / "record.json"
    back.write_bytes(text)
    assert avro_tool("jsontofrag", "--schema-file", str(drawing), str(back), input=b"") == written


@pytest.mark.parametrize("role", ["worker", "bridge", "coap", "est", "issuer"])
def test_no_process_starts_on_wrong_topics(broker: KafkaBroker, tmp_path: Path, role: str) -> None:
    """On a Kafka without the catalogue each process ends at once, and says what to do."""
    authority.create(tmp_path / "pki", now=datetime.now(UTC))
    some = tmp_path / "some"
    some.write_bytes(b"x" * 32)
    commands: dict[str, list[str]] = {
        "worker": ["streams", "worker", "--data-dir", str(tmp_path / "data")],
        "bridge": ["bridges", "mqtt", "--secret-file", str(some)],
        "coap": ["bridges", "coap", *(f"--{one}={some}" for one in ("cert", "key", "device-ca"))],
        "est": ["bridges", "est", *(f"--{one}={some}" for one in ("cert", "key", "device-ca"))],
        "issuer": ["pki", "issuer", "--pki", str(tmp_path / "pki")],
    }
    command = [sys.executable, "-m", *commands[role], "--bootstrap", broker.bootstrap]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "missing topics: device.events" in done.stderr
    assert "python -m client.local.containers topics" in done.stderr
