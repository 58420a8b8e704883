"""Files that survive a power cut: write aside, fsync, rename, fsync the directory.

Rules of this file: a file or directory that this module makes is there whole or not at all.
rename(2) is atomic on POSIX file systems; it is durable only after the directory's own fsync.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

ASIDE = ".aside-"
"""The prefix of what is not finished yet, or no longer wanted; `sweep` removes it."""

FILE_MODE = 0o600
FOLDER_MODE = 0o700


def folder(path: Path) -> None:
    """Make a directory that only its owner may enter, durably; it may exist."""
    if not path.is_dir():
        path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        fsync_folder(path.parent)


def fsync_folder(path: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write(path: Path, data: bytes) -> None:
    """Replace a file's content atomically and durably; only its owner may read it."""
    aside = path.with_name(ASIDE + path.name)
    _write_through(aside, data)
    os.replace(aside, path)
    fsync_folder(path.parent)


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Make a directory with these files appear, atomically and durably; `path` must be free."""
    aside = path.with_name(ASIDE + path.name)
    discard(aside)
    aside.mkdir(mode=FOLDER_MODE)
    for name, data in files.items():
        _write_through(aside / name, data)
    move_folder(aside, path)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Write a new file from its beginning; at the end of the block its content is on the disk."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
    with os.fdopen(handle, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def move_folder(aside: Path, path: Path) -> None:
    """Make a directory whose files are written through appear, atomically; `path` must be free."""
    fsync_folder(aside)
    os.rename(aside, path)
    fsync_folder(path.parent)


def remove(path: Path) -> None:
    """Remove a file or a directory atomically and durably; it may be absent."""
    if not path.exists():
        return
    aside = path.with_name(ASIDE + path.name)
    discard(aside)
    os.rename(path, aside)
    fsync_folder(path.parent)
    discard(aside)


def sweep(path: Path) -> None:
    """Remove what a crash left unfinished in a directory."""
    for aside in path.glob(ASIDE + "*"):
        discard(aside)


def discard(path: Path) -> None:
    """Remove what is not finished, or no longer wanted; it may be absent."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write_through(path: Path, data: bytes) -> None:
    with writing(path) as file:
        file.write(data)
