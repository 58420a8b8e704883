"""One value says how Kafka is reached; every client of every process is made of it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configuration.cluster import Cluster
from configuration.load import load
from configuration.source import InvalidConfiguration
from schemas.topics import DEVICE_STATE, TOPICS, objections

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
