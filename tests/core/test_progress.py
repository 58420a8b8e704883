"""The progress of an update: told by the device machine, kept and counted by the fleet machine."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import commands
from schemas import fleet_events as fleets
from schemas.fleet_states import MemberOrder
from schemas.progress import IN_WORK, OUTCOMES, Progress, ProgressCounts
from tests.core.test_belonging import member, told, updating
from tests.helpers.fleets import FLEET, NOON, Fleets, orders, refused, update
from tests.helpers.folding import Log

MINUTE = 60_000
words = st.lists(st.sampled_from([*IN_WORK, "", "?", Progress.DONE]), max_size=8)


def ordered() -> tuple[Log, str]:
    """Return a member's log with an update in work, and its command's id."""
    log = member()
    log.add(updating())
    return log, log.last(commands.InstallUpdate).command_id


def in_work(count: int = 1, **changes: Any) -> tuple[Fleets, list[Any]]:
    """Return a fleet with an update campaign, and its first orders."""
    fleets_ = Fleets().created().joined([f"d{number:02d}" for number in range(count)])
    return fleets_, orders(fleets_.order(update(**changes)))


def order_of(fleets_: Fleets, device: str = "d00") -> MemberOrder:
    """Return a device's order in work."""
    order = fleets_.member(device).order
    assert order is not None
    return order


def test_each_word_is_told_to_the_fleet_once() -> None:
    """In its order, with the order's id; a word that comes again, or late, is not told."""
    log, command = ordered()
    for word in IN_WORK:
        (said,) = told(log.answered(1, "accepted", command, word))
        assert isinstance(said, fleets.OrderProgressed)
        assert (said.fleet_id, said.campaign_id, said.order_id) == (FLEET, "c", "u1")
        assert said.progress == word
        assert told(log.answered(1, "accepted", command, word)) == []
    assert told(log.answered(1, "accepted", command, Progress.DOWNLOADING)) == []
    assert told(log.answered(1, "accepted", command)) == []
    assert log.row.belongs.update is not None
    assert log.row.belongs.update.progress == Progress.REBOOTING


def test_a_word_counts_as_accepted() -> None:
    """The command does not go down again, though `accepted` alone was never said."""
    log, command = ordered()
    log.answered(1, "accepted", command, Progress.VERIFIED)
    again = [one.record for one in log.opened(1)]
    assert not any(isinstance(one, commands.InstallUpdate) for one in again)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (Progress.DONE, ("succeeded", "none")),
        (Progress.FAILED, ("failed", "device-failed")),
        (Progress.ROLLED_BACK, ("failed", "rolled-back")),
    ],
)
def test_a_last_word_ends_the_order(word: Progress, expected: tuple[str, str]) -> None:
    """A device that went back to what it ran before has failed, for a reason of its own."""
    log, command = ordered()
    log.answered(1, "accepted", command, Progress.REBOOTING)
    (end,) = told(log.answered(1, OUTCOMES[word], command, word))
    assert isinstance(end, fleets.OrderEnded)
    assert (end.outcome, end.reason) == expected
    assert told(log.answered(1, "accepted", command, Progress.DOWNLOADING)) == []


@settings(max_examples=100, deadline=None)
@given(words.flatmap(lambda one: st.tuples(st.just(one), st.permutations(one))))
def test_the_device_machine_knows_the_furthest_word(both: tuple[list[str], list[str]]) -> None:
    """Whatever the order and however often: the same row in the end, and each told word is new."""
    rows = []
    for said in (both[0], both[1], [*both[0], *both[1]]):
        log, command = ordered()
        heard = [
            one.progress
            for word in said
            for one in told(log.answered(1, "accepted", command, word))
        ]
        assert heard == sorted(set(heard), key=list(IN_WORK).index)
        rows.append(log.row.belongs)
    assert rows[0] == rows[1] == rows[2]


@settings(max_examples=100, deadline=None)
@given(words.flatmap(lambda one: st.tuples(st.just(one), st.permutations(one))))
def test_the_fleet_machine_knows_the_furthest_word(both: tuple[list[str], list[str]]) -> None:
    """Whatever the order and however often: the same order and counts; no deadline moves."""
    found = []
    for said in (both[0], both[1], [*both[0], *both[1]]):
        fleets_, (order,) = in_work()
        deadline_at = order_of(fleets_).deadline_at
        assert [one for word in said for one in fleets_.progress(order, word)] == []
        assert order_of(fleets_).deadline_at == deadline_at
        found.append((order_of(fleets_), fleets_.campaign().progress_counts))
    assert found[0] == found[1] == found[2]


def test_devices_in_work_count_under_their_last_word() -> None:
    """One each, from the first word to the end of the order; who said nothing is nowhere."""
    fleets_, (a, b, c) = in_work(3)
    for word in IN_WORK[:2]:
        fleets_.progress(a, word)
    fleets_.progress(b, Progress.VERIFIED)
    assert fleets_.campaign().progress_counts == ProgressCounts(verified=2)
    fleets_.progress(a, Progress.REBOOTING)
    assert fleets_.campaign().progress_counts == ProgressCounts(verified=1, rebooting=1)
    fleets_.end(a)
    fleets_.end(c)
    assert fleets_.campaign().progress_counts == ProgressCounts(verified=1)
    fleets_.add(fleets.DeviceRemoved(FLEET, b.device_id, "ordered", "ops"))
    assert fleets_.campaign().progress_counts == ProgressCounts()
    assert fleets_.campaign().groups[0].dropped == 1


def test_progress_extends_nothing() -> None:
    """A device that goes on telling times out all the same, at its order's own deadline."""
    fleets_, (order,) = in_work(order_within_ms=10 * MINUTE, finished_min=1)
    for number, word in enumerate(IN_WORK, start=1):
        fleets_.wait(2 * MINUTE)
        fleets_.progress(order, word)
        assert order_of(fleets_).progress_at == NOON + number * 2 * MINUTE
    fleets_.wait(2 * MINUTE)
    row = fleets_.campaign()
    assert (row.groups[0].timed_out, row.state) == (1, "halted")
    assert row.progress_counts == ProgressCounts()


def test_a_word_of_an_order_that_ended_is_late() -> None:
    """Refused and counted; it is neither kept nor counted as in work."""
    fleets_, (order,) = in_work()
    fleets_.end(order)
    assert refused(fleets_.progress(order, Progress.REBOOTING))[0] == "late"
    assert fleets_.member("d00").order is None
    assert fleets_.campaign().progress_counts == ProgressCounts()


def test_a_roll_back_counts_as_failed() -> None:
    """Against the threshold, in its group's count, with its reason; an attempt more comes first."""
    fleets_, (order,) = in_work(attempts_max=2, finished_min=1)
    fleets_.progress(order, Progress.REBOOTING)
    fleets_.end(order, "failed", "rolled-back")
    assert fleets_.campaign().groups[0].rolled_back == 0, "it is tried again"
    fleets_.wait(2 * MINUTE)
    again = order_of(fleets_)
    assert (again.attempt, again.progress, again.progress_at) == (2, "", 0)
    fleets_.end_work("failed", "rolled-back")
    row = fleets_.campaign()
    assert (row.state, row.reason) == ("halted", "failure-threshold")
    assert (row.groups[0].failed, row.groups[0].rolled_back) == (1, 1)
    last = fleets_.member("d00").last
    assert last is not None
    assert (last.outcome, last.reason) == ("failed", "rolled-back")


def test_a_success_is_no_roll_back() -> None:
    """Whatever reason stands beside it."""
    fleets_, (order,) = in_work()
    fleets_.end(order, "succeeded", "rolled-back")
    assert fleets_.campaign().groups[0].rolled_back == 0
