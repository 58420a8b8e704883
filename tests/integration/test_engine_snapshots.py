"""Snapshots, the trimmed history and the upgrade of the core, on a real Kafka."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner

from client.cli import app
from client.commands.options import EXIT_DIFFERENT
from configuration.cluster import Cluster
from schemas import codec
from schemas.envelope import BROADCAST_KEY
from schemas.events import CoreVersionActivated, Keyed
from schemas.records import changed
from schemas.states import DeviceRow
from schemas.topics import DEVICE_EVENTS, DEVICE_STATE
from streams import replay, retention
from streams.core.device import MACHINE
from streams.core.turn import Turn
from streams.engine import snapshot
from streams.engine.failure import EXIT_FAILED, EngineFailed
from streams.engine.log import bounds
from streams.engine.snapshot import SnapshotDamaged
from streams.programs import DEVICES
from tests.helpers.engine import Rig, rig

NEWER = MACHINE.version + 1


def newer_step(turn: Turn, row: DeviceRow | None, event: Keyed) -> DeviceRow | None:
    """Fold as another core would: every row that changes tells it."""
    after = MACHINE.step(turn, row, event)
    return after if after is row or after is None else changed(after, device_type="newer")


NEWER_DEVICES = replace(DEVICES, machine=replace(MACHINE, version=NEWER, step=newer_step))


@pytest.fixture
def engine(kafka: str, tmp_path: Path) -> Rig:
    """Empty topics, a group of its own."""
    return rig(kafka, tmp_path)


def lived(engine: Rig, first: int, last: int, disk: str = "kept", program: Any = DEVICES) -> None:
    """Report from `first` to `last` and fold it."""
    engine.report(first, last)
    with engine.owner(disk, program) as table:
        engine.fold(table)


def activate(engine: Rig, number: int, version: int = NEWER) -> int:
    """Record the activation of a core, and return its offset."""
    producer = Producer({"bootstrap.servers": engine.bootstrap})
    event = CoreVersionActivated(number, version)
    producer.produce(DEVICE_EVENTS, codec.encode(event), BROADCAST_KEY, partition=0)
    assert producer.flush(10) == 0
    return bounds(Cluster(engine.bootstrap), DEVICE_EVENTS, 0).high - 1


def fleetcert(engine: Rig, *arguments: str) -> Any:
    """Run the command line in this process."""
    environment = {
        "FLEETCERT_KAFKA_BOOTSTRAP": engine.bootstrap,
        "FLEETCERT_WORKER_SNAPSHOTS": str(engine.snapshots),
        "COLUMNS": "200",
    }
    return CliRunner().invoke(app, list(arguments), env=environment)


def taken(engine: Rig) -> Path:
    """Take a snapshot of the live rows."""
    path = retention.take(Cluster(engine.bootstrap), 0, engine.snapshots)
    assert path is not None
    return path


def damage(path: Path) -> None:
    """Turn one byte in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_history_is_trimmed_behind_a_snapshot_and_replay_still_agrees(engine: Rig) -> None:
    """The fold starts at the snapshot; an empty disk takes its rows from the table's topic."""
    lived(engine, 1, 3)
    before = replay.verify(Cluster(engine.bootstrap), 0)
    taken(engine)
    lived(engine, 4, 4)
    done = fleetcert(engine, "history", "trim", "--before-snapshot", "--yes")
    assert done.exit_code == 0, done.output
    assert bounds(Cluster(engine.bootstrap), DEVICE_EVENTS, 0).low == before.applied_offset + 1
    lived(engine, 5, 6, disk="empty")
    assert engine.applied(6)
    verdict = replay.verify(Cluster(engine.bootstrap), 0, snapshots=engine.snapshots)
    assert verdict.identical, verdict.difference
    assert verdict.base_offset == before.applied_offset
    with engine.worker("fresh"):
        engine.report(7, 7)
        engine.until_applied(7)


def test_a_trimmed_history_without_its_snapshot_cannot_be_verified(engine: Rig) -> None:
    """Replay says where the history begins and what is missing, rather than what it cannot know."""
    lived(engine, 1, 3)
    path = taken(engine)
    retention.trim(Cluster(engine.bootstrap), 0, engine.snapshots)
    path.unlink()
    with pytest.raises(EngineFailed, match="holds no sound snapshot"):
        replay.verify(Cluster(engine.bootstrap), 0, snapshots=engine.snapshots)


def test_a_damaged_snapshot_is_refused_and_named(engine: Rig) -> None:
    """One turned byte: verify says so, trim refuses, replay goes by another and tells."""
    lived(engine, 1, 2)
    sound = taken(engine)
    lived(engine, 3, 3)
    damaged = taken(engine)
    retention.trim(Cluster(engine.bootstrap), 0, engine.snapshots, dry_run=True)
    damage(damaged)
    with pytest.raises(SnapshotDamaged, match=str(damaged)):
        snapshot.read(damaged)
    said = fleetcert(engine, "snapshot", "verify")
    assert said.exit_code == EXIT_DIFFERENT
    assert f"{sound}: {engine.devices + 1} rows" in said.output
    assert f"DAMAGED: {damaged}" in said.output
    refused = fleetcert(engine, "history", "trim", "--before-snapshot", "--yes")
    assert refused.exit_code == 1
    assert bounds(Cluster(engine.bootstrap), DEVICE_EVENTS, 0).low == 0


def test_a_snapshot_that_the_history_does_not_give_is_no_ground_to_trim(engine: Rig) -> None:
    """It holds in itself, but one row is another: the difference is named, nothing is deleted."""
    lived(engine, 1, 3)
    found = snapshot.read(taken(engine))
    row = codec.decode(found.rows[b"device-1"])
    altered = dict(found.rows) | {b"device-1": codec.encode(changed(row, sequence=99))}
    snapshot.write(engine.snapshots, snapshot.taken(DEVICE_STATE, 0, altered))
    with pytest.raises(retention.TrimRefused, match="device-1: sequence is 99, replayed 3"):
        retention.trim(Cluster(engine.bootstrap), 0, engine.snapshots)
    assert bounds(Cluster(engine.bootstrap), DEVICE_EVENTS, 0).low == 0


def test_an_upgrade_is_marked_and_verified_from_its_mark(engine: Rig) -> None:
    """The old core ends at the activation, the new one writes the mark and folds on from it."""
    lived(engine, 1, 3)
    mark = activate(engine, 1)
    engine.report(4, 4)
    with pytest.raises(EngineFailed, match="start a newer worker"), engine.owner("kept") as table:
        engine.fold(table)
    lived(engine, 5, 6, program=NEWER_DEVICES)
    (file,) = snapshot.files(engine.snapshots, DEVICE_STATE, 0)
    assert snapshot.read(file).header.applied_offset == mark
    verdict = replay.verify(
        Cluster(engine.bootstrap), 0, snapshots=engine.snapshots, program=NEWER_DEVICES
    )
    assert verdict.identical, verdict.difference
    assert verdict.base_offset == mark
    with pytest.raises(EngineFailed, match=f"goes on with core {NEWER} from offset {mark}"):
        replay.verify(Cluster(engine.bootstrap), 0, snapshots=engine.snapshots)


def test_a_worker_of_an_older_core_refuses(engine: Rig) -> None:
    """It stops at the activation, and does not start again behind it; a newer one not before."""
    engine.report(1, 3)
    with engine.worker() as older:
        engine.until_applied(3)
        with (
            pytest.raises(EngineFailed, match="core activate"),
            engine.owner("newer", NEWER_DEVICES),
        ):
            pass
        said = fleetcert(engine, "core", "activate", str(NEWER), "--yes")
        assert said.exit_code == 0, said.output
        assert engine.until_ended(older) == EXIT_FAILED
    with engine.worker() as again:
        assert engine.until_ended(again) == EXIT_FAILED
    assert "start a newer worker" in engine.log().read_text()
    assert f"core {NEWER} since offset" in fleetcert(engine, "core", "show").output


def test_a_snapshot_appears_only_when_whole(engine: Rig, tmp_path: Path) -> None:
    """What is written meanwhile has another name, and goes when the disk fails."""
    lived(engine, 1, 1)
    path = taken(engine)
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    unwritable = dict(snapshot.read(path).rows) | {b"device-1": None}
    head = snapshot.read(path).header
    broken: Any = snapshot.Snapshot(replace(head, applied_offset=10**6), unwritable)  # type: ignore[arg-type]
    with pytest.raises((TypeError, ValueError)):
        snapshot.write(engine.snapshots, broken)
    assert [one.name for one in path.parent.iterdir()] == [path.name]
