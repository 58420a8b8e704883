"""How much one party may ask: a token bucket."""

import time


class Bucket:
    """A token bucket: so many per second, and so many at once."""

    __slots__ = ("_burst", "_filled_at", "_left", "_per_second")

    def __init__(self, per_second: float = 50.0, burst: float = 100.0) -> None:
        self._per_second, self._burst = per_second, burst
        self._left, self._filled_at = burst, time.monotonic()

    def take(self, cost: float = 1.0) -> bool:
        """Take a token or a part of one; False where there is not so much."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._filled_at) * self._per_second)
        self._filled_at = now
        if self._left < cost:
            return False
        self._left -= cost
        return True
