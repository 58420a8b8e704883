"""Files that must survive a crash, or be read by their owner alone."""

import os
from pathlib import Path

PRIVATE = 0o600


def write(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file whole or not at all: beside, flushed to disk, then renamed over."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
