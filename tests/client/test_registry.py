"""The schema registry: what a foreign client gets from it, over a real socket."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient, SchemaRegistryError
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from schemas import codec, registry
from schemas.envelope import Evidence, Numbering
from schemas.events import DeviceReported
from schemas.topics import DEVICE_EVENTS

PROGRAM = str(Path(sys.executable).with_name("fleetcert"))
SUBJECT = "fleetcert.DeviceReported"
RECORD = DeviceReported(
    "pump-7",
    Evidence(b"f" * 32, "10.0.0.1", "s", 7, "mqtt", 1),
    Numbering(3, 9),
    "reading",
    "",
    b"{}",
)
CONTEXT = SerializationContext(DEVICE_EVENTS, MessageField.VALUE)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of a registry that the command line serves."""
    running = subprocess.Popen(
        [PROGRAM, "schemas", "serve", "--port", "0", "--json"], stdout=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    yield json.loads(running.stdout.readline())["url"]
    running.send_signal(signal.SIGTERM)
    assert running.wait(20) == 0


@pytest.fixture(scope="module")
def client(url: str) -> SchemaRegistryClient:
    """Confluent's own client."""
    return SchemaRegistryClient({"url": url})


def get(url: str, path: str) -> Any:
    """Ask for a path; the content type is the registry's own."""
    answer = requests.get(url + path, timeout=10)
    assert answer.headers["content-type"].startswith("application/vnd.schemaregistry.v1+json")
    return (
        answer.json() | {"status": answer.status_code}
        if answer.status_code != 200
        else answer.json()
    )


def test_a_foreign_deserializer_reads_our_records(client: SchemaRegistryClient) -> None:
    """Confluent's AvroDeserializer finds the schema by the id in the bytes, and reads all of it."""
    read = AvroDeserializer(client)(codec.encode(RECORD), CONTEXT)
    assert read["device_id"] == "pump-7"
    assert read["evidence"]["certificate_sha256"] == b"f" * 32
    assert read["numbering"] == {"boot": 3, "sequence": 9}


def test_a_foreign_serializer_writes_what_we_read(client: SchemaRegistryClient) -> None:
    """Under our id, which it looks up or, registering by itself, is given."""
    plain = AvroDeserializer(client)(codec.encode(RECORD), CONTEXT)
    text = registry.version(SUBJECT, "latest").schema.text
    for settings in (
        {"auto.register.schemas": False, "use.latest.version": False},
        {"auto.register.schemas": True},
    ):
        named = settings | {"subject.name.strategy": lambda _, name: name}
        for asked in (settings, named):
            written = AvroSerializer(client, text, conf=asked)(plain, CONTEXT)
            assert written is not None
            assert codec.decode(written) == RECORD


def test_a_foreign_schema_is_refused(client: SchemaRegistryClient) -> None:
    """Nothing is ever registered: the registry is read-only, in the protocol's own words."""
    other = Schema('{"type":"record","name":"Other","fields":[]}', "AVRO")
    with pytest.raises(SchemaRegistryError) as refused:
        client.register_schema(SUBJECT, other)
    assert (refused.value.http_status_code, refused.value.error_code) == (422, 42205)
    with pytest.raises(SchemaRegistryError) as unknown:
        client.lookup_schema(SUBJECT, other)
    assert (unknown.value.http_status_code, unknown.value.error_code) == (404, 40403)
    with pytest.raises(SchemaRegistryError) as deleted:
        client.delete_subject(SUBJECT)
    assert deleted.value.http_status_code == 405


def test_subjects_and_versions_are_those_of_the_repository(client: SchemaRegistryClient) -> None:
    """Each record with all its versions; each topic with the schemas of all its records."""
    ids = codec.catalogue()
    assert {f"fleetcert.{name}" for name in ids} <= set(client.get_subjects())
    assert client.get_versions(SUBJECT) == [1, 2]
    assert [client.get_version(SUBJECT, one).schema_id for one in (1, 2)] == ids["DeviceReported"]
    newest = client.get_latest_version(SUBJECT)
    assert (newest.version, newest.schema_id) == (2, ids["DeviceReported"][-1])
    on_topic = {
        client.get_version(f"{DEVICE_EVENTS}-value", one).schema_id
        for one in client.get_versions(f"{DEVICE_EVENTS}-value")
    }
    assert on_topic >= {*ids["DeviceReported"], *ids["SigningRequested"], *ids["ClockTicked"]}
    assert client.get_compatibility() == client.get_compatibility(SUBJECT) == "FULL_TRANSITIVE"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/schemas/ids/1", 40403),
        ("/schemas/ids/x", 40403),
        ("/subjects/nobody/versions", 40401),
        ("/subjects/nobody/versions/1", 40401),
        (f"/subjects/{SUBJECT}/versions/9", 40402),
        (f"/subjects/{SUBJECT}/versions/first", 40402),
        ("/config/nobody", 40401),
        ("/nowhere", 404),
    ],
)
def test_what_is_not_there_has_the_code_of_the_protocol(url: str, path: str, code: int) -> None:
    """404, with the error code that clients tell the cases apart by."""
    said = get(url, path)
    assert (said["status"], said["error_code"]) == (404, code)
    assert said["message"]


def test_our_own_registry_misses_nothing(url: str) -> None:
    """A push to it has nothing to do: it is read-only, and would say so."""
    done = subprocess.run(
        [PROGRAM, "schemas", "push", "--registry", url],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.startswith(f"0 schemas registered, {len(registry.of_records())} were there")


def test_every_path_of_the_read_api_answers(url: str) -> None:
    """The ones that no client above has asked for."""
    ids = codec.catalogue()["DeviceReported"]
    assert get(url, "/") == {}
    assert get(url, "/schemas/types") == ["AVRO"]
    assert get(url, "/mode") == get(url, f"/mode/{SUBJECT}") == {"mode": "READONLY"}
    drawn = json.loads((codec.AVRO / "device" / "DeviceReported.avsc").read_text())
    assert get(url, f"/schemas/ids/{ids[-1]}/schema") == drawn
    assert get(url, f"/subjects/{SUBJECT}/versions/latest/schema") == drawn
    assert get(url, f"/schemas/ids/{ids[0]}/subjects") == [f"{DEVICE_EVENTS}-value", SUBJECT]
    assert {"subject": SUBJECT, "version": 1} in get(url, f"/schemas/ids/{ids[0]}/versions")
    newest = get(url, "/schemas?latestOnly=true&subjectPrefix=fleetcert.")
    assert {one["id"] for one in newest} == set(codec.schema_ids().values())
    assert get(url, "/subjects?subjectPrefix=decisions") == ["decisions-value"]
    bad = requests.post(f"{url}/subjects/{SUBJECT}", data=b"\xff{", timeout=10)
    assert (bad.status_code, bad.json()["error_code"]) == (404, 40403)


def test_every_record_stands_in_a_topic_and_every_id_is_served() -> None:
    """Nothing that can be written is missing."""
    placed = {kind for kinds in registry.RECORDS.values() for kind in kinds}
    assert placed == {kind for kinds in codec.roots().values() for kind in kinds}
    assert set(registry.schemas()) == {one for ids in codec.catalogue().values() for one in ids}


def test_a_taken_port_is_one_line(url: str) -> None:
    """Exit code 1, and what to do."""
    port = url.rpartition(":")[2]
    done = subprocess.run(
        [PROGRAM, "schemas", "serve", "--port", port],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"fleetcert: 127.0.0.1:{port} cannot be served")
    assert "choose --port" in done.stderr


@pytest.mark.parametrize("name", ["DeviceReported", "1021"])
def test_a_schema_is_shown_by_name_and_by_id(name: str) -> None:
    """As Avro's JSON; what there is not is one line."""
    done = subprocess.run(
        [PROGRAM, "schemas", "show", name], capture_output=True, text=True, timeout=30, check=True
    )
    assert json.loads(done.stdout)["name"] == "DeviceReported"
    listed = subprocess.run(
        [PROGRAM, "schemas", "list", "--json"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    found = [json.loads(line) for line in listed.stdout.splitlines()]
    assert {one["schema_id"] for one in found} == set(registry.schemas())
