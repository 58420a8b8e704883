"""The store of one table partition: rows by key, and up to which changelog offset they stand.

A RocksDB folder per partition. Rows and changelog position are written in one batch, so the store
is always some committed prefix of the changelog; what is missing is read from Kafka again. RocksDB
keeps no write-ahead log, for the changelog is one: a kill costs what the memory table held. Each
value is the row's deadline (8 bytes) and the row: the deadline index is built without decoding.
"""

import shutil
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path

import structlog
from rocksdict import Options, Rdict, WriteBatch, WriteOptions

from streams.engine.failure import EngineFailed
from streams.engine.floors import Floors

log = structlog.get_logger()
POSITION_KEY = b"\x00position"
"""Holds topic id and next changelog offset. No row's key begins with a zero byte."""
MEMORY_BYTES_MAX = 16 * 1024 * 1024
"""Rows that RocksDB holds in memory before it writes them: what a kill costs to read again."""
INFO_LOGS_MAX = 2
INFO_LOG_BYTES_MAX = 1024 * 1024
DUE = struct.Struct(">q")


@dataclass(frozen=True, slots=True)
class Position:
    """The changelog, known by the id of its topic, and the next offset to read of it."""

    topic_id: str
    offset: int


class Store:
    """Rows of one partition on disk. Raises EngineFailed where the disk fails."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db, self._floors = self._open(), Floors()

    @property
    def position(self) -> Position | None:
        """Up to where the rows stand; None for a new store."""
        found = self._db.get(POSITION_KEY)
        if found is None:
            return None
        topic_id, _, offset = found.decode().rpartition(":")
        return Position(topic_id, int(offset))

    def get(self, key: bytes) -> bytes | None:
        """Return the bytes of a row."""
        found: bytes | None = self._db.get(key)
        return None if found is None else found[DUE.size :]

    def write(self, rows: Iterable[tuple[bytes, int, bytes | None]], position: Position) -> None:
        """Write rows (key, deadline, row; None deletes) and the position, all or nothing."""
        batch = WriteBatch(raw_mode=True)
        pack, put, lower = DUE.pack, batch.put, self._floors.put
        for key, due_at, row in rows:
            if row is None:
                batch.delete(key)
            else:
                put(key, pack(due_at) + row)
                lower(key)
        put(POSITION_KEY, f"{position.topic_id}:{position.offset}".encode())
        try:
            self._db.write(batch)
        except Exception as error:  # rocksdict raises no narrower one
            raise self._failed("written", error) from error

    def scan(self, prefix: bytes, after: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Return at most `limit` rows whose key begins with `prefix` and lies behind `after`."""
        floor = self._floors.begin(prefix)
        first = max(floor, after)
        behind = ((key, row) for key, row in self._from(first) if key != after)
        found = list(islice(takewhile(lambda one: one[0].startswith(prefix), behind), limit))
        if after < floor and limit:
            self._floors.found(prefix, found[0][0] if found else None)
        return found

    def deadlines(self) -> Iterator[tuple[bytes, int]]:
        """Yield every key and its deadline, in the order of the keys."""
        unpack = DUE.unpack_from
        for key, value in self._db.items():
            if key != POSITION_KEY:
                yield key, unpack(value)[0]

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Return all rows, in the order of their keys."""
        return self._from(b"")

    def below(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield all rows whose key begins with `prefix`, in the order of the keys."""
        return takewhile(lambda one: one[0].startswith(prefix), self._from(prefix))

    def clear(self) -> None:
        """Throw everything away."""
        self.close()
        shutil.rmtree(self._path)
        self._db, self._floors = self._open(), Floors()

    def close(self) -> None:
        """Flush and close. What a full disk does not take is read from the changelog again."""
        try:
            self._db.close()
        except Exception as error:  # rocksdict raises no narrower one
            log.warning("store.not_flushed", error=str(self._failed("flushed", error)))

    def _from(self, first: bytes) -> Iterator[tuple[bytes, bytes]]:
        for key, value in self._db.items(from_key=first) if first else self._db.items():
            if key != POSITION_KEY:
                yield key, value[DUE.size :]

    def _open(self) -> Rdict:
        options = Options(raw_mode=True)
        options.set_write_buffer_size(MEMORY_BYTES_MAX)
        options.set_keep_log_file_num(INFO_LOGS_MAX)
        options.set_max_log_file_size(INFO_LOG_BYTES_MAX)
        try:
            db = Rdict(str(self._path), options)
        except Exception as error:  # rocksdict raises no narrower one
            raise self._failed("opened", error) from error
        without_log = WriteOptions()
        without_log.disable_wal = True
        db.set_write_options(without_log)
        return db

    def _failed(self, verb: str, error: Exception) -> EngineFailed:
        return EngineFailed(f"{self._path} cannot be {verb}: {error}; is the disk full?")
