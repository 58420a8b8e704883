"""Health: there or not, well or not, by deadlines; alerts that neither flap nor stay for ever."""

import statistics as means

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.reasons import Reason
from schemas.states import Watch
from streams.core import health
from streams.core.health import BOUNDS_MS, BUCKETS, Health

INTERVAL = 300_000
SEEN = 1_000_000_000
MISSED = 3 * INTERVAL


def judge(
    after: int, *, is_open: bool = True, silent: int = 0, alert: Reason = Reason.NONE
) -> health.Judgement:
    """Judge a device `after` ms since it was heard; silence was breached `silent` ms after that."""
    return health.judge(
        session_open=is_open,
        last_seen_at=SEEN,
        silent_since=SEEN + silent if silent else 0,
        alert=alert,
        interval_ms=INTERVAL,
        now=SEEN + after,
    )


@pytest.mark.parametrize(
    ("after", "is_open", "silent", "alert", "expected"),
    [
        (0, True, 0, Reason.NONE, (Health.CONNECTED, Reason.NONE)),
        (20 * MISSED, True, 0, Reason.NONE, (Health.CONNECTED, Reason.NONE)),
        (INTERVAL - 1, False, 0, Reason.NONE, (Health.CONNECTED, Reason.NONE)),
        (INTERVAL, False, 0, Reason.NONE, (Health.DEGRADED, Reason.SESSION_CLOSED)),
        (0, True, 0, Reason.LATENCY, (Health.DEGRADED, Reason.LATENCY)),
        (INTERVAL, False, 0, Reason.ERROR_RATE, (Health.DEGRADED, Reason.ERROR_RATE)),
        (MISSED, True, MISSED, Reason.NONE, (Health.SILENT, Reason.SILENT)),
        (MISSED, False, MISSED, Reason.LATENCY, (Health.SILENT, Reason.SILENT)),
        (12 * MISSED - 1, False, MISSED, Reason.NONE, (Health.SILENT, Reason.SILENT)),
        (12 * MISSED, False, MISSED, Reason.NONE, (Health.GONE, Reason.SILENT)),
    ],
)
def test_a_device_is_judged(
    after: int, is_open: bool, silent: int, alert: Reason, expected: tuple[Health, Reason]
) -> None:
    """Silence counts first, then an open alert, then the session."""
    found = judge(after, is_open=is_open, silent=silent, alert=alert)
    assert (found.health, found.reason) == expected


@given(
    st.integers(0, 20 * MISSED),
    st.booleans(),
    st.sampled_from([0, MISSED]),
    st.sampled_from([Reason.NONE, Reason.LATENCY]),
)
def test_nothing_changes_before_the_deadline(
    after: int, is_open: bool, silent: int, alert: Reason
) -> None:
    """The judgement holds until the instant it names, and is another one then."""
    found = judge(after, is_open=is_open, silent=silent, alert=alert)
    until = found.next_due_at - SEEN if found.next_due_at else 30 * MISSED
    before = judge(max(after, until - 1), is_open=is_open, silent=silent, alert=alert)
    assert before.health == found.health
    if found.next_due_at:
        at = judge(until, is_open=is_open, silent=silent, alert=alert)
        assert at.health != found.health


@settings(max_examples=200)
@given(st.lists(st.integers(0, 5_000_000), min_size=1, max_size=200), st.integers(1, 100))
def test_a_percentile_lies_in_the_bucket_of_the_true_one(values: list[int], percent: int) -> None:
    """Whole numbers alone, and never off by more than the bucket."""
    counts: tuple[int, ...] = ()
    for one in values:
        counts = health.with_latency(counts, one)
    rank = -(-len(values) * percent // 100)
    true = sorted(values)[rank - 1]
    bucket = health.bucket(true)
    found = health.percentile(counts, percent)
    low = BOUNDS_MS[bucket - 1] if bucket else 0
    high = BOUNDS_MS[min(bucket, len(BOUNDS_MS) - 1)]
    assert low <= found <= high


def test_a_percentile_is_close_where_latencies_are_even() -> None:
    """Of 1 to 1,000 ms in equal parts, 95 percent are within 950 ms."""
    counts: tuple[int, ...] = ()
    for one in range(1, 1_001):
        counts = health.with_latency(counts, one)
    true = means.quantiles(range(1, 1_001), n=20)[-1]
    assert abs(health.percentile(counts) - true) < 10
    assert health.percentile(()) == 0


@given(st.lists(st.integers(0, 9), max_size=BUCKETS), st.lists(st.integers(0, 9), max_size=BUCKETS))
def test_histograms_add_and_subtract(one: list[int], other: list[int]) -> None:
    """What is added can be taken away again."""
    both = health.added(one, other)
    back = health.added(both, other, -1)
    assert list(back[: len(one)]) == one
    assert not any(back[len(one) :])
    assert sum(both) == sum(one) + sum(other)


def test_rates_need_enough_results() -> None:
    """Four results say nothing; five do. The limit itself is no breach."""
    slow = health.with_latency((0,) * BUCKETS, 60_000)
    for finished, breached in ((4, False), (5, True)):
        counts = tuple(finished * one for one in slow)
        errors, latency = health.rates(finished, finished, counts, 0.05, 1_000)
        assert (errors.breached, latency.breached) == (breached, breached)
    assert not health.rates(20, 1, (), 0.05, 1_000)[0].breached
    assert health.rates(20, 2, (), 0.05, 1_000)[0].breached


@pytest.mark.parametrize(
    ("windows", "said"),
    [
        ("b", ""),
        ("bb", ".r"),
        ("bqb", ""),
        ("bbbb", ".r.."),
        ("bbq", ".r."),
        ("bbqq", ".r.c"),
        ("bbqbq", ".r..."),
        ("bbqbqq", ".r...c"),
        ("bbqqbb", ".r.c.r"),
    ],
)
def test_two_in_a_row_raise_and_two_in_a_row_clear(windows: str, said: str) -> None:
    """One alone does neither: nothing flaps."""
    watch, found = Watch("latency", 0, 0, 0), ""
    for number, one in enumerate(windows):
        watch, what = health.judged(watch, breached=one == "b", now=number + 1)
        found += what[0] if what else "."
    assert found.rstrip(".") == said.rstrip(".")
