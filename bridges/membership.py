"""A member of a consumer group that never gets in again, though Kafka answers: seen once.

After a session time-out while Kafka was away, librdkafka gave the partitions up and did not join
again, for as long as anybody watched. A member without partitions is none of these: it is told of
an assignment, an empty one.
"""

from dataclasses import dataclass, field

PATIENCE_SECONDS = 30.0
"""A group with all its members gets together within a session time-out."""
ASK_SECONDS = 5.0


@dataclass
class Membership:
    """Tells when to join anew; `now` is in seconds of any clock that does not go back."""

    joined: bool = False
    _outside_since: float | None = field(default=None, init=False)
    _asked_at: float = field(default=float("-inf"), init=False)

    def may_ask(self, now: float) -> bool:
        """Tell whether it is time to see if Kafka answers: only outside the group, and seldom."""
        if self.joined or now - self._asked_at < ASK_SECONDS:
            return False
        self._asked_at = now
        return True

    def estranged(self, answers: bool, now: float) -> bool:
        """Take what was seen, and tell whether Kafka has answered an outsider for too long."""
        if self.joined or not answers:
            self._outside_since = None
            return False
        if self._outside_since is None:
            self._outside_since = now
        return now - self._outside_since >= PATIENCE_SECONDS
