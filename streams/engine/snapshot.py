"""Snapshots: all rows of one table partition at a known offset of the history, in one file.

A file is an Avro object container of (key, row), any Avro tool reads it; its metadata say whose
rows they are, up to which offset of the history they stand, under which core, and the digest over
all of them. It appears under its name only when it is whole and on the disk. Reading it checks
everything; a file that does not hold is refused by name.
"""

import hashlib
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import fastavro

from schemas import codec
from schemas.states import PARTITION_KEY, PartitionRow

SUFFIX = ".snapshot"
PREFIX = "fleetcert."
ROW: Any = fastavro.parse_schema(
    {
        "type": "record",
        "name": "fleetcert.SnapshotRow",
        "fields": [{"name": "key", "type": "bytes"}, {"name": "row", "type": "bytes"}],
    }
)


class SnapshotDamaged(RuntimeError):
    """A snapshot does not hold what it says; the message names the file."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a snapshot says of itself. `written_at` is the writer's clock, milliseconds."""

    table: str
    partition: int
    applied_offset: int
    core_version: int
    core_since: int
    rows: int
    digest: str
    written_at: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A header and the encoded rows by key, the partition row among them."""

    header: Header
    rows: Mapping[bytes, bytes]

    @property
    def partition_row(self) -> PartitionRow:
        """The partition row."""
        row: PartitionRow = codec.decode(self.rows[PARTITION_KEY])
        return row


def digest(rows: Mapping[bytes, bytes]) -> str:
    """Return the SHA-256 (hex) over keys and rows, in the order of the keys."""
    total = hashlib.sha256()
    for key in sorted(rows):
        for part in (key, rows[key]):
            total.update(len(part).to_bytes(4, "big"))
            total.update(part)
    return total.hexdigest()


def taken(table: str, partition: int, rows: Mapping[bytes, bytes]) -> Snapshot:
    """Return the snapshot that these rows make. Raises KeyError without a partition row."""
    row: PartitionRow = codec.decode(rows[PARTITION_KEY])
    header = Header(
        table=table,
        partition=partition,
        applied_offset=row.applied_offset,
        core_version=row.core_version,
        core_since=row.core_since,
        rows=len(rows),
        digest=digest(rows),
        written_at=time.time_ns() // 1_000_000,
    )
    return Snapshot(header, rows)


def write(directory: Path, snapshot: Snapshot) -> Path:
    """Write the snapshot and return its file, which appears when all of it is on the disk."""
    target = _folder(directory, snapshot.header.table, snapshot.header.partition) / (
        f"{snapshot.header.applied_offset:020}{SUFFIX}"
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}-{os.getpid()}")
    metadata = {f"{PREFIX}{name}": str(value) for name, value in asdict(snapshot.header).items()}
    records = ({"key": key, "row": snapshot.rows[key]} for key in sorted(snapshot.rows))
    try:
        with unfinished.open("wb") as file:
            fastavro.writer(file, ROW, records, codec="deflate", metadata=metadata)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(target)
    finally:
        unfinished.unlink(missing_ok=True)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return target


def header(path: Path) -> Header:
    """Return what a file says of itself, unchecked. Raises SnapshotDamaged."""
    try:
        with path.open("rb") as file:
            return _header(fastavro.reader(file).metadata)
    except Exception as error:  # fastavro raises many kinds on garbage; all mean the same
        raise SnapshotDamaged(f"{path} is no snapshot: {type(error).__name__}: {error}") from error


def read(path: Path) -> Snapshot:
    """Return the snapshot of a file, every row of it checked. Raises SnapshotDamaged."""
    said = header(path)
    try:
        with path.open("rb") as file:
            found: Iterable[Any] = fastavro.reader(file)
            rows = {one["key"]: one["row"] for one in found}
    except Exception as error:  # see above
        raise SnapshotDamaged(f"{path} is cut or altered: {type(error).__name__}") from error
    if digest(rows) != said.digest:
        raise SnapshotDamaged(f"{path}: the digest over its rows is not the one in its header")
    if PARTITION_KEY not in rows:
        raise SnapshotDamaged(f"{path} holds no partition row")
    here = taken(said.table, said.partition, rows).header
    for name in ("applied_offset", "core_version", "core_since", "rows"):
        if getattr(here, name) != getattr(said, name):
            raise SnapshotDamaged(f"{path}: {name} is not what its rows say")
    return Snapshot(said, rows)


def files(directory: Path, table: str, partition: int) -> list[Path]:
    """Return the snapshots of a partition, oldest first."""
    return sorted(_folder(directory, table, partition).glob(f"*{SUFFIX}"))


def base(
    directory: Path, table: str, partition: int, *, first: int, last: int
) -> tuple[Snapshot | None, list[str]]:
    """Return the oldest sound snapshot that stands from `first` to `last`, and what is wrong.

    Both are offsets of the history. The second part names the damaged files that were passed
    over.
    """
    damaged: list[str] = []
    for path in files(directory, table, partition):
        try:
            found = read(path)
        except SnapshotDamaged as error:
            damaged.append(str(error))
            continue
        if first <= found.header.applied_offset <= last:
            return found, damaged
    return None, damaged


def _folder(directory: Path, table: str, partition: int) -> Path:
    return directory / table / str(partition)


def _header(metadata: Mapping[str, str]) -> Header:
    values: dict[str, Any] = {}
    for one in fields(Header):
        text = metadata[f"{PREFIX}{one.name}"]
        values[one.name] = int(text) if one.type in (int, "int") else text
    return Header(**values)
