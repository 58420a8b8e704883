"""Decoded rows in memory: the recently used ones, at a constant cost per row.

Two generations: what is used moves to the young one; when that is full, it becomes the old one
and the former old one is dropped. (A single dict from which the oldest key is deleted gets slower
with every deletion: finding its first key steps over all that were deleted before.)
"""

from collections.abc import Mapping
from typing import Generic, TypeVar

R = TypeVar("R")


class Cache(Generic[R]):
    """Holds at most `most` rows and two updates; at least the `most // 2` that were used last."""

    __slots__ = ("_old", "_share", "_young")

    def __init__(self, most: int) -> None:
        self._share = most // 2
        self._young: dict[bytes, R] = {}
        self._old: dict[bytes, R] = {}

    def __len__(self) -> int:
        return len(self._young.keys() | self._old.keys())

    def get(self, key: bytes) -> R | None:
        """Return the row, if it is here."""
        found = self._young.get(key)
        if found is None:
            found = self._old.get(key)
            if found is not None:
                self.update({key: found})
        return found

    def drop(self, key: bytes) -> None:
        """Forget a row that was deleted."""
        self._young.pop(key, None)
        self._old.pop(key, None)

    def update(self, rows: Mapping[bytes, R]) -> None:
        """Keep rows that were used."""
        self._young.update(rows)
        if len(self._young) > self._share:
            self._old, self._young = self._young, {}
