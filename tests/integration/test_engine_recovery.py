"""Recovery on a real Kafka: whatever became of disk and changelog, the rows are the replay's."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import OFFSET_END, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from client.fleet import Fleet
from client.local.topics import create_topics
from configuration.cluster import Cluster
from schemas import codec
from schemas.records import changed
from schemas.states import PARTITION_KEY
from schemas.topics import DEAD_LETTERS, DEVICE_EVENTS, DEVICE_STATE
from streams import replay
from streams.core.partition import Folded, Partition
from streams.engine import history
from streams.engine.changelog import Changelog
from streams.engine.failure import EngineFailed
from streams.engine.log import bounds
from streams.engine.program import Input
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


def lived(engine: Rig, disk: str, first: int, last: int) -> None:
    """Report from `first` to `last` and fold it on `disk`."""
    engine.report(first, last)
    with engine.owner(disk) as table:
        engine.fold(table)


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
    log = Changelog(Cluster(engine.bootstrap), DEVICE_STATE, 0, APPLICATION)
    log.fence()

    def fail() -> None:
        raise EngineFailed("injected")

    with pytest.raises(EngineFailed, match="injected"):
        log.commit({}, [(PARTITION_KEY, b"stray")], fail)
    Changelog(Cluster(engine.bootstrap), DEVICE_STATE, 0, APPLICATION).fence()


def tombstone(engine: Rig) -> None:
    """End the changelog with a committed tombstone of a key that no row has."""
    log = Changelog(Cluster(engine.bootstrap), DEVICE_STATE, 0, APPLICATION)
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
    create_topics(Cluster(engine.bootstrap), engine.partitions)


@pytest.mark.parametrize("disk", ["kept", "empty"])
@pytest.mark.parametrize("end", [aborted, tombstone, emptied, anew])
def test_the_rows_come_back_whatever_the_changelog_ends_with(
    engine: Rig, disk: str, end: object
) -> None:
    """Markers, a tombstone, nothing at all, a new topic; on the disk it had and on an empty one."""
    lived(engine, "kept", 1, 3)
    assert callable(end)
    end(engine)
    with engine.owner(disk) as table:
        assert table.row.rows == engine.devices
    lived(engine, disk, 4, 6)
    with engine.owner("third") as table:
        assert table.row.rows == engine.devices
    assert engine.applied(6)
    engine.assert_undisturbed()


def test_a_store_behind_the_cut_is_thrown_away(engine: Rig) -> None:
    """Rows that changed in the part that is gone would stay old: they are folded anew."""
    lived(engine, "behind", 1, 3)
    lived(engine, "ahead", 4, 6)
    cut(engine, bounds(Cluster(engine.bootstrap), DEVICE_STATE, 0).high - engine.devices // 2)
    with engine.owner("behind") as table:
        engine.fold(table)
    assert engine.applied(6)
    engine.assert_undisturbed()


def test_a_cut_table_without_its_history_fails_loudly(engine: Rig) -> None:
    """Neither the changelog nor the history holds all rows, and no snapshot does: it says so."""
    lived(engine, "kept", 1, 3)
    emptied(engine)
    admin = AdminClient({"bootstrap.servers": engine.bootstrap})
    for future in admin.delete_records([TopicPartition(DEVICE_EVENTS, 0, 5)]).values():
        future.result()
    with pytest.raises(EngineFailed, match=r"begins at 5.*no sound"), engine.owner("new"):
        pass


def test_an_emptied_table_of_a_group_without_offsets_fails_loudly(engine: Rig) -> None:
    """Nobody knows how far the history was applied: folding it all again would double effects."""
    engine.report(1, 1)
    with engine.owner("kept") as table:
        end = bounds(Cluster(engine.bootstrap), DEVICE_EVENTS, 0).high
        table.apply([list(history.records(Cluster(engine.bootstrap), DEVICE_EVENTS, 0, 0, end))])
    emptied(engine)
    with pytest.raises(EngineFailed, match="was emptied, and group"), engine.owner("new"):
        pass


def test_what_the_group_skipped_is_read_from_the_history(engine: Rig) -> None:
    """The row says how far the history was applied; a committed offset beyond it is a hint."""
    lived(engine, "kept", 1, 3)
    engine.report(4, 6)
    end = bounds(Cluster(engine.bootstrap), DEVICE_EVENTS, 0).high
    last = history.records(Cluster(engine.bootstrap), DEVICE_EVENTS, 0, end - 1, end)
    with engine.owner("kept") as table:
        table.apply([list(last)])
    assert engine.applied(6)
    engine.assert_undisturbed()


def test_an_opening_that_is_no_longer_wanted_ends(engine: Rig) -> None:
    """A revoked partition does not wait for its recovery."""
    lived(engine, "kept", 1, 3)
    place = Place(
        Cluster(engine.bootstrap), engine.application, engine.directory / "b", engine.snapshots
    )
    table: Table = TablePartition(DEVICES, 0, place)
    abandon = threading.Event()
    abandon.set()
    with pytest.raises(Abandoned):
        table.open(abandon)
    table.close()


def test_a_recovery_that_cannot_finish_fails_loudly(engine: Rig) -> None:
    """A deadline in the past is an EngineFailed that says where the reading stands."""
    changelog = Changelog(Cluster(engine.bootstrap), DEVICE_STATE, 0, "tests")
    changelog.fence()
    with pytest.raises(EngineFailed, match="stands at 0 of"):
        list(changelog.read(0, within=-1.0))


def test_garbage_as_large_as_kafka_takes_does_not_stop_a_partition(engine: Rig) -> None:
    """Its dead letter fits, and what follows is applied."""
    engine.report(1, 1)
    producer = Producer({"bootstrap.servers": engine.bootstrap, "message.max.bytes": 1_048_000})
    producer.produce(DEVICE_EVENTS, os.urandom(1_000_000), os.urandom(40_000), partition=0)
    assert producer.flush(10) == 0
    lived(engine, "kept", 2, 2)
    assert engine.applied(2)
    (letter,) = [found.record for found in Fleet(engine.bootstrap).read(DEAD_LETTERS)]
    assert "cut from 1000000 bytes" in letter.detail
    engine.assert_undisturbed()


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
    assert replay.verify(Cluster(engine.bootstrap), 0).base_offset == -1


@dataclass(slots=True)
class Marked:
    """A view: the keys that are there, the row of `other`, the first key."""

    rows: tuple[bytes, ...] = (b"other",)
    keys: tuple[bytes, ...] = (b"m",)
    counted: Counter[bytes] = field(default_factory=Counter)
    other: bytes | None = None
    first: bytes | None = None

    def row(self, _key: bytes, row: Any) -> None:
        """Keep the row."""
        self.other = row

    def key(self, key: bytes, by: int) -> None:
        """Count the key."""
        self.counted[key] += by

    def settle(self, first: Callable[[bytes], bytes | None]) -> None:
        """Keep the first key."""
        self.first = first(b"m")

    def there(self) -> list[bytes]:
        """Return the keys that are there; none is there twice."""
        assert set(self.counted.values()) <= {0, 1}, self.counted
        return sorted(key for key, count in self.counted.items() if count)


@dataclass
class Marks:
    """Another program: `set` makes a row of a key, `end` removes it; rows are read in order."""

    name: str = "marks"
    events: str = DEVICE_EVENTS
    table: str = DEVICE_STATE
    outputs: tuple[str, ...] = ()
    version: int = 1
    seen: list[bytes] = field(default_factory=list)

    def encode(self, record: object) -> bytes:
        """Return the row."""
        assert isinstance(record, bytes)
        return record

    def decode(self, data: bytes) -> bytes:
        """Return the row."""
        return data

    def due_at(self, _data: bytes) -> int:
        """Return that no row has a deadline."""
        return 0

    def view(self) -> Marked:
        """Return a view of the marks."""
        return Marked()

    def fold(self, partition: Partition[bytes], records: Sequence[Input]) -> Folded[bytes]:
        """Set and remove rows; see which stood there before."""
        rows: dict[bytes, Any] = {}
        count = partition.row.rows
        self.seen = [key for key, _ in partition.scan(b"m", b"m1", 2)]
        for record in records:
            key = record.key or b""
            there = key in rows and rows[key] is not None
            there = there or (key not in rows and partition.read(key) is not None)
            rows[key] = record.value if record.value == b"set" else None
            count += (rows[key] is not None) - there
        partition.row = changed(partition.row, applied_offset=records[-1].offset, rows=count)
        return Folded(rows=rows, stepped=len(records))


def test_another_program_reads_in_order_and_removes_rows(engine: Rig) -> None:
    """Removed rows are gone from cache, disk, topic and view, also for an owner with an empty disk.

    The view counts a row once that is ended twice, or ended and set in one batch.
    """
    producer = Producer({"bootstrap.servers": engine.bootstrap})

    def say(*words: tuple[str, str]) -> None:
        for key, word in words:
            producer.produce(DEVICE_EVENTS, word, key, partition=0)
        assert producer.flush(10) == 0

    program = Marks()
    say(*((f"m{number}", "set") for number in range(5)), ("other", "set"))
    with engine.owner("kept", program) as table:
        engine.fold(table)
        say(("m2", "end"), ("m0", "end"))
        engine.fold(table)
        assert program.seen == [b"m2", b"m3"]
        say(("m2", "end"), ("m4", "end"), ("m4", "set"))
        engine.fold(table)
        assert program.seen == [b"m3", b"m4"]
        say(("m3", "set"), ("other", "end"))
        engine.fold(table)
        view = table.standing.view
        assert isinstance(view, Marked)
        assert (view.there(), view.first, view.other) == ([b"m1", b"m3", b"m4"], b"m1", None)
        say(("other", "set"))
        engine.fold(table)
    with engine.owner("empty", program) as table:
        say(("m9", "set"))
        engine.fold(table)
        assert table.row.rows == 5
        view = table.standing.view
        assert isinstance(view, Marked)
        assert view.there() == [b"m1", b"m3", b"m4", b"m9"]
        assert (view.first, view.other) == (b"m1", b"set")
    live = replay.live_rows(Cluster(engine.bootstrap), 0)
    assert sorted(live.keys() - {PARTITION_KEY}) == [b"m1", b"m3", b"m4", b"m9", b"other"]
    verdict = replay.verify(Cluster(engine.bootstrap), 0, program=Marks())
    assert verdict.identical, verdict.difference
