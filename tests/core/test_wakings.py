"""Wakings that raise: time goes on, the row sleeps, and a replay gives the same."""

from dataclasses import replace

import pytest

from schemas import codec
from schemas.decisions import DeadLetter
from schemas.envelope import BROADCAST_KEY
from schemas.events import CoreVersionActivated
from schemas.states import PartitionRow, Waking
from streams.core import machine
from streams.core.machine import fold
from streams.core.partition import Entry
from streams.core.turn import Output
from tests.core.test_machine import SMALL, START, History

BAD_AT = START + 666
TICK = START + 10_000


def ill(history: History, device: str = "bad") -> None:
    """Order a waking that will raise."""
    history.order(BAD_AT, device=device)


def letters(outputs: list[Output]) -> list[DeadLetter]:
    """Return the dead letters among the outputs."""
    return [one.record for one in outputs if isinstance(one.record, DeadLetter)]


def test_only_the_row_whose_waking_raised_is_set_aside() -> None:
    """Time moves, the others wake, and of the broken waking nothing is left but its letter."""
    history = History()
    history.order(START, device="early")
    ill(history)
    history.order(START + 700, device="late")
    folded = history.tick(TICK, 1)
    assert (folded.set_aside, history.partition.row.now) == (1, TICK)
    assert [history.rows[key].woken for key in (b"early", b"bad", b"late")] == [1, 0, 1]
    assert history.partition.row.wakings == (Waking(3, b"bad"),)
    assert [type(one.record).__name__ for one in folded.outputs] == [
        "Decision", "Decision", "DeadLetter",
    ]  # fmt: skip
    (letter,) = letters(folded.outputs)
    assert (letter.key, letter.reason) == (b"bad", "step-raised")
    assert letter.detail == "waking of bad: ZeroDivisionError: no row is perfect"
    assert codec.decode(codec.encode(history.partition.row)) == history.partition.row


def test_a_parked_row_sleeps_until_an_event_touches_it() -> None:
    """No later tick wakes it; its next event gives it a deadline again."""
    history = History()
    ill(history)
    history.tick(TICK, 1)
    assert history.rows[b"bad"].next_due_at == 0
    assert history.tick(TICK + 1, 2).set_aside == 0
    history.order(TICK + 2, device="bad")
    history.tick(TICK + 3, 3)
    assert history.rows[b"bad"].woken == 1


def test_a_replay_honours_wakings_also_with_a_mended_core() -> None:
    """The same rows and partition row; all other outputs keep their ids and places."""
    history = History()
    history.order(START, device="early")
    ill(history)
    history.order(START + 700, device="late")
    live = history.tick(TICK, 1)
    mended = replace(SMALL, due=lambda turn, row: replace(row, woken=99, next_due_at=0))
    wakings = history.partition.row.wakings
    for core, same_outputs in ((SMALL, True), (mended, False)):
        replayed = History(row=PartitionRow(wakings=wakings))
        folded = fold(core, replayed.partition, history.entries)
        assert folded.rows[b"bad"] == history.rows[b"bad"]
        assert replayed.partition.row == history.partition.row
        if same_outputs:
            assert folded.rows == history.rows
            assert folded.outputs[-2:] == live.outputs[:2]


def test_a_row_that_raises_again_and_again_sleeps_for_good() -> None:
    """One device cannot use up the partition's list, and a replay agrees at every offset."""
    history = History()
    for number in range(machine.WAKINGS_PER_ROW_MAX + 5):
        ill(history)
        history.tick(TICK + number, number + 1)
    assert len(history.partition.row.wakings) == machine.WAKINGS_PER_ROW_MAX
    assert history.rows[b"bad"].events == machine.WAKINGS_PER_ROW_MAX + 5
    replayed = History(row=PartitionRow(wakings=history.partition.row.wakings))
    assert fold(SMALL, replayed.partition, history.entries).rows == history.rows
    assert replayed.partition.row == history.partition.row


def test_a_newer_core_wakes_what_slept() -> None:
    """The activation begins a new count."""
    history = History()
    for number in range(machine.WAKINGS_PER_ROW_MAX):
        ill(history)
        history.tick(TICK + number, number + 1)
    newer = replace(SMALL, version=2)
    activated = Entry(len(history.entries), START, BROADCAST_KEY, b"", CoreVersionActivated(1, 2))
    fold(newer, history.partition, [activated])
    history.entries.append(activated)
    history.order(START + 1, device="bad")
    assert history.rows[b"bad"].next_due_at == START + 1


def test_a_full_list_stops_the_partition() -> None:
    """Records and wakings share the bound; the exception comes out, the offset stays below."""
    full = tuple(Waking(10**6 + one, b"k") for one in range(machine.SET_ASIDE_MAX))
    history = History(row=PartitionRow(wakings=full))
    ill(history)
    with pytest.raises(ZeroDivisionError):
        history.tick(TICK, 1)
    assert history.partition.row.applied_offset == 0
    history = History(row=PartitionRow(wakings=full))
    with pytest.raises(ZeroDivisionError):
        history.order("raise")


def test_many_broken_rows_leave_the_tick_within_its_outputs() -> None:
    """Their letters count as outputs: the rest waits for the next tick."""
    history = History()
    for number in range(machine.SET_ASIDE_MAX - 10):
        ill(history, f"bad-{number:04}")
    first, second = history.tick(TICK, 1), history.tick(TICK + 1, 2)
    assert len(first.outputs) <= 1_000
    assert len(first.outputs) + len(second.outputs) == machine.SET_ASIDE_MAX - 10


def test_a_row_that_cannot_be_read_is_not_set_aside() -> None:
    """A failing disk is the engine's matter: the exception comes out."""
    history = History()

    def broken(key: bytes) -> None:
        raise OSError("disk")

    history.partition.read = broken
    with pytest.raises(OSError, match="disk"):
        history.order(0)
    assert history.partition.row.set_aside == ()
