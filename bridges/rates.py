"""How much one party may ask: a token bucket."""

import time
from collections import OrderedDict

KEYS_MAX = 10_000
"""Parties whose rate is remembered; the one that was silent longest is forgotten first."""


class Bucket:
    """A token bucket: so many per second, and so many at once."""

    __slots__ = ("_burst", "_filled_at", "_left", "_per_second")

    def __init__(self, per_second: float = 50.0, burst: float = 100.0) -> None:
        self._per_second, self._burst = per_second, burst
        self._left, self._filled_at = burst, time.monotonic()

    @property
    def spent(self) -> bool:
        """Tell whether there is no whole token now."""
        return not self.take(0.0) or self._left < 1.0

    def take(self, cost: float = 1.0) -> bool:
        """Take a token or a part of one; False where there is not so much."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._filled_at) * self._per_second)
        self._filled_at = now
        if self._left < cost:
            return False
        self._left -= cost
        return True


class Rates:
    """A bucket for each party."""

    def __init__(self, per_second: float, burst: float) -> None:
        self._per_second, self._burst = per_second, burst
        self._known: OrderedDict[str, Bucket] = OrderedDict()

    def of(self, party: str) -> Bucket:
        """Return a party's bucket, a full one where it is not known."""
        found = self._known.get(party)
        if found is None:
            found = self._known[party] = Bucket(self._per_second, self._burst)
        self._known.move_to_end(party)
        if len(self._known) > KEYS_MAX:
            self._known.popitem(last=False)
        return found
