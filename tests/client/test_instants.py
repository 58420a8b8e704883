"""Instants and spans as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import instants
from client.errors import FleetError

NOW = 1_795_600_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("start", 0),
        ("now", NOW),
        ("30s", NOW - 30_000),
        ("10m", NOW - 600_000),
        ("2h", NOW - 7_200_000),
        ("7d", NOW - 604_800_000),
        ("2026-11-25T10:00", 1_795_600_800_000),
        ("2026-11-25T10:00+02:00", 1_795_593_600_000),
    ],
)
def test_an_instant_is_read(text: str, expected: int) -> None:
    """A span means that long ago; a time without a zone is UTC."""
    assert instants.parse(text, NOW) == expected


@pytest.mark.parametrize("text", ["", "10", "tomorrow", "10m ago", "2026-13-01"])
def test_what_is_no_instant_says_how_to_write_one(text: str) -> None:
    """The error shows every form."""
    with pytest.raises(FleetError, match=r"write 30s, 10m"):
        instants.parse(text, NOW)


@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [
        (250, "250 ms"),
        (4_200, "4.2 s"),
        (60_000, "1 min"),
        (7_199_999, "119 min"),
        (7_200_000, "2 h"),
        (89 * 86_400_000, "89 days"),
    ],
)
def test_a_span_is_told_by_its_largest_unit(milliseconds: int, expected: str) -> None:
    """At least two of the unit, or of the next smaller one."""
    assert instants.span(milliseconds) == expected


@given(st.integers(-(2**63), 2**63 - 1))
def test_any_instant_can_be_shown(at: int) -> None:
    """A record may say anything: also what lies beyond the calendar becomes text."""
    assert instants.shown(at)
    assert instants.distance(at, NOW)
    assert instants.clock(at, NOW)
