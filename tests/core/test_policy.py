"""Which policies a machine accepts, and what becomes of the others."""

from dataclasses import fields, replace

import pytest

from schemas.decisions import DeadLetter
from schemas.envelope import BROADCAST_KEY
from schemas.events import CoreVersionActivated, PolicyActivated
from schemas.states import Policy
from streams.core import policy
from tests.helpers.folding import Log

NAMES = [one.name for one in fields(Policy)]


def test_the_defaults_are_accepted() -> None:
    """No policy that a partition starts with is refused."""
    assert policy.objection(Policy()) == ""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [-1, 2**62])
def test_a_figure_out_of_bounds_is_named(name: str, value: int) -> None:
    """Neither negative spans nor such that a sum of instants passes 64 bits."""
    assert name in policy.objection(replace(Policy(), **{name: value}))


def test_a_bad_policy_goes_to_the_dead_letters_and_changes_nothing() -> None:
    """The old policy stays, and so does the number: a corrected one may follow under it."""
    log = Log().registered()
    before = log.partition.row.policy
    bad = PolicyActivated(1, replace(before, window_ms=0), "tests")
    (letter,) = [one.record for one in log.add(bad, BROADCAST_KEY)]
    assert isinstance(letter, DeadLetter)
    assert letter.reason == "malformed"
    assert "window_ms is 0" in letter.detail
    assert log.partition.row.policy == before
    log.add(PolicyActivated(1, replace(before, window_ms=9), "tests"), BROADCAST_KEY)
    assert log.partition.row.policy.window_ms == 9


def test_a_broadcast_counts_once_by_its_number() -> None:
    """A repeat, and one that comes late, change nothing."""
    log = Log().registered()
    first, second = replace(Policy(), window_ms=1), replace(Policy(), window_ms=2)
    log.add(PolicyActivated(2, second, "tests"), BROADCAST_KEY)
    log.add(PolicyActivated(1, first, "tests"), BROADCAST_KEY)
    log.add(PolicyActivated(2, first, "tests"), BROADCAST_KEY)
    assert log.partition.row.policy == second
    log.add(CoreVersionActivated(3, 2), BROADCAST_KEY)
    assert (log.partition.row.core_version, log.partition.row.broadcast_number) == (2, 3)
    log.add(CoreVersionActivated(3, 9), BROADCAST_KEY)
    assert log.partition.row.core_version == 2
