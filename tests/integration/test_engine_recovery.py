"""Recovery on a real Kafka: whatever became of disk and changelog, the rows are the replay's."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import OFFSET_END, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from client.local.topics import create_topics
from schemas import codec
from schemas.states import PARTITION_KEY
from schemas.topics import DEVICE_EVENTS, DEVICE_STATE
from streams import replay
from streams.engine import history
from streams.engine.changelog import Changelog
from streams.engine.failure import EngineFailed
from streams.engine.log import bounds
from streams.engine.recovery import Abandoned
from streams.engine.table import APPLICATION, Place, TablePartition
from streams.programs import DEVICES
from tests.helpers.engine import Rig, rig
from tests.helpers.wait import until

Table = TablePartition[object]


@pytest.fixture
def engine(kafka: str, tmp_path: Path) -> Rig:
    """Empty topics, a group of its own."""
    return rig(kafka, tmp_path)


@contextmanager
def owner(engine: Rig, disk: str) -> Iterator[Table]:
    """Own the partition in this process, with the rows on `disk`."""
    place = Place(engine.bootstrap, engine.application, engine.directory / disk, engine.snapshots)
    table: Table = TablePartition(DEVICES, 0, place)
    table.open(threading.Event())
    yield table
    table.close()


def fold(engine: Rig, table: Table) -> None:
    """Apply what is not applied yet, and commit the offset as Faust would."""
    end = bounds(engine.bootstrap, DEVICE_EVENTS, 0).high
    records = history.records(engine.bootstrap, DEVICE_EVENTS, 0, table.row.applied_offset + 1, end)
    table.apply(list(records))
    skip(engine, table.row.applied_offset + 1)


def skip(engine: Rig, offset: int) -> None:
    """Commit an offset for the group."""
    group = {"bootstrap.servers": engine.bootstrap, "group.id": engine.application}
    consumer = Consumer(group)
    consumer.commit(offsets=[TopicPartition(DEVICE_EVENTS, 0, offset)], asynchronous=False)
    consumer.close()


def lived(engine: Rig, disk: str, first: int, last: int) -> None:
    """Report from `first` to `last` and fold it on `disk`."""
    engine.report(first, last)
    with owner(engine, disk) as table:
        fold(engine, table)


def cut(engine: Rig, offset: int) -> None:
    """Delete the changelog's records before `offset`, which its topic does not allow as made."""
    admin = AdminClient({"bootstrap.servers": engine.bootstrap})
    entry = ConfigEntry(
        "cleanup.policy", "compact,delete", incremental_operation=AlterConfigOpType.SET
    )
    resource = ConfigResource(ConfigResource.Type.TOPIC, DEVICE_STATE, incremental_configs=[entry])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result()
    for done in admin.delete_records([TopicPartition(DEVICE_STATE, 0, offset)]).values():
        done.result()


def aborted(engine: Rig) -> None:
    """End the changelog with an aborted transaction of its own owner, and its marker."""
    log = Changelog(engine.bootstrap, DEVICE_STATE, 0, APPLICATION)
    log.fence()

    def fail() -> None:
        raise EngineFailed("injected")

    with pytest.raises(EngineFailed, match="injected"):
        log.commit({}, [(PARTITION_KEY, b"stray")], fail)
    Changelog(engine.bootstrap, DEVICE_STATE, 0, APPLICATION).fence()


def tombstone(engine: Rig) -> None:
    """End the changelog with a committed tombstone of a key that no row has."""
    log = Changelog(engine.bootstrap, DEVICE_STATE, 0, APPLICATION)
    log.fence()
    log.commit({}, [(b"gone", None)])


def emptied(engine: Rig) -> None:
    """Delete every record of the changelog."""
    cut(engine, OFFSET_END)


def anew(engine: Rig) -> None:
    """Delete the changelog's topic and create it again."""
    admin = AdminClient({"bootstrap.servers": engine.bootstrap})
    for future in admin.delete_topics([DEVICE_STATE]).values():
        future.result()
    until(lambda: DEVICE_STATE not in admin.list_topics(timeout=10).topics, describe="it is gone")
    create_topics(engine.bootstrap, engine.partitions)


@pytest.mark.parametrize("disk", ["kept", "empty"])
@pytest.mark.parametrize("end", [aborted, tombstone, emptied, anew])
def test_the_rows_come_back_whatever_the_changelog_ends_with(
    engine: Rig, disk: str, end: object
) -> None:
    """Markers, a tombstone, nothing at all, a new topic; on the disk it had and on an empty one."""
    lived(engine, "kept", 1, 3)
    assert callable(end)
    end(engine)
    with owner(engine, disk) as table:
        assert table.row.rows == engine.devices
    lived(engine, disk, 4, 6)
    with owner(engine, "third") as table:
        assert table.row.rows == engine.devices
    assert engine.applied(6)
    engine.assert_undisturbed()


def test_a_store_behind_the_cut_is_thrown_away(engine: Rig) -> None:
    """Rows that changed in the part that is gone would stay old: they are folded anew."""
    lived(engine, "behind", 1, 3)
    lived(engine, "ahead", 4, 6)
    cut(engine, bounds(engine.bootstrap, DEVICE_STATE, 0).high - engine.devices // 2)
    with owner(engine, "behind") as table:
        fold(engine, table)
    assert engine.applied(6)
    engine.assert_undisturbed()


def test_a_cut_table_without_its_history_fails_loudly(engine: Rig) -> None:
    """Neither the changelog nor the history holds all rows, and no snapshot does: it says so."""
    lived(engine, "kept", 1, 3)
    emptied(engine)
    admin = AdminClient({"bootstrap.servers": engine.bootstrap})
    for future in admin.delete_records([TopicPartition(DEVICE_EVENTS, 0, 5)]).values():
        future.result()
    with pytest.raises(EngineFailed, match=r"begins at 5.*no sound"), owner(engine, "new"):
        pass


def test_an_emptied_table_of_a_group_without_offsets_fails_loudly(engine: Rig) -> None:
    """Nobody knows how far the history was applied: folding it all again would double effects."""
    engine.report(1, 1)
    with owner(engine, "kept") as table:
        end = bounds(engine.bootstrap, DEVICE_EVENTS, 0).high
        table.apply(list(history.records(engine.bootstrap, DEVICE_EVENTS, 0, 0, end)))
    emptied(engine)
    with pytest.raises(EngineFailed, match="was emptied, and group"), owner(engine, "new"):
        pass


def test_what_the_group_skipped_is_read_from_the_history(engine: Rig) -> None:
    """The row says how far the history was applied; a committed offset beyond it is a hint."""
    lived(engine, "kept", 1, 3)
    engine.report(4, 6)
    end = bounds(engine.bootstrap, DEVICE_EVENTS, 0).high
    last = history.records(engine.bootstrap, DEVICE_EVENTS, 0, end - 1, end)
    with owner(engine, "kept") as table:
        table.apply(list(last))
    assert engine.applied(6)
    engine.assert_undisturbed()


def test_an_opening_that_is_no_longer_wanted_ends(engine: Rig) -> None:
    """A revoked partition does not wait for its recovery."""
    lived(engine, "kept", 1, 3)
    place = Place(engine.bootstrap, engine.application, engine.directory / "b", engine.snapshots)
    table: Table = TablePartition(DEVICES, 0, place)
    abandon = threading.Event()
    abandon.set()
    with pytest.raises(Abandoned):
        table.open(abandon)
    table.close()


def test_a_recovery_that_cannot_finish_fails_loudly(engine: Rig) -> None:
    """A deadline in the past is an EngineFailed that says where the reading stands."""
    changelog = Changelog(engine.bootstrap, DEVICE_STATE, 0, "tests")
    changelog.fence()
    with pytest.raises(EngineFailed, match="stands at 0 of"):
        list(changelog.read(0, within=-1.0))


def test_only_committed_records_are_history(engine: Rig) -> None:
    """A worker folds what a transaction committed, not what one aborted, and steps over markers."""
    engine.report(1, 1)
    producer = Producer({"bootstrap.servers": engine.bootstrap, "transactional.id": "tests"})
    producer.init_transactions(10)
    for sequence, end in ((9, producer.abort_transaction), (2, producer.commit_transaction)):
        producer.begin_transaction()
        for number in range(engine.devices):
            event = engine.reported(number, sequence)
            producer.produce(DEVICE_EVENTS, codec.encode(event), event.device_id)
        producer.flush()
        end()
    with engine.worker():
        engine.until_applied(2)
        engine.report(3, 3)
        engine.until_applied(3)
    engine.assert_undisturbed()
    assert replay.verify(engine.bootstrap, 0).base_offset == -1
