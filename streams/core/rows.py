"""Rows by key and in the order of keys: what a machine of several rows per event stands on.

`Rows` is what a step sees. `Ordered` holds rows in memory (replays, plans, tests); `Overlay` lays
what one step changes over any other rows, so that a step that raises leaves nothing behind.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from itertools import takewhile
from typing import Any, Protocol

CHUNK_MAX = 1_000
"""Keys of one chunk of an index: insertion costs at most a move of so many."""


class Rows(Protocol):
    """Rows by key, and scans in the order of the keys."""

    def get(self, key: bytes) -> Any:
        """Return the row, None where there is none."""

    def put(self, key: bytes, row: Any) -> None:
        """Set the row."""

    def delete(self, key: bytes) -> None:
        """Remove the row, if there is one."""

    def scan(self, prefix: bytes, after: bytes, limit: int) -> list[tuple[bytes, Any]]:
        """Return at most `limit` rows whose key begins with `prefix` and lies behind `after`."""


class SortedKeys:
    """A set of keys in their order, as a list of short lists."""

    __slots__ = ("_chunk_max", "_chunks", "_lasts")

    def __init__(self, chunk_max: int = CHUNK_MAX) -> None:
        self._chunk_max = chunk_max
        self._chunks: list[list[bytes]] = []
        self._lasts: list[bytes] = []

    def add(self, key: bytes) -> None:
        """Add a key that is not there."""
        if not self._chunks:
            self._chunks, self._lasts = [[key]], [key]
            return
        at = min(bisect_left(self._lasts, key), len(self._chunks) - 1)
        chunk = self._chunks[at]
        insort(chunk, key)
        self._lasts[at] = chunk[-1]
        if len(chunk) > self._chunk_max:
            half = len(chunk) // 2
            self._chunks[at : at + 1] = [chunk[:half], chunk[half:]]
            self._lasts[at : at + 1] = [chunk[half - 1], chunk[-1]]

    def discard(self, key: bytes) -> None:
        """Remove a key, if it is there."""
        at = bisect_left(self._lasts, key)
        if at == len(self._chunks):
            return
        chunk = self._chunks[at]
        place = bisect_left(chunk, key)
        if place == len(chunk) or chunk[place] != key:
            return
        del chunk[place]
        if chunk:
            self._lasts[at] = chunk[-1]
        else:
            del self._chunks[at], self._lasts[at]

    def since(self, first: bytes) -> Iterator[bytes]:
        """Yield the keys from `first` on. The set must not change meanwhile."""
        at = bisect_left(self._lasts, first)
        if at == len(self._chunks):
            return
        start = bisect_left(self._chunks[at], first)
        yield from self._chunks[at][start:]
        for chunk in self._chunks[at + 1 :]:
            yield from chunk


class Ordered:
    """Rows in memory."""

    __slots__ = ("_keys", "_rows")

    def __init__(self) -> None:
        self._rows: dict[bytes, Any] = {}
        self._keys = SortedKeys()

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: bytes) -> Any:
        """Return the row, None where there is none."""
        return self._rows.get(key)

    def put(self, key: bytes, row: Any) -> None:
        """Set the row."""
        if key not in self._rows:
            self._keys.add(key)
        self._rows[key] = row

    def delete(self, key: bytes) -> None:
        """Remove the row, if there is one."""
        if self._rows.pop(key, None) is not None:
            self._keys.discard(key)

    def scan(self, prefix: bytes, after: bytes, limit: int) -> list[tuple[bytes, Any]]:
        """Return at most `limit` rows whose key begins with `prefix` and lies behind `after`."""
        found: list[tuple[bytes, Any]] = []
        keys = self._keys.since(first_of(prefix, after))
        while len(found) < limit:
            key = next(keys, None)
            if key is None or not key.startswith(prefix):
                break
            found.append((key, self._rows[key]))
        return found

    def items(self) -> Iterator[tuple[bytes, Any]]:
        """Yield all rows in the order of their keys."""
        for key in self._keys.since(b""):
            yield key, self._rows[key]


class Overlay:
    """What is changed over rows that stay as they are. `changes` holds None for what is deleted."""

    __slots__ = ("_base", "_keys", "changes")

    def __init__(self, base: Rows) -> None:
        self._base = base
        self.changes: dict[bytes, Any] = {}
        self._keys = SortedKeys()

    def get(self, key: bytes) -> Any:
        """Return the row, None where there is none."""
        return self.changes[key] if key in self.changes else self._base.get(key)

    def put(self, key: bytes, row: Any) -> None:
        """Set the row."""
        if key not in self.changes:
            self._keys.add(key)
        self.changes[key] = row

    def delete(self, key: bytes) -> None:
        """Remove the row, if there is one."""
        self.put(key, None)

    def scan(self, prefix: bytes, after: bytes, limit: int) -> list[tuple[bytes, Any]]:
        """Return at most `limit` rows whose key begins with `prefix` and lies behind `after`."""
        found: list[tuple[bytes, Any]] = []
        since = self._keys.since(first_of(prefix, after))
        ours = takewhile(lambda key: key.startswith(prefix), since)
        theirs = self._under(prefix, after, limit)
        our, their = next(ours, None), next(theirs, None)
        while len(found) < limit and (our is not None or their is not None):
            if our is None or (their is not None and their[0] < our):
                assert their is not None
                found.append(their)
                if len(found) < limit:  # the next one may cost another page
                    their = next(theirs, None)
                continue
            if self.changes[our] is not None:
                found.append((our, self.changes[our]))
            if len(found) < limit:
                if their is not None and their[0] == our:
                    their = next(theirs, None)
                our = next(ours, None)
        return found

    def _under(self, prefix: bytes, after: bytes, page: int) -> Iterator[tuple[bytes, Any]]:
        """Yield the rows beneath, page by page: often the first one is enough."""
        while page:
            rows = self._base.scan(prefix, after, page)
            yield from rows
            if len(rows) < page:
                return
            after, page = rows[-1][0], 2 * page


def first_of(prefix: bytes, after: bytes) -> bytes:
    """Return the least key that a scan may find: of the prefix, and behind `after`."""
    return prefix if after < prefix else after + b"\x00"
