"""The deadline index: which rows want to be woken, in the order of their time.

A heap whose stale entries are dropped when met: a tick costs what is due, never what exists.
Equal instants are ordered by key, so that a replay wakes the rows in the same order.
"""

import heapq


class Deadlines:
    """Keys by the instant at which they are due."""

    __slots__ = ("_at", "_heap")

    def __init__(self) -> None:
        self._at: dict[bytes, int] = {}
        self._heap: list[tuple[int, bytes]] = []

    def __len__(self) -> int:
        return len(self._at)

    def put(self, key: bytes, at: int) -> None:
        """Set the deadline of `key` to `at`; zero removes it."""
        if at == self._at.get(key, 0):
            return
        if at == 0:
            self._at.pop(key, None)
            return
        self._at[key] = at
        heapq.heappush(self._heap, (at, key))
        if len(self._heap) > 64 + 4 * len(self._at):
            self._heap = [(when, name) for name, when in self._at.items()]
            heapq.heapify(self._heap)

    def due(self, now: int, limit: int) -> list[bytes]:
        """Take at most `limit` keys whose deadline is at or before `now`, earliest first."""
        taken: list[bytes] = []
        while self._heap and self._heap[0][0] <= now and len(taken) < limit:
            at, key = heapq.heappop(self._heap)
            if self._at.get(key) == at:
                del self._at[key]
                taken.append(key)
        return taken
