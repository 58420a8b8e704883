"""Where the rows of a prefix begin, so that no scan steps twice over what was deleted.

RocksDB keeps a deleted key, until it is compacted away, as a mark that every scan steps over. Rows
in an order of time are deleted at their front, one after the other: without a floor the first row
of a prefix costs what was ever deleted before it. Pure; prefixes end in a slash, as in ring.py.
"""

SLASH = b"/"
PREFIXES_MAX = 100_000
"""Prefixes that are remembered; then all are forgotten, and each is found again by one scan."""
_LAST = b"\xff"
"""Behind every key of a prefix: keys are text."""


class Floors:
    """The least key that each scanned prefix may have."""

    __slots__ = ("_floors",)

    def __init__(self) -> None:
        self._floors: dict[bytes, bytes] = {}

    def begin(self, prefix: bytes) -> bytes:
        """Return a key before which the prefix has none."""
        return self._floors.get(prefix, prefix)

    def found(self, prefix: bytes, key: bytes | None) -> None:
        """A scan from `begin` on has found `key` first, or nothing."""
        if not prefix.endswith(SLASH):
            return
        if len(self._floors) >= PREFIXES_MAX and prefix not in self._floors:
            self._floors.clear()
        self._floors[prefix] = prefix + _LAST if key is None else key

    def put(self, key: bytes) -> None:
        """A row was written: the floors of its prefixes lie no higher."""
        if not self._floors:
            return
        end = key.find(SLASH) + 1
        while end:
            prefix = key[:end]
            if key < self._floors.get(prefix, b""):
                self._floors[prefix] = key
            end = key.find(SLASH, end) + 1
