"""One value says how Kafka is reached; every client of every process is made of it."""

from pathlib import Path

import pytest

from configuration.cluster import Cluster
from configuration.load import load

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
