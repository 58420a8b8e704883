"""The fold itself, with a machine so small that its rows can be written down."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from schemas.decisions import DeadLetter, Decision, DecisionName
from schemas.envelope import BROADCAST_KEY, Position
from schemas.events import ClockTicked, DeviceRegistered, DeviceReported, RotationOrdered
from schemas.reasons import Reason
from schemas.states import PARTITION_KEY, PartitionRow, Totals
from schemas.topics import DEAD_LETTERS, DECISIONS
from streams.core import machine
from streams.core.deadlines import Deadlines
from streams.core.machine import Machine, fold
from streams.core.partition import Entry, Folded, Partition
from streams.core.turn import OUTPUTS_MAX, TooManyOutputs, Turn
from tests.helpers.folding import DEVICE, START, Log, facts

KEY = DEVICE.encode()


@dataclass(frozen=True, slots=True)
class Counted:
    """A row that counts its events; it is due when the last order says so."""

    events: int
    applied_offset: int
    next_due_at: int
    woken: int = 0


def step(turn: Turn, row: Counted | None, event: Any) -> Counted | None:
    """Count; `order_id` says what to do: raise, nothing, or when to be woken."""
    if event.order_id == "raise":
        turn.decide(DecisionName.ALERT_RAISED, Reason.SILENT, "device:x")
        raise ZeroDivisionError("no step is perfect")
    if event.order_id == "nothing":
        return row
    turn.decide(DecisionName.ROTATION_STARTED, Reason.ORDERED, f"device:{event.device_id}")
    before = row or Counted(0, -1, 0)
    return replace(before, events=before.events + 1, next_due_at=int(event.order_id))


def due(turn: Turn, row: Counted) -> Counted:
    """Say something and sleep; by its deadline a row raises (…666) or says nothing (…500)."""
    loud = 60 if row.events > 1 else int(row.next_due_at % 1_000 != 500)
    for _ in range(loud):
        turn.decide(DecisionName.ALERT_RAISED, Reason.SILENT, "device:x")
    if row.next_due_at % 1_000 == 666:
        raise ZeroDivisionError("no row is perfect")
    return replace(row, woken=row.woken + 1, next_due_at=0)


SMALL: Machine[Counted] = Machine(
    topic="small",
    version=1,
    step=step,
    due=due,
    stamp=lambda row, offset: replace(row, applied_offset=offset),
    park=lambda row: replace(row, next_due_at=0),
    count=lambda row: Totals(registered=1, rotations=row.events),
)


@dataclass
class History:
    """A partition of the small machine."""

    row: PartitionRow = field(default_factory=PartitionRow)
    rows: dict[bytes, Counted] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.partition = Partition(7, self.row, self.rows.get, Deadlines())

    def fold(self, *entries: Entry) -> Folded[Counted]:
        """Fold entries and keep what changed."""
        self.entries += entries
        folded = fold(SMALL, self.partition, entries)
        self.rows.update(folded.rows)
        return folded

    def order(self, what: str | int, device: str = DEVICE, key: bytes = b"") -> Folded[Counted]:
        """Fold one order."""
        event = RotationOrdered(device, str(what), "tests")
        offset = len(self.entries)
        return self.fold(Entry(offset, START, key or device.encode(), b"value", event))

    def tick(self, at: int, number: int, broker_at: int | None = None) -> Folded[Counted]:
        """Fold one tick."""
        broker = at if broker_at is None else broker_at
        event = ClockTicked(number, at, b"r" * 32)
        return self.fold(Entry(len(self.entries), broker, BROADCAST_KEY, b"", event))


def test_a_record_below_the_applied_offset_is_skipped() -> None:
    """A batch that overlaps the last one counts nothing twice."""
    history = History()
    history.order(0)
    again = fold(SMALL, history.partition, history.entries)
    assert (again.skipped, again.stepped, again.rows, again.outputs) == (1, 0, {}, [])


def test_rows_carry_the_offset_and_totals_their_part() -> None:
    """A changed row is stamped; totals move by the difference of the row."""
    history = History()
    history.order(0)
    history.order("nothing")
    history.order(0)
    assert history.rows[KEY] == Counted(2, 2, 0)
    assert history.partition.row.applied_offset == 2
    assert history.partition.row.totals == Totals(registered=1, rotations=2)


def test_a_step_that_changes_nothing_keeps_no_row() -> None:
    """Neither a row that was absent nor one that stays as it was is written."""
    history = History()
    assert history.order("nothing").rows == {}
    history.order(0)
    assert history.order("nothing").rows == {}


@pytest.mark.parametrize(
    ("device", "key"),
    [
        (DEVICE, b"another"),
        ("@partition", PARTITION_KEY),
        ("@broadcast", BROADCAST_KEY),
        ("", b""),
        ("a/b", b"a/b"),
        ("x" * 65, b"x" * 65),
    ],
)
def test_a_key_that_is_no_device_id_goes_to_the_dead_letters(device: str, key: bytes) -> None:
    """No event can write the partition's row or another device's."""
    history = History()
    event = RotationOrdered(device, "0", "tests")
    folded = history.fold(Entry(0, START, key, b"value", event))
    (output,) = folded.outputs
    assert (output.topic, output.record.reason) == (DEAD_LETTERS, "malformed")
    assert folded.rows == {}


def test_no_batch_lets_an_event_change_the_row_of_another_device() -> None:
    """Also where that row was changed in the same batch: a replay cuts batches elsewhere."""
    history = History()
    stranger = Entry(1, START, KEY, b"", RotationOrdered("stranger", "0", "tests"))
    folded = history.fold(
        Entry(0, START, KEY, b"", RotationOrdered(DEVICE, "0", "tests")), stranger
    )
    assert folded.outputs[-1].record.reason == "malformed"
    assert folded.rows[KEY].events == 1


def test_an_undecodable_record_goes_to_the_dead_letters_whole() -> None:
    """With its bytes, its key, its place and what was wrong."""
    folded = History().fold(Entry(0, START, b"k", b"garbage", None, "unknown schema id 9"))
    (output,) = folded.outputs
    assert output.record == DeadLetter(
        reason="undecodable",
        detail="unknown schema id 9",
        origin="small machine",
        cause=Position("small", 7, 0),
        key=b"k",
        payload=b"garbage",
        letter_id="x-small-7-0-1",
    )


def test_a_step_that_raises_is_set_aside_with_nothing_of_it_left() -> None:
    """One dead letter, no decision of the broken step, the row untouched, the offset listed."""
    history = History()
    history.order(0)
    folded = history.order("raise")
    (output,) = folded.outputs
    assert (folded.set_aside, folded.rows) == (1, {})
    assert (output.record.reason, output.record.payload) == ("step-raised", b"value")
    assert output.record.detail == "ZeroDivisionError: no step is perfect"
    assert history.partition.row.set_aside == (1,)
    assert history.partition.row.applied_offset == 1


def test_a_replay_honours_what_was_set_aside() -> None:
    """What live folding did not apply, a repaired core does not apply either."""
    history = History()
    for what in (0, "raise", 0):
        history.order(what)
    repaired = replace(
        SMALL, step=lambda turn, row, event: step(turn, row, replace(event, order_id="0"))
    )
    replayed = History(row=PartitionRow(set_aside=history.partition.row.set_aside))
    folded = fold(repaired, replayed.partition, history.entries)
    assert folded.rows == history.rows
    assert folded.skipped == 1
    assert replayed.partition.row == history.partition.row


def test_a_full_list_of_set_aside_records_stops_the_partition() -> None:
    """The exception comes out, and the offset stays below the record."""
    row = PartitionRow(applied_offset=-1, set_aside=tuple(range(10**6, 10**6 + 1_000)))
    history = History(row=row)
    with pytest.raises(ZeroDivisionError):
        history.order("raise")
    assert history.partition.row == row


def test_outputs_of_a_record_are_bounded() -> None:
    """The one that is too many raises, and says where."""
    turn = Turn("small", 7, 3, PartitionRow())
    for _ in range(OUTPUTS_MAX):
        turn.send(DECISIONS, b"k", None)
    with pytest.raises(TooManyOutputs, match="offset=3"):
        turn.send(DECISIONS, b"k", None)


def test_ids_and_nonces_derive_from_the_record_alone() -> None:
    """The same turn gives the same ones again; another offset or tick gives others."""

    def made(offset: int, random: bytes) -> tuple[str, str, bytes]:
        turn = Turn("small", 7, offset, PartitionRow(random=random))
        return turn.new_id("a"), turn.new_id("a"), turn.nonce("purpose")

    assert made(3, b"r") == made(3, b"r")
    assert made(3, b"r")[:2] == ("a-small-7-3-1", "a-small-7-3-2")
    assert len({made(offset, random)[2] for offset in (3, 4) for random in (b"r", b"s")}) == 4


def test_a_decision_says_what_it_rests_upon() -> None:
    """Cause, index among the outputs, machine time, version, and figures as text."""
    history = History(row=PartitionRow(now=START, core_version=4))
    (output,) = history.order(0).outputs
    assert output.record == Decision(
        decision_id="d-small-7-0-1",
        name="RotationStarted",
        reason="ordered",
        severity="info",
        subject=f"device:{DEVICE}",
        cause=Position("small", 7, 0),
        cause_index=0,
        rule="",
        core_version=4,
        decided_at=START,
        values={},
    )
    assert output.key == f"device:{DEVICE}".encode()


@pytest.mark.parametrize("off", [5_001, -5_001])
def test_a_tick_far_off_is_refused_critically(off: int) -> None:
    """Time, number and rows stay; the decision carries both times."""
    history = History()
    history.order(START - 10)
    (output,) = history.tick(START, 1, START + off).outputs
    assert (output.record.name, output.record.severity) == ("TickRefused", "critical")
    assert output.record.values == {"at": str(START), "broker_at": str(START + off)}
    assert output.record.subject == "partition:7"
    assert (history.partition.row.now, history.partition.row.tick_number) == (0, 0)
    assert history.rows[KEY].woken == 0


@pytest.mark.parametrize("off", [5_000, -5_000])
def test_a_tick_within_five_seconds_counts(off: int) -> None:
    """The bound itself is within."""
    history = History()
    history.tick(START, 1, START + off)
    assert (history.partition.row.now, history.partition.row.tick_number) == (START, 1)


def test_an_older_tick_changes_nothing_and_time_never_goes_back() -> None:
    """By number; and a later tick of an earlier instant keeps the time."""
    history = History()
    history.tick(START, 5)
    before = history.partition.row
    history.tick(START + 1_000, 5)
    history.tick(START + 2_000, 4)
    assert replace(history.partition.row, applied_offset=0) == before
    history.tick(START - 1_000, 6)
    assert (history.partition.row.now, history.partition.row.tick_number) == (START, 6)


def test_a_tick_wakes_at_most_its_bound_and_the_next_one_the_rest() -> None:
    """Earliest first."""
    history = History()
    for number in range(machine.DUE_PER_TICK_MAX + 30):
        history.order(START + number * 1_000 + 500, device=f"d-{number:04}")
    late = START + 10_000_000
    first, second, third = (history.tick(late + number, number) for number in (1, 2, 3))
    assert sorted(first.rows) == [b"d-%04d" % one for one in range(machine.DUE_PER_TICK_MAX)]
    assert len(second.rows) == 30
    assert third.rows == {}
    assert {row.woken for row in history.rows.values()} == {1}


def test_a_tick_wakes_no_more_rows_than_its_outputs_allow() -> None:
    """A hundred loud rows do not break the clock: the rest waits for the next tick."""
    history = History()
    for number in range(50):
        history.order(START, device=f"d-{number:03}")
        history.order(START, device=f"d-{number:03}")
    ticks = 0
    while any(not row.woken for row in history.rows.values()):
        ticks += 1
        folded = history.tick(START + ticks, ticks)
        assert folded.set_aside == 0
        assert len(folded.outputs) <= OUTPUTS_MAX
    assert ticks == 4


def test_a_woken_key_without_a_row_is_passed_over() -> None:
    """An index that knows too much does no harm."""
    history = History()
    history.partition.deadlines.put(b"absent", START)
    assert history.tick(START, 1).rows == {}


def test_the_clock_of_a_device_is_only_data() -> None:
    """Evidence a year ahead, or from 1970, moves no time and starts nothing."""
    log = Log().registered()
    before = log.partition.row.now
    for received_at in (before + 365 * 86_400_000, 0):
        evidence = replace(log.evidence(1), received_at=received_at)
        log.add(DeviceReported(DEVICE, evidence, log.numbering(), "reading", "", b""))
    assert log.partition.row.now == before
    assert log.row.last_seen_at == before
    assert log.state() == "Idle"


def test_a_registration_before_the_first_tick_is_good() -> None:
    """Time is zero then; everything works once it is told."""
    log = Log()
    log.add(DeviceRegistered(DEVICE, "pump", ("mqtt",), facts(1, 20), "tests"))
    log.opened(1)
    log.reported(1)
    log.tick(1_000)
    log.reported(1)
    assert log.row.last_seen_at == log.now
    assert log.state() == "Requested"
