"""Health: is a device there, does it do well, and when must one look again.

    connected   heard of, no alert is open, and a session is, or was within one interval
    degraded    heard of, but an alert is open, or no session for an interval
    silent      the rule of silence says so: nothing for CHECKS_MISSED intervals, a missed check
    gone        silent for GONE_AFTER such checks

Error rate is failed / finished over a window, latency the 95th percentile from command to reply,
read from a histogram of whole numbers. `judged` raises after so many consecutive breaches and
clears after so many consecutive quiet windows: between them nothing is said, so nothing flaps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from schemas.reasons import Reason
from schemas.states import Watch

CHECKS_MISSED = 3
"""Intervals without any event that make one missed health check."""
GONE_AFTER = 12
"""Missed checks in a row after which a device counts as gone."""
WINDOW_MS = 300_000
FINISHED_MIN = 5
"""Results that a window needs before its rates say anything."""
RAISE_AFTER = 2
CLEAR_AFTER = 2
PERCENT = 95

BOUNDS_MS = (
    1, 2, 5, 10, 20, 35, 50, 75, 100, 150, 200, 300, 400, 500, 650, 800, 1_000, 1_250, 1_500,
    2_000, 3_000, 5_000, 7_500, 10_000, 15_000, 30_000, 60_000, 300_000, 3_600_000,
)  # fmt: skip
"""Upper bounds of the histogram's buckets, inclusive; a last bucket has none."""
BUCKETS = len(BOUNDS_MS) + 1


class Health(StrEnum):
    """How a device is."""

    CONNECTED = "connected"
    DEGRADED = "degraded"
    SILENT = "silent"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A device's health, why, and when it changes if nothing is heard (zero for never)."""

    health: Health
    reason: Reason
    next_due_at: int


@dataclass(frozen=True, slots=True)
class Breach:
    """A figure above its limit, or not; `figure` and `limit` are what a decision quotes."""

    reason: Reason
    figure: float
    limit: float

    @property
    def breached(self) -> bool:
        """Tell whether the figure is above the limit."""
        return self.figure > self.limit


def judge(
    *,
    session_open: bool,
    last_seen_at: int,
    silent_since: int,
    alert: Reason,
    interval_ms: int,
    now: int,
) -> Judgement:
    """Return a device's health. `alert` is the Reason of an open one, NONE for none.

    `silent_since` is when the rule of silence was breached, zero where it is not: that rule knows
    which doors were open. A short reconnection changes nothing.
    """
    if silent_since:
        gone_at = silent_since + (GONE_AFTER - 1) * CHECKS_MISSED * interval_ms
        if now >= gone_at:
            return Judgement(Health.GONE, Reason.SILENT, 0)
        return Judgement(Health.SILENT, Reason.SILENT, gone_at)
    if alert is not Reason.NONE:
        return Judgement(Health.DEGRADED, alert, 0)
    if not session_open:
        alone_at = last_seen_at + interval_ms
        if now >= alone_at:
            return Judgement(Health.DEGRADED, Reason.SESSION_CLOSED, 0)
        return Judgement(Health.CONNECTED, Reason.NONE, alone_at)
    return Judgement(Health.CONNECTED, Reason.NONE, 0)


def bucket(latency_ms: int) -> int:
    """Return the bucket of a latency."""
    for number, bound in enumerate(BOUNDS_MS):
        if latency_ms <= bound:
            return number
    return len(BOUNDS_MS)


def with_latency(counts: Sequence[int], latency_ms: int) -> tuple[int, ...]:
    """Return the histogram with one more latency; an empty one begins anew."""
    made = list(counts) or [0] * BUCKETS
    made[bucket(latency_ms)] += 1
    return tuple(made)


def added(one: Sequence[int], other: Sequence[int], sign: int = 1) -> tuple[int, ...]:
    """Return one histogram plus (or with sign -1 minus) another; an empty one holds nothing."""
    size = max(len(one), len(other))
    left = [*one, *[0] * (size - len(one))]
    right = [*other, *[0] * (size - len(other))]
    return tuple(a + sign * b for a, b in zip(left, right, strict=True))


def percentile(counts: Sequence[int], percent: int = PERCENT) -> int:
    """Return the percentile in ms, within its bucket by rule of three; zero for no latencies."""
    total = sum(counts)
    if total <= 0:
        return 0
    rank = -(-total * percent // 100)
    below = 0
    for number, count in enumerate(counts):
        if count > 0 and below + count >= rank:
            low = BOUNDS_MS[number - 1] if number else 0
            high = BOUNDS_MS[min(number, len(BOUNDS_MS) - 1)]
            return low + (high - low) * (rank - below) // count if high > low else high
        below += count
    return BOUNDS_MS[-1]


def rates(
    finished: int, failed: int, latencies: Sequence[int], error_rate: float, latency_ms: int
) -> tuple[Breach, Breach]:
    """Return the error rate and the latency of a window against their limits."""
    rate = failed / finished if finished >= FINISHED_MIN else 0.0
    p95 = percentile(latencies) if sum(latencies) >= FINISHED_MIN else 0
    return (
        Breach(Reason.ERROR_RATE, rate, error_rate),
        Breach(Reason.LATENCY, float(p95), float(latency_ms)),
    )


def judged(watch: Watch, *, breached: bool, now: int) -> tuple[Watch, str]:
    """Return a rule's memory after one window, and `raised`, `cleared` or nothing."""
    if breached:
        breaches = watch.breaches + 1
        if not watch.raised_at and breaches >= RAISE_AFTER:
            return Watch(watch.rule, breaches, 0, now), "raised"
        return Watch(watch.rule, breaches, 0, watch.raised_at), ""
    quiet = watch.quiet + 1
    if watch.raised_at and quiet >= CLEAR_AFTER:
        return Watch(watch.rule, 0, 0, 0), "cleared"
    return Watch(watch.rule, 0, quiet if watch.raised_at else 0, watch.raised_at), ""
