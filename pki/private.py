"""Files that only their owner may read, written whole or not at all.

Rules of this file: directories 0700, files 0600, from the first byte on; a file appears under its
name only when its content is on the disk (fsync, rename, fsync of the directory).
"""

import ctypes
import os
import resource
import stat
import tempfile
from pathlib import Path

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600
FORBIDDEN_MODE = 0o027
PR_SET_DUMPABLE = 4
"""prctl(2)."""


def directory(path: Path) -> Path:
    """Make the directory and those above it, for the owner alone, and return it."""
    path.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    path.chmod(DIRECTORY_MODE)
    return path


def write(path: Path, content: bytes, mode: int = FILE_MODE) -> None:
    """Write the file atomically and durably; an older one of this name is replaced."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(descriptor, mode)
            stream.write(content)
            stream.flush()
            os.fsync(descriptor)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync(path.parent)


def read(path: Path) -> bytes:
    """Return the content of a secret file. Raises ValueError where others than its owner reach it.

    The group may read, as orchestrators mount secrets; all others, and a group that writes, not.
    """
    with path.open("rb") as stream:
        mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
        if mode & FORBIDDEN_MODE:
            raise ValueError(f"{path} has mode {mode:04o}: others reach a secret; chmod 600 {path}")
        return stream.read()


def harden() -> None:
    """Keep this process's memory to itself: no core file, no look into it by its own user."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError("prctl(PR_SET_DUMPABLE) was refused")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
