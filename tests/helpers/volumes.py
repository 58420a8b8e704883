"""Volumes that are small, and that a test fills."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BLOCK = 1 << 20


@contextmanager
def small_volume(folder: Path, mib: int) -> Iterator[Path]:
    """Mount a volume of so many MiB on `folder`, in a mount namespace; yield the way into it.

    It wants no root, and is gone with whoever holds it.
    """
    folder.mkdir(parents=True)
    script = 'mount -t tmpfs -o size="$1"m fleetcert "$2"; echo mounted; exec cat'
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    holder = subprocess.Popen(
        [*namespace, "sh", "-ec", script, "sh", str(mib), str(folder.resolve())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"mounted\n"
        yield Path(f"/proc/{holder.pid}/root") / folder.resolve().relative_to("/")


def fill(path: Path) -> None:
    """Write until there is no room for another byte."""
    block = bytes(BLOCK)
    with path.open("wb", buffering=0) as ballast:
        while True:
            try:
                ballast.write(block)
            except OSError:
                if len(block) == 1:
                    return
                block = block[: len(block) // 2]
