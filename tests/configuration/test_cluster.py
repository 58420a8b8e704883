"""One value says how Kafka is reached; every client of every process is made of it."""

from pathlib import Path

import pytest
from confluent_kafka import KafkaError
from hypothesis import given
from hypothesis import strategies as st

from client.local.reload import changes
from configuration import keys
from configuration.cluster import Cluster, Security
from configuration.load import load, written
from configuration.look import refusal
from configuration.model import Configuration
from configuration.schema import shown
from configuration.source import InvalidConfiguration
from schemas.topics import DEVICE_STATE, TOPICS, objections
from streams import app
from streams.engine.failure import EngineFailed

NAMES = st.text("abc.-_", min_size=1, max_size=20)
PREFIXES = st.text("abc.-_", max_size=20)
ROOT = Path(__file__).parents[2]
PACKAGES = ("bridges", "client", "configuration", "device", "pki", "protocols", "streams")


def test_no_client_is_configured_beside_the_cluster() -> None:
    """The address of Kafka stands in one file of the packages: nobody can forget the rest of it."""
    files = [one for name in PACKAGES for one in (ROOT / name).rglob("*.py")]
    found = [one for one in files if "bootstrap.servers" in one.read_text()]
    assert found == [ROOT / "configuration" / "cluster.py"]


def test_a_client_gets_the_address_and_what_is_its_own() -> None:
    """What a client adds stands beside how Kafka is reached."""
    made = Cluster("kafka:9092").settings({"acks": "all"})
    assert made == {"bootstrap.servers": "kafka:9092", "acks": "all"}


@pytest.mark.parametrize("where", ["kafka:9092", Cluster("kafka:9092")])
def test_the_python_client_takes_an_address_or_a_cluster(where: Cluster | str) -> None:
    """A program that has no more to say than the address says the address."""
    assert Cluster.of(where) == Cluster("kafka:9092")


def test_the_configuration_says_where_kafka_is() -> None:
    """Its own address, else the local stack's."""
    assert load(environment={}).configuration.cluster == Cluster("127.0.0.1:9092")
    named = {"FLEETCERT_KAFKA_BOOTSTRAP": "kafka-1:9092,kafka-2:9092"}
    assert load(environment=named).configuration.cluster.bootstrap == "kafka-1:9092,kafka-2:9092"


def test_another_address_keeps_all_else() -> None:
    """An option of a command names the address alone."""
    assert Cluster("a:1").at("b:2") == Cluster("b:2")


@given(PREFIXES, NAMES)
def test_a_name_comes_back_from_kafka_as_it_was(prefix: str, name: str) -> None:
    """Plain names go into ids and records: they are the same under every prefix."""
    cluster = Cluster(prefix=prefix)
    assert cluster.plain(cluster.named(name)) == name
    assert cluster.named(name).startswith(prefix)


@given(PREFIXES, NAMES, NAMES)
def test_groups_and_transactions_stand_behind_the_prefix(prefix: str, one: str, two: str) -> None:
    """Whoever makes a client gives plain names; no other setting is touched."""
    own = {"group.id": one, "transactional.id": two, "group.instance.id": one, "client.id": two}
    made = Cluster("kafka:9092", prefix).settings(own)
    assert made == own | {
        "bootstrap.servers": "kafka:9092",
        "group.id": prefix + one,
        "transactional.id": prefix + two,
    }


def test_the_topics_are_looked_for_under_the_prefix() -> None:
    """Another fleetcert's topics on the same Kafka are not ours, nor is an unprefixed one."""
    named = Cluster(prefix="ours.").named
    plain = {one.name: one.partitions(3) for one in TOPICS}
    ours = {named(name): count for name, count in plain.items()}
    assert objections(ours | {name: 1 for name in plain}, named) == []
    missing = objections(plain, named)
    assert missing == [f"missing topics: {', '.join(ours)}"]
    wrong = objections(ours | {named(DEVICE_STATE): 7}, named)
    assert wrong == ["topic ours.device.state has 7 partitions, not 3"]


@pytest.mark.parametrize("prefix", ["a b", "a/", "x" * 65])
def test_a_prefix_that_kafka_does_not_take_is_refused(prefix: str) -> None:
    """A topic's name is of letters, digits, dot, underscore and hyphen."""
    with pytest.raises(InvalidConfiguration, match="1 to 64 letters"):
        load(environment={"FLEETCERT_KAFKA_PREFIX": prefix})


def secured(folder: Path, more: str = "", mode: int = 0o600, password: str = "hunter-2") -> str:
    """Return a configuration that names a file with a password."""
    file = folder / "password"
    file.write_text(f"{password}\n")
    file.chmod(mode)
    return (
        "kafka: {bootstrap: 'kafka:9093', prefix: plant-7., securityProtocol: SASL_SSL, "
        f"tls: {{ca: ca.pem}}, sasl: {{username: plant, passwordFile: {file}{more}}}}}"
    )


def read(folder: Path, text: str, environment: dict[str, str] | None = None) -> Configuration:
    """Return what holds with this file."""
    file = folder / "fleetcert.yaml"
    file.write_text(text)
    return load(file, environment or {}).configuration


def test_every_client_gets_tls_the_name_and_the_password(tmp_path: Path) -> None:
    """In librdkafka's words, whatever else a client wants."""
    made = read(tmp_path, secured(tmp_path)).cluster.settings({"group.id": "issuer"})
    assert made == {
        "bootstrap.servers": "kafka:9093",
        "group.id": "plant-7.issuer",
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": str(tmp_path / "ca.pem"),
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "plant",
        "sasl.password": "hunter-2",
    }


def test_a_certificate_is_enough_where_kafka_wants_one(tmp_path: Path) -> None:
    """Mutual TLS: no name, no password."""
    text = "kafka: {bootstrap: 'k:1', securityProtocol: SSL, tls: {cert: me.pem, key: me.key}}"
    made = read(tmp_path, text).cluster.settings()
    assert made == {
        "bootstrap.servers": "k:1",
        "security.protocol": "SSL",
        "ssl.certificate.location": str(tmp_path / "me.pem"),
        "ssl.key.location": str(tmp_path / "me.key"),
    }


def test_the_variable_goes_before_the_file_and_is_shown_nowhere(tmp_path: Path) -> None:
    """Not in what is shown, written for the processes of the stack, told of changes, or printed."""
    text = secured(tmp_path)
    held = read(tmp_path, text, {"FLEETCERT_KAFKA_SASL_PASSWORD": "other-secret"})
    assert held.cluster.settings()["sasl.password"] == "other-secret"
    key = keys.every()["kafka.sasl.password"]
    told = [
        repr(held),
        repr(held.cluster),
        str(held.cluster),
        written(held),
        str(shown(key, keys.get(held, key))),
        str(changes(read(tmp_path, text), held)),
    ]
    assert [one for one in told if "other-secret" in one] == []
    assert "(not shown)" in told[-2]


def refused(folder: Path, text: str, environment: dict[str, str] | None = None) -> str:
    """Return why a configuration is refused."""
    with pytest.raises(InvalidConfiguration) as told:
        _ = read(folder, text, environment).cluster
    return str(told.value)


def test_a_password_in_the_configuration_is_refused_and_not_told(tmp_path: Path) -> None:
    """The place is told, with what to do instead."""
    told = refused(tmp_path, secured(tmp_path, more=", password: my-secret"))
    assert "FLEETCERT_KAFKA_SASL_PASSWORD" in told
    assert "fleetcert.yaml:1:" in told
    assert "my-secret" not in told


def test_a_process_is_who_its_own_name_says(tmp_path: Path) -> None:
    """Not even the variable's password is shown for it; who has no name of its own is sasl's."""
    own = tmp_path / "worker.password"
    own.touch(0o600)
    own.write_text("of-the-worker\n")
    users = f", users: {{worker: {{username: w, passwordFile: {own.name}}}}}}}"
    text = secured(tmp_path)[:-1] + users
    held = read(tmp_path, text, {"FLEETCERT_KAFKA_SASL_PASSWORD": "of-the-operator"})
    shown_to_kafka = [
        (made["sasl.username"], made["sasl.password"])
        for made in (one.cluster.settings() for one in (held, held.of("worker"), held.of("est")))
    ]
    operator = ("plant", "of-the-operator")
    assert shown_to_kafka == [operator, ("w", "of-the-worker"), operator]
    again = read(tmp_path, written(held), {"FLEETCERT_KAFKA_SASL_PASSWORD": "of-the-operator"})
    assert again.of("worker").cluster == held.of("worker").cluster
    own.chmod(0o644)
    with pytest.raises(InvalidConfiguration, match=r"kafka\.users\.worker\.passwordFile"):
        _ = held.of("worker").cluster


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{users: {est: {username: me, passwordFile: x}}}", "users want securityProtocol"),
        ("{users: {est: {username: me}}}", "username and passwordFile go together"),
        ("{securityProtocol: SASL_PLAINTEXT}", "SASL_PLAINTEXT is refused"),
        ("{securityProtocol: SSL}", "wants bootstrap"),
        ("{bootstrap: 'k:1', securityProtocol: SASL_SSL}", "wants sasl.username"),
        (
            "{bootstrap: 'k:1', securityProtocol: SASL_SSL, sasl: {username: me}}",
            "FLEETCERT_KAFKA_SASL_PASSWORD",
        ),
        ("{bootstrap: 'k:1', sasl: {username: me}}", "wants securityProtocol: SASL_SSL"),
        ("{bootstrap: 'k:1', tls: {ca: x}}", "wants securityProtocol: SSL or SASL_SSL"),
        ("{bootstrap: 'k:1', securityProtocol: SSL, tls: {cert: x}}", "cert and key go together"),
        (
            "{bootstrap: 'k:1', securityProtocol: SSL, tls: {rejectUnauthorized: false}}",
            "false is refused",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """Nothing is sent in the clear by mistake, and no half of a thing is left out silently."""
    assert said in refused(tmp_path, f"kafka: {text}")


def test_a_password_file_must_be_there_and_be_ours_alone(tmp_path: Path) -> None:
    """Each with the file and what to do."""
    text = secured(tmp_path)
    assert "chmod 600" in refused(tmp_path, secured(tmp_path, mode=0o644))
    assert "is empty" in refused(tmp_path, secured(tmp_path, password=""))
    (tmp_path / "password").unlink()
    told = refused(tmp_path, text)
    assert "kafka.sasl.passwordFile" in told
    assert "No such file" in told


@pytest.mark.parametrize(
    ("code", "text", "advice"),
    [
        (KafkaError._AUTHENTICATION, "invalid credentials", "kafka.sasl"),
        (KafkaError._SSL, "certificate verify failed", "kafka.tls"),
        (KafkaError._TRANSPORT, "incorrect security.protocol", "kafka.securityProtocol"),
        (KafkaError._TRANSPORT, "Connection refused", ""),
    ],
)
def test_why_kafka_refuses_a_client_is_told_apart(code: int, text: str, advice: str) -> None:
    """A Kafka that is away refuses nobody."""
    found = refusal([KafkaError(KafkaError._ALL_BROKERS_DOWN), KafkaError(code, text)])
    assert advice in found
    assert bool(found) == bool(advice)


@pytest.mark.parametrize("security", [Security(), Security(username="me", password="secret")])
def test_fausts_own_client_shows_kafka_the_same(security: Security) -> None:
    """A worker consumes by aiokafka: the same protocol, mechanism, name and password."""
    made = app._credentials(security)
    assert made.protocol.value == security.protocol
    if security.username:
        assert (made.username, made.password) == ("me", "secret")
        assert made.mechanism.value == "SCRAM-SHA-512"
    assert "secret" not in repr(made)
    assert app._credentials(None) is None


def test_faust_is_told_of_files_that_cannot_be_used() -> None:
    """Before anything is connected."""
    with pytest.raises(EngineFailed, match=r"kafka\.tls"):
        app._credentials(Security(ca="nowhere.pem"))
