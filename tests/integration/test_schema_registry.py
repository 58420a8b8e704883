"""Our schemas in a registry that others wrote, and what a foreign reader makes of our topics by it.

Apicurio Registry runs in every run. `FLEETCERT_REGISTRY` may name an empty registry that knows the
mode IMPORT (Confluent's, Redpanda's): then every test runs with that one, too.
"""

import asyncio
import dataclasses
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from json import loads
from pathlib import Path

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

from client import remote
from client.errors import FleetError
from client.push import Taken, planned
from pki import authority
from schemas import codec, registry, topics
from schemas.registry import Registered
from tests.helpers import registrations
from tests.helpers.apicurio import apicurio, guarded
from tests.helpers.stack import RunningStack
from tests.helpers.wait import until_async

PROGRAM = str(Path(sys.executable).with_name("fleetcert"))
NAMED = os.environ.get("FLEETCERT_REGISTRY", "")
PATIENCE = 30.0
SAMPLES = 100
ID = 9_000
WANTED = registry.of_records()


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an empty Apicurio Registry."""
    with apicurio(tmp_path_factory.mktemp("apicurio")) as running:
        yield running


@pytest.fixture(scope="module", params=["ours", NAMED] if NAMED else ["ours"])
def url(request: pytest.FixtureRequest) -> str:
    """The address of an empty registry."""
    return NAMED if request.param == NAMED else str(request.getfixturevalue(request.param))


async def pushed(url: str, wanted: list[Registered]) -> int:
    """Push some schemas; return how many were missing."""
    async with remote.connected(remote.Place(url)) as there:
        plan = planned(await there.held(wanted), wanted)
        await there.fill(plan)
        return len(plan.register)


def push(*options: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run(
        [PROGRAM, "schemas", "push", *options],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def results(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Return how many schemas had which result."""
    assert done.returncode == 0, done.stderr
    found = [loads(line)["result"] for line in done.stdout.splitlines()]
    return {one: found.count(one) for one in found}


async def test_a_registry_holds_our_schemas_under_our_ids(url: str) -> None:
    """An older fleetcert's first, then all: what is there stays, and a repeat changes nothing."""
    older = [one for one in WANTED if one.version == 1]
    assert await pushed(url, older) == len(older)
    newer = len(WANTED) - len(older)
    for options, word in ((["--dry-run"], "missing"), ([], "registered")):
        done = await asyncio.to_thread(push, "--registry", url, "--json", *options)
        assert results(done) == {word: newer, "present": len(older)}
    assert await pushed(url, WANTED) == 0
    theirs = SchemaRegistryClient({"url": url})
    for one in WANTED:
        held = theirs.get_version(one.subject, one.version)
        assert (held.schema_id, held.subject) == (one.schema.schema_id, one.subject)
        assert registry.same(held.schema.schema_str, one.schema)
        if registry.is_history(one.schema):
            assert theirs.get_compatibility(one.subject) == registry.COMPATIBILITY


def samples(bootstrap: str, topic: str) -> Iterator[bytes]:
    """Return values of a topic as any consumer reads them, the first few of each schema."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "anybody",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    unread = set(consumer.list_topics(topic, timeout=PATIENCE).topics[topic].partitions)
    consumer.assign([TopicPartition(topic, one, OFFSET_BEGINNING) for one in unread])
    seen: Counter[bytes] = Counter()
    while unread:
        message = consumer.poll(PATIENCE)
        assert message is not None, topic
        if message.error():
            assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
            unread.discard(message.partition())
        elif value := message.value():
            seen[value[: codec.HEADER.size]] += 1
            if seen[value[: codec.HEADER.size]] <= SAMPLES:
                yield value
    consumer.close()


async def test_a_foreign_reader_reads_all_our_topics_by_it(url: str, stack: RunningStack) -> None:
    """Confluent's AvroDeserializer, told of nothing but the registry, gives dicts."""
    await pushed(url, WANTED)
    device_id = "read-by-others"
    pem = registrations.certificate(stack.authorities, device_id)
    await asyncio.to_thread(stack.fleet.register, device_id, certificate=pem.encode())
    await until_async(lambda: stack.fleet.find(device_id), describe="it is registered")
    read = AvroDeserializer(SchemaRegistryClient({"url": url}))
    kinds: set[str] = set()
    for topic in topics.BY_NAME:
        context = SerializationContext(topic, MessageField.VALUE)
        for value in await asyncio.to_thread(list, samples(stack.cluster.bootstrap, topic)):
            try:
                ours = codec.decode(value)
            except codec.Undecodable:
                continue  # other tests write garbage into these topics, on purpose
            record = read(value, context)
            assert isinstance(record, dict)
            assert set(record) == {one.name for one in dataclasses.fields(ours)}
            kinds.add(type(ours).__name__)
    assert {"ClockTicked", "DeviceRegistered", "PartitionRow", "DeviceRow"} <= kinds


async def test_what_is_somebody_elses_is_never_touched(url: str) -> None:
    """An id, or a version, that is another schema's; a schema that stands under another id."""
    theirs = SchemaRegistryClient({"url": url})
    text = '{"type":"record","name":"Theirs","fields":[{"name":"a","type":"long"}]}'
    taken = theirs.register_schema("theirs", Schema(text, "AVRO"))
    ours = text.replace("Theirs", "Ours")
    for subject, text_of_it, schema_id, version, said in (
        ("fleetcert.Ours", ours, taken, 1, f"id {taken} is not Ours"),
        ("theirs", ours, ID, 1, f"version 1 of theirs has id {taken}, not {ID}"),
    ):
        schema = registry.Schema("Ours", schema_id, text_of_it, "device/Ours.avsc")
        with pytest.raises(Taken, match=said):
            await pushed(url, [Registered(subject, version, schema)])
    assert "fleetcert.Ours" not in theirs.get_subjects()
    assert theirs.get_versions("theirs") == [1]


async def test_a_schema_that_stands_under_another_id_ends_it(ours: str) -> None:
    """As does every registry that keeps no ids: its answer names another one than ours."""
    text = '{"type":"record","name":"Early","fields":[]}'
    given = SchemaRegistryClient({"url": ours}).register_schema("early", Schema(text, "AVRO"))
    schema = registry.Schema("Early", ID + 1, text, "device/Early.avsc")
    with pytest.raises(FleetError, match=f"the id {given}, not {ID + 1}: it keeps no ids"):
        await pushed(ours, [Registered("fleetcert.Early", 1, schema)])


async def test_a_password_and_tls_stand_before_it(ours: str, tmp_path: Path) -> None:
    """Without, with a wrong one, without the CA: what to do is told, and the password is not."""
    authority.create(tmp_path / "pki", now=datetime.now(UTC))
    service_ca = authority.load_service(tmp_path / "pki")
    certificate, key = tmp_path / "localhost.pem", tmp_path / "localhost.key"
    made = authority.issue_service(service_ca, "localhost", ["localhost"], now=datetime.now(UTC))
    certificate.write_bytes(made[0])
    key.write_bytes(made[1])
    ca = str(tmp_path / "pki" / "service-ca" / "ca.pem")
    secret = tmp_path / "password"
    secret.touch(0o600)
    async with guarded(ours, certificate, key) as door:
        secret.write_text(f"{door.password}\n")
        named = ["--registry", door.url, "--ca", ca, "--user", door.user]
        done = await asyncio.to_thread(push, *named, "--password-file", str(secret), "--json")
        assert sum(results(done).values()) == len(WANTED)
        assert door.password not in done.stdout + done.stderr
        for place, said in (
            (remote.Place(door.url, ca=ca), "--user with --password-file"),
            (remote.Place(door.url, door.user, "wrong", ca), "--user with --password-file"),
            (remote.Place(door.url, door.user, door.password), "--ca names who signed it"),
        ):
            with pytest.raises(FleetError, match=said) as refused:
                async with remote.connected(place) as there:
                    await there.held(WANTED)
            assert door.password not in str(refused.value)
