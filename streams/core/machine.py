"""The machine: a deterministic fold of one partition's log into rows and outputs.

Rules: the unit of determinism is the partition (its rows and one partition row). Inputs are the
records alone. A record at or below `applied_offset` changes nothing. A step that raises is set
aside in the partition row, with a dead letter: a keyed event or a broadcast by its offset, the
waking of a row by offset and key, so that time never stops for one row. A replay honours both
lists, also with a core that is mended since. A record that activates a newer core is the last one
that this core folds.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, Generic, get_args

from schemas.decisions import DecisionName, Severity
from schemas.envelope import is_device_id
from schemas.events import (
    Broadcast,
    ClockTicked,
    CoreVersionActivated,
    DoorServed,
    FleetPolicyChanged,
    PolicyActivated,
)
from schemas.reasons import Reason
from schemas.records import changed
from schemas.states import (
    PartitionRow,
    Totals,
    Waking,
)
from streams.core import beside, doors, policy
from streams.core.partition import Entry, Folded, Partition, R
from streams.core.turn import OUTPUTS_MAX, Turn

DUE_PER_TICK_MAX = 5_000
"""Rows that one tick may wake; the rest stay due for the next tick."""
OUTPUTS_PER_ROW_MAX = 100
"""Outputs that waking one row may need: a tick wakes no more rows than surely fit."""
TICK_OFF_MAX_MS = 5_000
"""How far a tick may lie off its record's broker time."""
SET_ASIDE_MAX = 1_000
"""Records and wakings that a partition may set aside before it stops and asks for a person."""
WAKINGS_PER_ROW_MAX = 8
"""Wakings of one row that may be set aside; then it sleeps until another core is activated."""

_SUMS = attrgetter(*(one.name for one in fields(Totals)))
_ROOM = OUTPUTS_MAX - OUTPUTS_PER_ROW_MAX
_BROADCASTS = frozenset(get_args(Broadcast))


@dataclass(frozen=True, slots=True)
class Machine(Generic[R]):
    """The domain's part of the fold.

    `step` answers a keyed event for a row that may be absent; `due` wakes a row; `stamp` gives
    it an applied offset, `park` takes its deadline; `count` is its part in the partition's totals.
    """

    topic: str
    version: int
    step: Callable[[Turn, R | None, Any], R | None]
    due: Callable[[Turn, R], R]
    stamp: Callable[[R, int], R]
    park: Callable[[R], R]
    count: Callable[[R], Totals]


def fold(machine: Machine[R], partition: Partition[R], entries: Iterable[Entry]) -> Folded[R]:
    """Fold the entries, in the order of their offsets, and return what changed.

    The fold ends behind a record that activates a newer core than this one.

    `partition.row` and `partition.deadlines` move on; `partition.read` is asked for rows that
    this batch has not changed. What it raises comes out, as does a step's exception where the
    set-aside lists are full: the partition must then be opened anew.
    """
    folded: Folded[R] = Folded()
    applied = partition.row.applied_offset
    aside = frozenset(partition.row.set_aside)
    look = beside.reader(partition, folded)
    for entry in entries:
        if entry.offset <= applied:
            folded.skipped += 1
            continue
        turn = Turn(machine.topic, partition.number, entry.offset, partition.row)
        turn.beside = look
        if entry.offset in aside:
            folded.skipped += 1
        elif entry.event is None:
            turn.dead_letter(Reason.UNDECODABLE, entry.undecodable, entry.key, entry.value)
        elif type(entry.event) not in _BROADCASTS:
            _keyed(machine, partition, folded, turn, entry)
        elif isinstance(entry.event, ClockTicked):
            _tick(machine, partition, folded, turn, entry)
        else:
            _broadcast(partition, folded, turn, entry)
        if turn.outputs:
            folded.outputs.extend(turn.outputs)
        applied = entry.offset
        if partition.row.core_version > machine.version:
            break
    partition.row = changed(partition.row, applied_offset=applied)
    return folded


def _keyed(
    machine: Machine[R], partition: Partition[R], folded: Folded[R], turn: Turn, entry: Entry
) -> None:
    """Let the row that an event names answer it."""
    key, event = entry.key, entry.event
    if event.device_id.encode() != key or not is_device_id(event.device_id):
        turn.dead_letter(Reason.MALFORMED, "the key is not the device id", key, entry.value)
        return
    before = folded.rows.get(key) or partition.read(key)
    try:
        after = machine.step(turn, before, event)
    except Exception as error:
        set_aside(partition, folded, turn, entry, error)
        return
    folded.stepped += 1
    if after is not None and after is not before:
        _keep(machine, partition, folded, key, before, after, entry.offset)
    if turn.tallies:
        beside.add_up(partition, folded, turn)


def _broadcast(partition: Partition[R], folded: Folded[R], turn: Turn, entry: Entry) -> None:
    """Apply a broadcast, once by its number."""
    if isinstance(entry.event, FleetPolicyChanged):
        return beside.keep_policy(partition, folded, turn, entry.event)
    try:
        partition.row = _told(partition.row, turn, entry)
        folded.stepped += 1
    except Exception as error:
        set_aside(partition, folded, turn, entry, error)


def _told(row: PartitionRow, turn: Turn, entry: Entry) -> PartitionRow:
    """Return the partition row as it is behind a broadcast; what is wrong is a dead letter."""
    event, wrong, reason = entry.event, "", Reason.MALFORMED
    if isinstance(event, DoorServed):
        wrong = doors.objection(row, event)
        if not wrong and abs(event.at - entry.timestamp_at) > row.policy.door_away_ms:
            wrong, reason = f"served up to {event.at}, it is {entry.timestamp_at}", Reason.CLOCK_OFF
    elif isinstance(event, PolicyActivated):
        wrong = policy.objection(event.policy)
    elif event.version < row.core_version:
        wrong = f"core {event.version} is older"
    if wrong:
        turn.dead_letter(reason, wrong, entry.key, entry.value)
        return row
    if isinstance(event, DoorServed):
        return changed(row, doors=doors.served(turn, row.doors, event))
    if event.number <= row.broadcast_number:
        return row
    row = changed(row, broadcast_number=event.number)
    if isinstance(event, CoreVersionActivated):
        return changed(row, core_version=event.version, core_since=entry.offset)
    return changed(row, policy=event.policy)


def _tick(
    machine: Machine[R], partition: Partition[R], folded: Folded[R], turn: Turn, entry: Entry
) -> None:
    """Move the machine's time, judge the doors, and wake what is due."""
    tick: ClockTicked = entry.event
    folded.stepped += 1
    if abs(tick.at - entry.timestamp_at) > TICK_OFF_MAX_MS:
        turn.decide(
            DecisionName.TICK_REFUSED,
            Reason.CLOCK_OFF,
            f"partition:{partition.number}",
            severity=Severity.CRITICAL,
            values={"at": tick.at, "broker_at": entry.timestamp_at},
        )
        return
    if tick.number <= partition.row.tick_number:
        return
    now = max(tick.at, partition.row.now)
    partition.row = changed(partition.row, tick_number=tick.number, now=now, random=tick.random)
    held = partition.row.doors
    turn = Turn(machine.topic, partition.number, entry.offset, partition.row, doors.index(held))
    turn.beside, turn.scan = beside.reader(partition, folded), beside.scanner(partition, folded)
    partition.row = changed(partition.row, doors=doors.judged(turn, held))
    _wake(machine, partition, folded, turn, entry)
    folded.outputs.extend(turn.outputs)


def _wake(
    machine: Machine[R], partition: Partition[R], folded: Folded[R], turn: Turn, entry: Entry
) -> None:
    """Wake what is due, in the order of the deadlines, as long as the outputs surely fit.

    The letters of wakings that raised come last: a replay, which knows only that they raised,
    gives all other outputs the same ids and places.
    """
    listed = {one.key for one in partition.row.wakings if one.offset == entry.offset}
    raised: dict[bytes, str] = {}
    changes: list[tuple[bytes, R, R]] = []
    while len(changes) < DUE_PER_TICK_MAX and len(turn.outputs) + len(raised) <= _ROOM:
        key = partition.deadlines.take(turn.now)
        if key is None:
            break
        before = folded.rows.get(key) or partition.read(key)
        if before is None:
            continue
        if key in listed:
            after, raised[key] = machine.park(before), ""
        else:
            mark, tallies = turn.mark(), turn.tallies
            try:
                after = machine.due(turn, before)
            except Exception as error:
                full(partition, error, more=len(raised))
                turn.back_to(mark)
                turn.tallies = tallies
                after, raised[key] = machine.park(before), why(error)
        changes.append((key, before, after))
    for key, before, after in changes:
        _keep(machine, partition, folded, key, before, after, entry.offset)
    if turn.tallies:
        beside.add_up(partition, folded, turn)
    for key, reason in raised.items():
        if key not in listed:
            set_waking_aside(partition, folded, turn, entry, key, reason)


def _keep(
    machine: Machine[R],
    partition: Partition[R],
    folded: Folded[R],
    key: bytes,
    before: R | None,
    after: R,
    offset: int,
) -> None:
    """Take a changed row: its offset, its deadline, its part in the totals."""
    if partition.row.wakings and sleeps(partition.row, key, offset):
        after = machine.park(after)
    folded.rows[key] = machine.stamp(after, offset)
    partition.deadlines.put(key, after.next_due_at)
    new = machine.count(after)
    old = machine.count(before) if before is not None else Totals()
    if old != new:
        partition.row = changed(partition.row, totals=_moved(partition.row.totals, old, new))
    if before is None:
        partition.row = changed(partition.row, rows=partition.row.rows + 1)


def sleeps(row: PartitionRow, key: bytes, offset: int) -> bool:
    """Tell whether a row's wakings raised too often under this core; a replay lists later ones."""
    raised = [
        one for one in row.wakings if one.key == key and row.core_since < one.offset <= offset
    ]
    return len(raised) >= WAKINGS_PER_ROW_MAX


def _moved(totals: Totals, old: Totals, new: Totals) -> Totals:
    return Totals(*(a - b + c for a, b, c in zip(*map(_SUMS, (totals, old, new)), strict=True)))


def set_aside(
    partition: Partition[R], folded: Folded[R], turn: Turn, entry: Entry, error: Exception
) -> None:
    """Set the record aside: nothing of its step is left but a dead letter."""
    full(partition, error)
    folded.set_aside += 1
    turn.back_to((0, 0))
    turn.dead_letter(Reason.STEP_RAISED, why(error), entry.key, entry.value)
    listed = (*partition.row.set_aside, entry.offset)
    partition.row = changed(partition.row, set_aside=listed)


def set_waking_aside(
    partition: Partition[R], folded: Folded[R], turn: Turn, entry: Entry, key: bytes, reason: str
) -> None:
    """List a waking that raised, with a dead letter."""
    folded.set_aside += 1
    detail = f"waking of {key.decode()}: {reason}"
    turn.dead_letter(Reason.STEP_RAISED, detail, key, entry.value)
    wakings = (*partition.row.wakings, Waking(entry.offset, key))
    partition.row = changed(partition.row, wakings=wakings)


def why(error: Exception) -> str:
    """Return what a dead letter says of an exception."""
    return f"{type(error).__name__}: {error}"


def full(partition: Partition[R], error: Exception, more: int = 0) -> None:
    """Raise `error` where the lists have no room."""
    listed = len(partition.row.set_aside) + len(partition.row.wakings) + more
    if listed >= SET_ASIDE_MAX:
        raise error
