"""The store of one table partition: rows by key, and up to which changelog offset they stand.

A RocksDB folder per partition. Rows and changelog offset are written in one batch, so the store
is always some committed prefix of the changelog; what is missing is read from Kafka again.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from rocksdict import Options, Rdict, WriteBatch

CHANGELOG_KEY = b"\x00changelog"
"""Holds the next changelog offset to read, decimal. No row's key begins with a zero byte."""


class Store:
    """Rows of one partition on disk. Raises rocksdict's errors where the disk fails."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = Rdict(str(path), Options(raw_mode=True))

    @property
    def changelog_offset(self) -> int:
        """The next changelog offset to read."""
        return int(self._db.get(CHANGELOG_KEY) or b"0")

    def get(self, key: bytes) -> bytes | None:
        """Return the bytes of a row."""
        found: bytes | None = self._db.get(key)
        return found

    def write(self, rows: Mapping[bytes, bytes | None], changelog_offset: int) -> None:
        """Write rows (None deletes) and the changelog offset, all or nothing."""
        batch = WriteBatch(raw_mode=True)
        for key, value in rows.items():
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        batch.put(CHANGELOG_KEY, str(changelog_offset).encode())
        self._db.write(batch)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield all rows, in the order of their keys."""
        for key, value in self._db.items():
            if key != CHANGELOG_KEY:
                yield key, value

    def close(self) -> None:
        """Flush and close."""
        self._db.close()
