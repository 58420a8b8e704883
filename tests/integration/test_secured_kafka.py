"""A Kafka that others use: TLS, a password or a certificate, and rights behind one prefix.

Nobody in here may touch a name outside the prefix: a client that forgot it would be refused.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from client.fleet import Fleet
from client.local import topics
from configuration.load import load
from schemas.topics import DEVICE_EVENTS
from tests.helpers.devices import devices
from tests.helpers.secured_kafka import SecuredKafka, secured_kafka
from tests.helpers.stack import RunningStack, running_stack
from tests.helpers.wait import until, until_async

PREFIX = "plant-7."
WITHIN = 60.0
ENDS_SECONDS = 60.0


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    """One broker for this file, as a process: its listeners are the subject."""
    with secured_kafka(tmp_path_factory.mktemp("secured")) as made:
        yield made


@dataclass(frozen=True)
class Secured:
    """A stack that was started on that Kafka, and the secret that nobody may tell."""

    stack: RunningStack
    password: str


def said(kafka: SecuredKafka, **more: Any) -> dict[str, Any]:
    """Return the part of the configuration that says how Kafka is reached, by a password."""
    reached = {
        "bootstrap": kafka.passwords,
        "prefix": PREFIX,
        "securityProtocol": "SASL_SSL",
        "tls": {"ca": str(kafka.ca)},
    }
    return {"kafka": reached | more}


def configured(folder: Path, document: dict[str, Any]) -> Path:
    """Write a configuration."""
    folder.mkdir(exist_ok=True)
    file = folder / "fleetcert.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


@pytest.fixture(scope="module")
def secured(kafka: SecuredKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A whole stack on that Kafka, by SCRAM-SHA-512."""
    folder = tmp_path_factory.mktemp("stack")
    secret = kafka.user("plant")
    kafka.grant("plant", PREFIX)
    sasl = {"username": "plant", "passwordFile": str(secret)}
    file = configured(folder, said(kafka, sasl=sasl))
    with running_stack(folder / "stack", config=file) as stack:
        yield Secured(stack, secret.read_text().strip())


async def test_a_certificate_rotates_through_a_secured_kafka(
    secured: Secured, tmp_path: Path
) -> None:
    """Client, bridge, worker and issuer: each has produced and consumed by then."""
    stack = secured.stack
    async with devices(stack, tmp_path, ["plant-pump"]) as (device,):
        await device.start()
        await until_async(
            lambda: stack.fleet.find("plant-pump"), within=WITHIN, describe="it is registered"
        )
        ordered = await asyncio.to_thread(stack.command, "device", "rotate", "plant-pump")
        assert ordered.returncode == 0, ordered.stderr
        await until_async(device.rotated, within=WITHIN, describe="its certificate is rotated")
        assert await device.finish() == 0
    assert {"issuer", "bridge-0", "worker-0"} <= set(stack.processes())
    assert "kafka" not in stack.processes()
    assert all(one["identical"] for one in stack.json("replay", "--verify"))


def test_the_password_is_in_its_file_alone(secured: Secured) -> None:
    """Not in logs, status, the configuration of the processes, arguments or answers."""
    stack, secret = secured.stack, secured.password
    files = [one for one in stack.layout.data_dir.rglob("*") if one.is_file()]
    assert [one for one in files if secret.encode() in one.read_bytes()] == []
    for one in stack.processes().values():
        assert secret.encode() not in Path(f"/proc/{one['pid']}/cmdline").read_bytes()
    answers = [stack.command(*words) for words in (["config", "show"], ["status"], ["doctor"])]
    assert all(secret not in one.stdout + one.stderr for one in answers)
    assert "takes us, by SASL_SSL" in answers[-1].stdout
    assert "in partition 1" in answers[1].stdout  # how far the workers are: Kafka was asked


def test_a_worker_and_a_client_by_mutual_tls(kafka: SecuredKafka, tmp_path: Path) -> None:
    """A certificate instead of a password; two fleetcerts share the Kafka and do not meet."""
    cert, key = kafka.certificate("plant-8")
    kafka.grant("CN=plant-8", "plant-8.")
    document = said(
        kafka,
        bootstrap=kafka.certificates,
        prefix="plant-8.",
        securityProtocol="SSL",
        tls={"ca": str(kafka.ca), "cert": str(cert), "key": str(key)},
    ) | {"worker": {"dataDir": str(tmp_path / "rows")}}
    file = configured(tmp_path, document)
    cluster = load(file, environment={}).configuration.cluster
    topics.create_topics(cluster, 1)
    log = tmp_path / "worker.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "streams", "worker", "--config", str(file)]
        worker = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        with Fleet(cluster) as fleet:
            until(
                lambda: fleet.partition_row(0).applied_offset >= 0,
                within=WITHIN,
                describe=log.read_text,
            )
            assert fleet.ids() == []
            assert fleet.partitions(DEVICE_EVENTS) == [0]
    finally:
        worker.terminate()
        assert worker.wait(ENDS_SECONDS) == 0, log.read_text()


def run(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=ENDS_SECONDS,
        check=False,
        env=os.environ | {"COLUMNS": "160"} | variables,
    )


COMMANDS = {"a process": ["streams", "worker"], "a command": ["client.cli", "device", "list"]}


async def test_a_wrong_password_ends_each_with_what_to_do(
    kafka: SecuredKafka, tmp_path: Path
) -> None:
    """Where it starts, not in a log that goes on for ever; and the password is not told."""
    kafka.user("somebody")
    wrong = "not-the-password-of-anybody"
    file = configured(tmp_path, said(kafka, sasl={"username": "somebody"}))
    variables = {
        "FLEETCERT_CONFIG": str(file),
        "FLEETCERT_KAFKA_SASL_PASSWORD": wrong,
        "FLEETCERT_STACK_DATA_DIR": str(tmp_path / "stack"),
    }
    ran = await asyncio.gather(
        *(
            asyncio.to_thread(run, [sys.executable, "-m", *words], **variables)
            for words in COMMANDS.values()
        )
    )
    for name, done in zip(COMMANDS, ran, strict=True):
        told = done.stdout + done.stderr
        assert done.returncode == 1, (name, told)
        assert f"Kafka at {kafka.passwords} refuses us" in told, (name, told)
        assert "FLEETCERT_KAFKA_SASL_PASSWORD" in told, (name, told)
        assert wrong not in told, name
