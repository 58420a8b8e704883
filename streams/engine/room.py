"""Room on a worker's volume: looked for before anything is applied.

RocksDB holds rows in memory and writes them late: on a full disk a batch succeeds, and a later one
fails, or nothing does until the end. So the worker looks itself, before it joins its group, before
it opens a partition and before each batch, and ends while there is still room to work in. It does
not join without room: it would keep its partitions from workers that have some.
"""

import shutil
from pathlib import Path

from streams.engine.failure import EngineFailed

ROOM_BYTES_MIN = 64 * 1024 * 1024
"""What must be free: RocksDB writes a memory table and merges files before it notices anything."""


def free(volume: Path) -> int:
    """Return the bytes that are free on the volume of a folder."""
    return shutil.disk_usage(volume).free


def check(volume: Path, least: int) -> None:
    """Raise EngineFailed where fewer than `least` bytes are free on the volume of a folder."""
    found = free(volume)
    if found < least:
        raise EngineFailed(
            f"the disk is full: {found >> 20} MiB are free on the volume of {volume}, the worker "
            f"wants {least >> 20}; make room and start it again, what comes meanwhile waits in "
            "Kafka"
        )
