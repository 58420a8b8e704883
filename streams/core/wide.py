"""The fold of a machine whose steps see all rows of their partition, one by one and in order.

It is machine.py's fold in every rule (offsets, set-aside, wakings, versions, time), but that a step
changes as many rows as it must, through an overlay that is thrown away where the step raises. Rows
that were deleted stand in `Folded.rows` as None. A record that another machine wrote carries its
cause: one whose cause was heard before, or an earlier one of the same source, is a repeat.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from schemas.decisions import DecisionName, Severity
from schemas.envelope import Cause, is_fleet_id
from schemas.events import ClockTicked, CoreVersionActivated
from schemas.reasons import Reason
from schemas.records import changed
from schemas.states import PartitionRow, Source
from streams.core import machine as single
from streams.core.partition import Entry, Folded, Partition
from streams.core.rows import Overlay, Rows
from streams.core.turn import OUTPUTS_MAX, TooManyOutputs, Turn


@dataclass(frozen=True, slots=True)
class WideMachine:
    """The domain's part of the fold.

    `step` answers a keyed event, `due` wakes the row of a key, `told` answers a broadcast (one of
    `broadcasts`); each changes rows as it must. `subject` names whom a keyed event is about.
    """

    topic: str
    version: int
    step: Callable[[Turn, Rows, Any], None]
    due: Callable[[Turn, Rows, bytes], None]
    told: Callable[[Turn, Rows, Any], None]
    subject: Callable[[Any], str]
    keyed: frozenset[type]
    broadcasts: frozenset[type]


class _Beneath:
    """A partition's rows as they stand before a batch."""

    __slots__ = ("get", "scan")

    def __init__(self, partition: Partition[Any]) -> None:
        assert partition.scan is not None, "a machine of several rows needs scans"
        self.get, self.scan = partition.read, partition.scan

    def put(self, key: bytes, row: Any) -> None:
        """Nothing beneath a batch changes."""
        raise NotImplementedError

    def delete(self, key: bytes) -> None:
        """Nothing beneath a batch changes."""
        raise NotImplementedError


def fold(machine: WideMachine, partition: Partition[Any], entries: Iterable[Entry]) -> Folded[Any]:
    """Fold the entries, in the order of their offsets, and return what changed."""
    folded: Folded[Any] = Folded()
    batch = Overlay(_Beneath(partition))
    applied = partition.row.applied_offset
    aside = frozenset(partition.row.set_aside)
    for entry in entries:
        if entry.offset <= applied:
            folded.skipped += 1
            continue
        turn = Turn(machine.topic, partition.number, entry.offset, partition.row)
        if entry.offset in aside:
            folded.skipped += 1
        elif entry.event is None:
            turn.dead_letter(Reason.UNDECODABLE, entry.undecodable, entry.key, entry.value)
        elif isinstance(entry.event, ClockTicked):
            turn = _tick(machine, partition, folded, batch, turn, entry)
        elif isinstance(entry.event, CoreVersionActivated):
            _version(partition, folded, turn, entry)
        else:
            _event(machine, partition, folded, batch, turn, entry)
        folded.outputs.extend(turn.outputs)
        applied = entry.offset
        if partition.row.core_version > machine.version:
            break
    partition.row = changed(partition.row, applied_offset=applied)
    folded.rows = batch.changes
    return folded


def _event(
    machine: WideMachine,
    partition: Partition[Any],
    folded: Folded[Any],
    batch: Overlay,
    turn: Turn,
    entry: Entry,
) -> None:
    """Let the machine answer a keyed event or a broadcast of its own."""
    event, answer = entry.event, machine.step
    if type(event) in machine.broadcasts:
        answer = machine.told
    elif type(event) not in machine.keyed:
        turn.dead_letter(Reason.UNKNOWN_TYPE, type(event).__name__, entry.key, entry.value)
        return
    elif machine.subject(event).encode() != entry.key or not is_fleet_id(machine.subject(event)):
        turn.dead_letter(Reason.MALFORMED, "the key is not the id", entry.key, entry.value)
        return
    heard = _heard(partition.row, getattr(event, "cause", None))
    if heard is None:
        folded.skipped += 1
        return
    step = Overlay(batch)
    try:
        answer(turn, step, event)
    except Exception as error:
        single.set_aside(partition, folded, turn, entry, error)
        return
    folded.stepped += 1
    partition.row = heard
    for key, at in _kept(partition, batch, step, entry.offset).items():
        partition.deadlines.put(key, at)


def _version(partition: Partition[Any], folded: Folded[Any], turn: Turn, entry: Entry) -> None:
    event, row = entry.event, partition.row
    folded.stepped += 1
    if event.version < row.core_version:
        detail = f"core {event.version} is older"
        turn.dead_letter(Reason.MALFORMED, detail, entry.key, entry.value)
    elif event.number > row.broadcast_number:
        partition.row = changed(
            row,
            broadcast_number=event.number,
            core_version=event.version,
            core_since=entry.offset,
        )


def _tick(
    machine: WideMachine,
    partition: Partition[Any],
    folded: Folded[Any],
    batch: Overlay,
    turn: Turn,
    entry: Entry,
) -> Turn:
    """Move the machine's time and wake what is due; return the turn that the outputs are in."""
    tick: ClockTicked = entry.event
    folded.stepped += 1
    if abs(tick.at - entry.timestamp_at) > single.TICK_OFF_MAX_MS:
        turn.decide(
            DecisionName.TICK_REFUSED,
            Reason.CLOCK_OFF,
            f"partition:{partition.number}",
            severity=Severity.CRITICAL,
            values={"at": tick.at, "broker_at": entry.timestamp_at},
        )
        return turn
    if tick.number <= partition.row.tick_number:
        return turn
    now = max(tick.at, partition.row.now)
    partition.row = changed(partition.row, tick_number=tick.number, now=now, random=tick.random)
    turn = Turn(machine.topic, partition.number, entry.offset, partition.row)
    _wake(machine, partition, folded, batch, turn, entry)
    return turn


def _wake(
    machine: WideMachine,
    partition: Partition[Any],
    folded: Folded[Any],
    batch: Overlay,
    turn: Turn,
    entry: Entry,
) -> None:
    """Wake what is due, in the order of the deadlines, each row once in a tick.

    A waking sees what the one before it changed; the letters of those that raised come last.
    """
    listed = {one.key for one in partition.row.wakings if one.offset == entry.offset}
    raised: dict[bytes, str] = {}
    later: dict[bytes, int] = {}
    for _ in range(single.DUE_PER_TICK_MAX):
        if len(turn.outputs) + len(raised) > OUTPUTS_MAX - single.OUTPUTS_PER_ROW_MAX:
            break
        key = partition.deadlines.take(turn.now)
        if key is None:
            break
        row = batch.get(key)
        if row is None:
            continue
        step, error = (Overlay(batch), None) if key in listed else _woken(machine, turn, batch, key)
        if isinstance(error, TooManyOutputs) and turn.outputs:
            partition.deadlines.put(key, row.next_due_at)
            break  # the rows before it left too little room: it comes first in the next tick
        if key in listed or error is not None:
            raised[key] = _why(partition, error, len(raised))
            step.put(key, changed(row, next_due_at=0))
        elif key not in step.changes:
            step.put(key, changed(row, next_due_at=0))
        later |= _kept(partition, batch, step, entry.offset)
    for key, at in later.items():
        partition.deadlines.put(key, at)
    for key, why in raised.items():
        if key not in listed:
            single.set_waking_aside(partition, folded, turn, entry, key, why)


def _woken(
    machine: WideMachine, turn: Turn, batch: Overlay, key: bytes
) -> tuple[Overlay, Exception | None]:
    """Wake one row; of a waking that raises nothing is left but what it raised."""
    step, mark = Overlay(batch), turn.mark()
    try:
        machine.due(turn, step, key)
    except Exception as error:
        turn.back_to(mark)
        return Overlay(batch), error
    return step, None


def _why(partition: Partition[Any], error: Exception | None, more: int) -> str:
    """Return what a letter says of a waking, nothing of a listed one. Raises where all is full."""
    if error is None:
        return ""
    single.full(partition, error, more=more)
    return single.why(error)


def _kept(
    partition: Partition[Any], batch: Overlay, step: Overlay, offset: int
) -> dict[bytes, int]:
    """Lay a step's changes over the batch's; return the deadlines of what changed."""
    deadlines: dict[bytes, int] = {}
    more = 0
    for key, row in step.changes.items():
        before = batch.get(key)
        if row is None:
            if before is not None:
                more -= 1
                batch.delete(key)
                deadlines[key] = 0
            continue
        if partition.row.wakings and single.sleeps(partition.row, key, offset):
            row = changed(row, next_due_at=0)
        more += before is None
        batch.put(key, changed(row, applied_offset=offset))
        deadlines[key] = row.next_due_at
    if more:
        partition.row = changed(partition.row, rows=partition.row.rows + more)
    return deadlines


def _heard(row: PartitionRow, cause: Cause | None) -> PartitionRow | None:
    """Return the partition row that has heard a cause, None where it had heard it before."""
    if cause is None:
        return row
    place, mark = cause.position, cause.position.offset * OUTPUTS_MAX + cause.index
    for number, one in enumerate(row.sources):
        if (one.topic, one.partition) == (place.topic, place.partition):
            if mark <= one.mark:
                return None
            sources = (*row.sources[:number], changed(one, mark=mark), *row.sources[number + 1 :])
            return changed(row, sources=sources)
    return changed(row, sources=(*row.sources, Source(place.topic, place.partition, mark)))
