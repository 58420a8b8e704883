"""A transaction that Kafka ends without its markers: nothing of it comes twice, nothing is lost."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from client.local.topics import create_topics
from configuration.cluster import Cluster
from schemas import codec
from schemas.decisions import Decision
from schemas.envelope import Position
from schemas.states import PARTITION_KEY, PartitionRow
from schemas.topics import BY_NAME, DECISIONS, DEVICE_EVENTS, DEVICE_STATE
from streams.engine.changelog import BY_KEY, Changelog
from streams.engine.failure import EngineFailed
from streams.engine.log import READ_UNCOMMITTED, bounds, committed
from streams.engine.store import Position as Kept
from streams.engine.store import Store
from streams.engine.table import APPLICATION
from tests.helpers.engine import Rig, remove_topics
from tests.helpers.kafka import KafkaProcess, second_broker
from tests.helpers.wait import until

ON_SECOND = (DEVICE_STATE, DECISIONS)
FENCED_SECONDS = 20.0
Brokers = tuple[KafkaProcess, KafkaProcess]


def offsets_kept(broker: KafkaProcess) -> bool:
    """Ask for a group's offset, for which Kafka makes the topic that keeps it; tell if it has."""
    try:
        return committed(Cluster(broker.bootstrap), "first", "none", 0) is None
    except EngineFailed:
        return False


@pytest.fixture(scope="module")
def brokers(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Brokers]:
    """Two brokers. The first keeps Kafka's own topics: it alone is there when they are made."""
    folder = tmp_path_factory.mktemp("brokers")
    first = KafkaProcess(folder / "first")
    first.start()
    try:
        transactional = {"bootstrap.servers": first.bootstrap, "transactional.id": "first"}
        Producer(transactional).init_transactions(30)
        until(lambda: offsets_kept(first), within=30, describe="the group's topic has a leader")
        second = second_broker(first, folder / "second")
        second.start()
        try:
            yield first, second
        finally:
            second.kill()
    finally:
        first.kill()


@pytest.fixture
def engine(brokers: Brokers, tmp_path: Path) -> Rig:
    """Empty topics: rows and decisions on the second broker, the others on the first."""
    remove_topics(brokers[0].bootstrap)
    admin = AdminClient({"bootstrap.servers": brokers[0].bootstrap})
    placed = [
        NewTopic(name, 1, replica_assignment=[[2 if name in ON_SECOND else 1]], config=one.config)
        for name, one in BY_NAME.items()
    ]
    for made in admin.create_topics(placed).values():
        made.result()
    create_topics(Cluster(brokers[0].bootstrap), 1)
    return Rig(brokers[0].bootstrap, tmp_path, "markers", 1)


def leader(engine: Rig, topic: str) -> int:
    """Return the broker that leads the topic's partition, -1 for none."""
    listed = AdminClient({"bootstrap.servers": engine.bootstrap}).list_topics(topic, timeout=10)
    return int(listed.topics[topic].partitions[0].leader)


def ends(engine: Rig, topic: str) -> tuple[int, int]:
    """Return where the topic ends for who reads what is committed, and where it ends."""
    cluster = Cluster(engine.bootstrap)
    return bounds(cluster, topic, 0).high, bounds(cluster, topic, 0, READ_UNCOMMITTED).high


def applied(engine: Rig) -> bytes:
    """Return the partition row of an owner that has applied all of the history."""
    last = bounds(Cluster(engine.bootstrap), DEVICE_EVENTS, 0).high - 1
    return codec.encode(PartitionRow(applied_offset=last))


def lost(engine: Rig, second: KafkaProcess, row: bytes) -> int:
    """Commit a row and a decision while their partitions have no leader; return what follows."""
    cause = Position(DEVICE_EVENTS, 0, 0)
    decision = Decision("lost", "EventRefused", "malformed", "info", "x", cause, 0, "", 1, 0, {})

    def fence_the_second() -> None:
        for topic in ON_SECOND:
            until(lambda: ends(engine, topic)[1] > 0, describe=f"{topic} has a record")  # noqa: B023
        second.signal(signal.SIGSTOP)
        until(
            lambda: {leader(engine, topic) for topic in ON_SECOND} == {-1},
            within=FENCED_SECONDS,
            describe="the second broker is fenced",
        )

    log = Changelog(Cluster(engine.bootstrap), DEVICE_STATE, 0, APPLICATION)
    log.fence()
    outputs: dict[tuple[str, int], list[dict[str, Any]]] = {
        (DECISIONS, BY_KEY): [{"key": b"device:x", "value": codec.encode(decision)}]
    }
    following = log.commit(outputs, [(PARTITION_KEY, row)], fence_the_second)
    second.signal(signal.SIGCONT)
    until(
        lambda: {leader(engine, topic) for topic in ON_SECOND} == {2},
        within=FENCED_SECONDS,
        describe="the second broker leads again",
    )
    return following


@pytest.mark.parametrize("disk", ["ahead", "empty"])
def test_what_a_lost_marker_leaves_open_is_aborted_and_folded_again(
    engine: Rig, brokers: Brokers, disk: str
) -> None:
    """Kafka says that a transaction is committed, and writes no marker: there was no leader.

    Without a look at it, the next commit of its owner would end both: what it said stands too.
    """
    engine.report(1, 1)
    row = applied(engine)
    following = lost(engine, brokers[1], row)
    for topic in ON_SECOND:
        readable, end = ends(engine, topic)
        assert readable == 0 < end, f"{topic}: Kafka writes these markers now; look at 0036"
    if disk == "ahead":  # as its owner left it: it was told that the transaction is committed
        topic_id = Changelog(Cluster(engine.bootstrap), DEVICE_STATE, 0, "tests").topic_id()
        store = Store(engine.directory / disk / DEVICE_STATE / "0")
        store.write([(PARTITION_KEY, 0, row)], Kept(topic_id, following))
        store.close()
        engine.skip(codec.decode(row).applied_offset + 1)
    with engine.owner(disk) as table:
        assert table.row.applied_offset == -1
        engine.fold(table)
    engine.until_applied(1)
    assert "lost" not in engine.decisions()
    engine.assert_undisturbed()
