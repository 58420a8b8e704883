"""A full disk under a worker's rows: it ends and says so, and goes on when there is room."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.engine import room
from streams.engine.failure import EXIT_FAILED, EngineFailed
from streams.engine.store import MEMORY_BYTES_MAX, Position, Store
from tests.helpers.engine import Rig, rig
from tests.helpers.volumes import fill, small_volume

ROOM_MIB = 32
ROW = os.urandom(10_000)
ROWS = 100
BATCHES = 4 * MEMORY_BYTES_MAX // len(ROW) // ROWS
"""Of so many rows; more than RocksDB holds in memory."""


@pytest.fixture
def engine(kafka: str, tmp_path: Path) -> Rig:
    """Empty topics, a group of its own."""
    return rig(kafka, tmp_path)


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A volume with twice the room that the worker wants."""
    with small_volume(tmp_path / "volume", 2 * ROOM_MIB) as path:
        yield path


def test_a_worker_ends_on_a_full_disk_and_resumes_when_there_is_room(
    engine: Rig, volume: Path
) -> None:
    """It names the disk, does not come back while that is full, and then has the replay's rows."""
    where = {"data_dir": volume / "worker", "room_mebibytes": ROOM_MIB}
    engine.report(1, 3)
    with engine.worker(**where) as worker:
        engine.until_applied(3)
        fill(volume / "ballast")
        assert engine.until_ended(worker) == EXIT_FAILED
    engine.report(4, 6)
    before = engine.committed()
    with engine.worker(**where) as worker:
        assert engine.until_ended(worker) == EXIT_FAILED
    assert engine.committed() == before
    said = [line for line in engine.log().read_text().splitlines() if "engine.failed" in line]
    assert len(said) == 2
    assert all("the disk is full: 0 MiB are free" in one for one in said)
    assert all("make room" in one for one in said)
    (volume / "ballast").unlink()
    with engine.worker(**where):
        engine.until_applied(6)
        engine.assert_undisturbed()


def overflow(store: Store) -> None:
    """Write more than fits into memory."""
    for number in range(BATCHES):
        rows = [(f"{number}-{one}".encode(), 0, ROW) for one in range(ROWS)]
        store.write(rows, Position("topic", number))


def test_a_store_that_the_disk_does_not_take_says_so_and_stays_a_prefix(volume: Path) -> None:
    """RocksDB fails late: what it has is what it had at some position; closing it loses no more."""
    store = Store(volume / "rows")
    fill(volume / "ballast")
    with pytest.raises(EngineFailed, match=r"cannot be written: .*; is the disk full\?"):
        overflow(store)
    store.close()
    (volume / "ballast").unlink()
    store = Store(volume / "rows")
    at = -1 if store.position is None else store.position.offset
    assert len(list(store.items())) == (at + 1) * ROWS < BATCHES * ROWS
    store.close()


def test_room_is_told_of_in_mebibytes(volume: Path) -> None:
    """How much is free, and how much is wanted."""
    room.check(volume, ROOM_MIB << 20)
    fill(volume / "ballast")
    with pytest.raises(EngineFailed, match=r"0 MiB are free on the volume of .*, .* wants 32"):
        room.check(volume, ROOM_MIB << 20)
