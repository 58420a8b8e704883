"""The deadline index: which rows want to be woken, in the order of their time.

Costs follow what is due, never what exists, nor how often a deadline moves: most move *later* with
every event of their device, and the heap then keeps the earlier entry, which is put back with the
deadline as it stands when it comes to the top. Equal instants are ordered by key: an index rebuilt
from the rows gives the same keys in the same order as one that ran along.
"""

import heapq


class Deadlines:
    """Keys by the instant at which they are due."""

    __slots__ = ("_at", "_heap", "_queued")

    def __init__(self) -> None:
        self._at: dict[bytes, int] = {}
        self._queued: dict[bytes, int] = {}
        self._heap: list[tuple[int, bytes]] = []

    def __len__(self) -> int:
        return len(self._at)

    def put(self, key: bytes, at: int) -> None:
        """Set the deadline of `key` to `at`; zero removes it."""
        if at == 0:
            self._at.pop(key, None)
            return
        self._at[key] = at
        queued = self._queued.get(key)
        if queued is None or at < queued:
            self._push(key, at)

    def at(self, key: bytes) -> int:
        """Return the deadline of `key`, zero for none."""
        return self._at.get(key, 0)

    def take(self, now: int) -> bytes | None:
        """Take the key that is due first, None where no deadline is at or before `now`."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            queued, key = heapq.heappop(heap)
            if self._queued.get(key) != queued:
                continue  # an earlier entry of the key was pushed after this one
            del self._queued[key]
            at = self._at.get(key)
            if at == queued:
                del self._at[key]
                return key
            if at is not None:
                self._push(key, at)
        return None

    def first(self) -> int:
        """Return an instant before which nothing is due, zero where nothing ever is."""
        return self._heap[0][0] if self._at and self._heap else 0

    def _push(self, key: bytes, at: int) -> None:
        self._queued[key] = at
        heapq.heappush(self._heap, (at, key))
        if len(self._heap) > 64 + 4 * len(self._at):
            self._heap = [(when, name) for name, when in self._at.items()]
            self._queued = dict(self._at)
            heapq.heapify(self._heap)
