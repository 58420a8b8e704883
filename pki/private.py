"""Files that only their owner may read, written whole or not at all.

Rules of this file: directories 0700, files 0600, from the first byte on; a file appears under its
name only when its content is on the disk (fsync, rename, fsync of the directory).
"""

import os
import tempfile
from pathlib import Path

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600


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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
