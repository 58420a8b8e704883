"""A full disk under a worker's store: it ends loudly, and goes on when there is room."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from streams.engine.failure import EXIT_FAILED
from tests.helpers.engine import Rig, rig
from tests.helpers.wait import until

SIZE_MIB = 24
FREE_MIB = 2
DEVICES = 2_000
ROUNDS = 25
BATCH_MAX = 1_000
"""So many batches of changed rows that RocksDB has to write its memory to the disk."""


@dataclass(frozen=True)
class Volume:
    """A small file system in a mount namespace of its own, seen through its holder's /proc."""

    holder: subprocess.Popen[bytes]
    inside: Path

    @property
    def outside(self) -> Path:
        """The same folder, as seen from here."""
        return Path(f"/proc/{self.holder.pid}/root{self.inside}")

    def enter(self, command: list[str]) -> list[str]:
        """Return the command run inside."""
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        return ["nsenter", "--target", str(self.holder.pid), "--mount", *user, "--", *command]


@contextmanager
def small_volume(inside: Path, mib: int) -> Iterator[Volume]:
    """Mount a tmpfs of so many MiB; as a plain user, in a user namespace."""
    inside.mkdir(parents=True)
    script = f"mount -t tmpfs -o size={mib}m tmpfs {inside} && echo ready && exec sleep infinity"
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    holder = subprocess.Popen(
        ["unshare", "--mount", *user, "sh", "-c", script], stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        yield Volume(holder, inside)
    finally:
        holder.kill()
        holder.wait()


@pytest.fixture
def engine(kafka: str, tmp_path: Path) -> Rig:
    """Empty topics, a group of its own."""
    return rig(kafka, tmp_path, devices=DEVICES)


@contextmanager
def worker(engine: Rig, volume: Volume) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker whose rows stand on the volume."""
    command = volume.enter(
        engine.command("full", data_dir=volume.inside / "worker", batch_max=BATCH_MAX)
    )
    with engine.log("full").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_worker_on_a_full_disk_ends_and_resumes_when_there_is_room(
    engine: Rig, tmp_path: Path
) -> None:
    """It names the disk, ends again while it is full, and then ends up with the replay's rows."""
    with small_volume(tmp_path / "volume", SIZE_MIB) as volume:
        ballast = volume.outside / "ballast"
        ballast.write_bytes(bytes((SIZE_MIB - FREE_MIB) * 1024 * 1024))
        engine.report(1, ROUNDS)
        for _ in range(2):
            with worker(engine, volume) as failing:
                assert engine.until_ended(failing, within=60) == EXIT_FAILED
        assert "is the disk full?" in engine.log("full").read_text()
        ballast.unlink()
        with worker(engine, volume) as resumed:
            until(
                lambda: resumed.poll() is not None or engine.applied(ROUNDS),
                within=60,
                describe="all is applied",
            )
            assert resumed.poll() is None, engine.log("full").read_text()[-3000:]
            engine.assert_undisturbed()
