"""A Kafka that others use: TLS, a password or a certificate, and rules about who may what.

Each process is somebody else to Kafka, and may do what it does and no more. The broker writes down
each verdict of its rules: so what was used is known, and what was refused. Nobody may touch a name
outside the prefix: a client that forgot it would be refused.
"""

import asyncio
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from client import rights
from client.fleet import Fleet
from client.local import topics
from configuration.cluster import Cluster
from configuration.load import load
from configuration.model import Configuration
from schemas.topics import BY_NAME, DECISIONS, DEVICE_EVENTS
from tests.helpers.devices import devices
from tests.helpers.est import coap, csr, enrol
from tests.helpers.java import kafka_tool
from tests.helpers.secured_kafka import (
    ENDS_SECONDS,
    SecuredKafka,
    configured,
    run,
    said,
    secured_kafka,
)
from tests.helpers.stack import RunningStack, running_stack
from tests.helpers.wait import until, until_async

WITHIN = 60.0
APART = "plant-9."
PROCESSES = ("bridge", "coap", "est", "issuer", "worker")
PEOPLE = ("operator", "administrator")
PREFIXED_ID = re.compile("^(fleetcert-).*state-.*")


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    """One broker for this file, as a process: its listeners are the subject."""
    with secured_kafka(tmp_path_factory.mktemp("secured")) as made:
        yield made


@dataclass(frozen=True)
class Apart:
    """A stack whose processes are each somebody else to Kafka, and two people."""

    stack: RunningStack
    configurations: dict[str, Path]
    """By person, and by process: the one that shows Kafka its name."""
    passwords: list[str]

    def cluster(self, name: str) -> Cluster:
        """Kafka, as one of them reaches it."""
        return load(self.configurations[name], environment={}).configuration.cluster

    def operator(self, *words: str) -> str:
        """Run a command as the operator; return what it said."""
        files = {"CONFIG": self.configurations["operator"]}
        files |= {"STACK_DATA_DIR": self.stack.layout.data_dir}
        variables = {f"FLEETCERT_{name}": str(file) for name, file in files.items()}
        done = run([sys.executable, "-m", "client.cli", *words], **variables)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def apart(kafka: SecuredKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    """A whole stack, each process under a name of its own, with the rules that we print for it."""
    folder = tmp_path_factory.mktemp("apart")
    sasl = {
        name: {"username": f"p9-{name}", "passwordFile": str(kafka.user(f"p9-{name}"))}
        for name in (*PROCESSES, *PEOPLE)
    }
    broker = configured(folder / "broker", {"kafka": {"bootstrap": kafka.plain.bootstrap}})
    words = ["kafka", "acls", "--apply", "--prefix", APART]
    words += [f"--user={name}=User:{one['username']}" for name, one in sasl.items()]
    made = run([sys.executable, "-m", "client.cli", *words], FLEETCERT_CONFIG=str(broker))
    assert made.returncode == 0, made.stderr
    files = {
        name: configured(folder / name, said(kafka, APART, sasl=one)) for name, one in sasl.items()
    }
    users = {name: sasl[name] for name in PROCESSES}
    whole = said(kafka, APART, sasl=sasl["administrator"], users=users)
    with running_stack(folder / "stack", config=configured(folder, whole)) as stack:
        secrets = [Path(one["passwordFile"]).read_text().strip() for one in sasl.values()]
        yield Apart(stack, files, secrets)


async def test_each_process_has_the_rights_it_needs(
    apart: Apart, kafka: SecuredKafka, tmp_path: Path
) -> None:
    """Over MQTT a rotation to its proof; over EST a first certificate, used over CoAP.

    Kafka refuses nobody anything on the way: not where it would be noticed, nor elsewhere.
    """
    stack = apart.stack
    async with devices(stack, tmp_path, ["apart-pump"]) as (device,):
        await device.start()
        await until_async(
            lambda: stack.fleet.find("apart-pump"), within=WITHIN, describe="it is registered"
        )
        await asyncio.to_thread(apart.operator, "device", "rotate", "apart-pump")
        asked = await asyncio.to_thread(
            apart.operator, "device", "invite", "apart-lamp", "--protocol", "coap", "--json",
            "--registrar", str(stack.layout.services_dir / "registrar.pem"),
        )  # fmt: skip
        await asyncio.to_thread(first_use, stack, json.loads(asked)["token"], tmp_path)
        await until_async(device.rotated, within=WITHIN, describe="its certificate is rotated")
        assert await device.finish() == 0
    letters = await asyncio.to_thread(
        apart.operator, "events", "tail", "--topic", "dead.letters", "--no-follow", "--since", "1h"
    )
    assert "apart-lamp" in letters
    assert '"identical": false' not in apart.operator("replay", "--verify", "--json")
    stack.command("status")  # which asks how far the workers are
    administrator = apart.cluster("administrator")
    admin = AdminClient(administrator.settings())  # its answers end with it
    cut = TopicPartition(administrator.named(DEVICE_EVENTS), 0, 0)
    (done,) = admin.delete_records([cut]).values()
    done.result(ENDS_SECONDS)
    for name in (*PROCESSES, *PEOPLE):
        assert kafka.judged(f"User:p9-{name}", "Denied") == set(), name
    for name in PROCESSES:
        assert unused(kafka, name) <= AFTER_A_FAULT[name], name


AFTER_A_FAULT = {
    "bridge": {("WRITE", "Topic", "dead.letters")},
    "coap": set(),
    "est": {("WRITE", "Topic", "device.events")},
    "issuer": {("WRITE", "Topic", "dead.letters")},
    "worker": {("WRITE", "Topic", "dead.letters")},
}
"""What a process did not need on a good day: a refusal to tell, a letter to set aside."""


def unused(kafka: SecuredKafka, name: str) -> set[tuple[str, str, str]]:
    """Return the rights of a process that it has not used so far."""
    kinds = {"topic": "Topic", "group": "Group", "transactional-id": "TransactionalId"}
    own = rights.rules(rights.rights(Configuration())[name], "")
    given = {(one.operation.upper(), kinds[one.resource], one.name) for one in own}
    used = {
        (operation, kind, PREFIXED_ID.sub(r"\1", name_there.removeprefix(APART)))
        for operation, kind, name_there in kafka.judged(f"User:p9-{name}")
    }
    return given - used


def first_use(stack: RunningStack, token: str, folder: Path) -> None:
    """Enrol by curl, report by libcoap, once as it should be and once not."""
    request, kept = csr("apart-lamp", folder), folder / "lamp.pem"
    found = until(
        lambda: (made := enrol(stack, "apart-lamp", token, request))[0] == 200 and made[1],
        within=WITHIN,
        describe="it is enrolled",
    )
    command = "openssl base64 -d | openssl pkcs7 -inform DER -print_certs"
    done = subprocess.run(command, shell=True, input=found, capture_output=True, check=True)
    kept.write_bytes(done.stdout)
    until(lambda: stack.fleet.find("apart-lamp"), within=WITHIN, describe="it is registered")
    for body, code in (("{}", "2.04"), ("{", "4.00")):
        words = ["events/heat", "-m", "post", "-t", "50", "-e", body]
        answer = coap(stack, stack.layout.coap_port, kept, folder / "next.key", *words)
        assert code in answer, answer


@pytest.mark.parametrize("name", [*PROCESSES, "operator"])
def test_no_process_writes_what_is_anothers(apart: Apart, name: str) -> None:
    """A bridge decides nothing, an issuer commands nothing: Kafka refuses each record."""
    cluster, refused = apart.cluster(name), []
    may = rights.rights(Configuration())[name].writes
    producer = Producer(cluster.settings({"message.timeout.ms": 20_000, "log_level": 0}))
    foreign = [one for one in BY_NAME if one not in may]
    for topic in foreign:
        producer.produce(
            cluster.named(topic), b"x", on_delivery=lambda error, _: refused.append(error.code())
        )
    assert producer.flush(ENDS_SECONDS) == 0
    assert refused == [KafkaError.TOPIC_AUTHORIZATION_FAILED] * len(foreign)
    assert (DECISIONS in foreign) == (name != "worker")


def test_kafkas_own_tool_makes_the_same_rules(apart: Apart, kafka: SecuredKafka) -> None:
    """What is printed is what was made: after it, Kafka holds no rule more."""
    broker = configured(kafka.folder / "printed", {"kafka": {"bootstrap": kafka.plain.bootstrap}})
    words = ["kafka", "acls", "--prefix", APART, "--user", "worker=User:p9-worker"]
    printed = run([sys.executable, "-m", "client.cli", *words], FLEETCERT_CONFIG=str(broker))
    before = kafka.rules("User:p9-worker")
    assert len(before) == len(rights.rules(rights.rights(Configuration())["worker"], ""))
    *_, one, other = printed.stdout.splitlines()
    for line in (one, other):
        program, *options = shlex.split(line)
        assert program == "kafka-acls.sh"
        kafka_tool("AclCommand", *options, input="")
    assert ("prefixed" in one, "prefixed" in other) == (False, True)
    assert kafka.rules("User:p9-worker") == before


def test_no_password_stands_anywhere_but_in_its_file(apart: Apart) -> None:
    """Not in logs, status, the configuration of the processes, arguments or answers."""
    stack, secrets = apart.stack, [one.encode() for one in apart.passwords]
    files = [one for one in stack.layout.data_dir.rglob("*") if one.is_file()]
    shown = [one.read_bytes() for one in files]
    for one in stack.processes().values():
        shown.append(Path(f"/proc/{one['pid']}/cmdline").read_bytes())
    answers = [stack.command(*words) for words in (["config", "show"], ["status"], ["doctor"])]
    shown += [(one.stdout + one.stderr).encode() for one in answers]
    assert [secret for secret in secrets for one in shown if secret in one] == []
    assert "takes us, by SASL_SSL" in answers[-1].stdout
    assert "in partition 1" in answers[1].stdout  # how far the workers are: Kafka was asked
    assert {"issuer", "bridge-0", "worker-0"} <= set(stack.processes())
    assert "kafka" not in stack.processes()


def test_a_worker_and_a_client_by_mutual_tls(kafka: SecuredKafka, tmp_path: Path) -> None:
    """A certificate instead of a password; two fleetcerts share the Kafka and do not meet."""
    cert, key = kafka.certificate("plant-8")
    kafka.grant("CN=plant-8", "plant-8.")
    document = said(
        kafka,
        "plant-8.",
        bootstrap=kafka.certificates,
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


COMMANDS = {"a process": ["streams", "worker"], "a command": ["client.cli", "device", "list"]}


async def test_a_wrong_password_ends_each_with_what_to_do(
    kafka: SecuredKafka, tmp_path: Path
) -> None:
    """Where it starts, not in a log that goes on for ever; and the password is not told.

    The doctor tells whose it is, where a process has a name of its own.
    """
    right = kafka.user("somebody")
    wrong = "not-the-password-of-anybody"
    users = {"est": {"username": "somebody", "passwordFile": str(kafka.secret("other", wrong))}}
    sasl = {"username": "somebody", "passwordFile": str(right)}
    asked = configured(tmp_path / "asked", said(kafka, APART, sasl=sasl, users=users))
    doctor = [sys.executable, "-m", "client.cli", "doctor"]
    told = await asyncio.to_thread(run, doctor, FLEETCERT_CONFIG=str(asked))
    assert f"est: Kafka at {kafka.passwords} refuses us" in told.stdout
    assert wrong not in told.stdout + told.stderr
    file = configured(tmp_path, said(kafka, APART, sasl={"username": "somebody"}))
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
