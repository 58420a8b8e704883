"""The share of a device: the same in Python, in the broker's plugin and for ever."""

import pytest

from schemas.shares import share_of


@pytest.mark.parametrize(
    ("text", "share"), [("", 0x811C9DC5), ("a", 0xE40C292C), ("foobar", 0xBF9CF968)]
)
def test_shares_are_fnv_1a(text: str, share: int) -> None:
    """The published vectors of FNV-1a hold."""
    assert share_of(text, 1 << 32) == share


def test_shares_are_even() -> None:
    """Ten thousand devices over sixteen shares: each gets about its sixteenth."""
    counts = [0] * 16
    for number in range(10_000):
        counts[share_of(f"device-{number}", 16)] += 1
    assert min(counts) > 500
    assert max(counts) < 750
