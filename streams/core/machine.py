"""The machine: a deterministic fold of one partition's log into rows and outputs.

Rules: the unit of determinism is the partition (its rows and one partition row). Inputs are the
records alone; ids of outputs derive from (topic, partition, offset, index). A record at or below
`applied_offset` changes nothing. A step that raises is set aside in the partition row, with a
dead letter; a replay honours that list. A record that activates a newer core is the last one that
this core folds.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

from schemas.decisions import DeadLetter, Decision, DecisionName, Severity
from schemas.envelope import Position, is_device_id
from schemas.events import ClockTicked, CoreVersionActivated, PolicyActivated
from schemas.reasons import Reason
from schemas.records import changed
from schemas.states import PartitionRow, Policy, Totals
from schemas.topics import DEAD_LETTERS, DECISIONS
from streams.core import policy
from streams.core.deadlines import Deadlines

DUE_PER_TICK_MAX = 100
"""Rows that one tick may wake; the rest stay due for the next tick."""
OUTPUTS_MAX = 1_000
"""Outputs of one record."""
OUTPUTS_PER_ROW_MAX = 100
"""Outputs that waking one row may need: a tick wakes no more rows than surely fit."""
TICK_OFF_MAX_MS = 5_000
"""How far a tick may lie off its record's broker time."""
SET_ASIDE_MAX = 1_000
"""Records that a partition may set aside before it stops and asks for a person."""


class Row(Protocol):
    """What the machine needs of a row."""

    @property
    def applied_offset(self) -> int:
        """The offset of the last record that changed the row."""

    @property
    def next_due_at(self) -> int:
        """When the row wants to be woken, zero for never."""


R = TypeVar("R", bound=Any)


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of the log. `event` is None where `undecodable` says why."""

    offset: int
    timestamp_at: int
    key: bytes
    value: bytes
    event: Any
    undecodable: str = ""


@dataclass(frozen=True, slots=True)
class Output:
    """One record to publish."""

    topic: str
    key: bytes
    record: Any


class TooManyOutputs(RuntimeError):
    """A step passed OUTPUTS_MAX: a bug, for work this long continues by events."""


class Turn:
    """What one record's step sees of its surroundings, and where it puts its outputs."""

    __slots__ = ("_ids", "core_version", "now", "outputs", "policy", "position", "random")

    def __init__(self, position: Position, partition: PartitionRow) -> None:
        self.position = position
        self.now = partition.now
        self.random = partition.random
        self.policy: Policy = partition.policy
        self.core_version = partition.core_version
        self.outputs: list[Output] = []
        self._ids = 0

    def new_id(self, kind: str) -> str:
        """Return the next id that derives from this record: the same again in a replay."""
        self._ids += 1
        return f"{kind}-{self.position.partition}-{self.position.offset}-{self._ids}"

    def nonce(self, purpose: str) -> bytes:
        """Return 16 bytes that derive from the last tick's random bytes and this record."""
        at = self.position
        seed = f"{at.topic}/{at.partition}/{at.offset}/{purpose}".encode()
        return hashlib.sha256(self.random + seed).digest()[:16]

    def send(self, topic: str, key: bytes, record: Any) -> None:
        """Publish `record`. Raises TooManyOutputs past OUTPUTS_MAX."""
        if len(self.outputs) >= OUTPUTS_MAX:
            raise TooManyOutputs(str(self.position))
        self.outputs.append(Output(topic, key, record))

    def decide(
        self,
        name: DecisionName,
        reason: Reason,
        subject: str,
        *,
        severity: Severity = Severity.INFO,
        rule: str = "",
        values: Mapping[str, object] | None = None,
    ) -> None:
        """Publish a decision about `subject` (`device:<id>` or `partition:<n>`)."""
        index = len(self.outputs)
        decision = Decision(
            decision_id=self.new_id("d"),
            name=name.value,
            reason=reason.value,
            severity=severity.value,
            subject=subject,
            cause=self.position,
            cause_index=index,
            rule=rule,
            core_version=self.core_version,
            decided_at=self.now,
            values={key: str(value) for key, value in (values or {}).items()},
        )
        self.send(DECISIONS, subject.encode(), decision)


@dataclass(frozen=True, slots=True)
class Machine(Generic[R]):
    """The domain's part of the fold.

    `step` answers a keyed event for a row that may be absent; `due` wakes a row; `count` gives
    the part of a row in the partition's totals.
    """

    topic: str
    version: int
    step: Callable[[Turn, R | None, Any], R | None]
    due: Callable[[Turn, R], R]
    stamp: Callable[[R, int], R]
    count: Callable[[R], Totals]


@dataclass(slots=True)
class Partition(Generic[R]):
    """One partition while it is folded: its row, a way to read rows, and its deadlines."""

    number: int
    row: PartitionRow
    read: Callable[[bytes], R | None]
    deadlines: Deadlines


@dataclass(slots=True)
class Folded(Generic[R]):
    """What a batch changed: rows by key, outputs in order, and what was counted."""

    rows: dict[bytes, R] = field(default_factory=dict)
    outputs: list[Output] = field(default_factory=list)
    stepped: int = 0
    skipped: int = 0
    set_aside: int = 0


def fold(machine: Machine[R], partition: Partition[R], entries: Iterable[Entry]) -> Folded[R]:
    """Fold the entries, in the order of their offsets, and return what changed.

    The fold ends behind a record that activates a newer core than this one.

    `partition.row` and `partition.deadlines` move on; `partition.read` is asked for rows that
    this batch has not changed.
    """
    folded: Folded[R] = Folded()
    for entry in entries:
        if entry.offset <= partition.row.applied_offset:
            folded.skipped += 1
            continue
        turn = Turn(Position(machine.topic, partition.number, entry.offset), partition.row)
        if entry.offset in partition.row.set_aside:
            folded.skipped += 1
        elif entry.event is None:
            _dead_letter(turn, entry, Reason.UNDECODABLE, entry.undecodable)
        else:
            try:
                _apply(machine, partition, folded, turn, entry)
                folded.stepped += 1
            except Exception as error:
                turn = _set_aside(machine, partition, folded, entry, error)
        folded.outputs.extend(turn.outputs)
        partition.row = changed(partition.row, applied_offset=entry.offset)
        if partition.row.core_version > machine.version:
            break
    return folded


def _apply(
    machine: Machine[R], partition: Partition[R], folded: Folded[R], turn: Turn, entry: Entry
) -> None:
    """Apply one event. Nothing of `partition` and `folded` changes where a step raises."""
    event = entry.event
    if isinstance(event, ClockTicked):
        _tick(machine, partition, folded, turn, entry)
    elif isinstance(event, PolicyActivated) and policy.objection(event.policy):
        _dead_letter(turn, entry, Reason.MALFORMED, policy.objection(event.policy))
    elif isinstance(event, CoreVersionActivated) and event.version < partition.row.core_version:
        _dead_letter(turn, entry, Reason.MALFORMED, f"core {event.version} is older")
    elif isinstance(event, CoreVersionActivated | PolicyActivated):
        if event.number > partition.row.broadcast_number:
            change: dict[str, Any] = (
                {"core_version": event.version, "core_since": entry.offset}
                if isinstance(event, CoreVersionActivated)
                else {"policy": event.policy}
            )
            partition.row = replace(partition.row, broadcast_number=event.number, **change)
    else:
        key = entry.key
        if event.device_id.encode() != key or not is_device_id(event.device_id):
            _dead_letter(turn, entry, Reason.MALFORMED, "the key is not the device id")
            return
        before = folded.rows.get(key) or partition.read(key)
        after = machine.step(turn, before, event)
        if after is not None and after is not before:
            _keep(machine, partition, folded, key, before, after, entry.offset)


def _tick(
    machine: Machine[R], partition: Partition[R], folded: Folded[R], turn: Turn, entry: Entry
) -> None:
    """Move the machine's time and wake what is due, at most DUE_PER_TICK_MAX rows."""
    tick: ClockTicked = entry.event
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
    turn.now, turn.random = now, tick.random
    changes = _woken(machine, partition, folded, turn)
    partition.row = replace(partition.row, tick_number=tick.number, now=now, random=tick.random)
    for key, before, after in changes:
        _keep(machine, partition, folded, key, before, after, entry.offset)


def _woken(
    machine: Machine[R], partition: Partition[R], folded: Folded[R], turn: Turn
) -> list[tuple[bytes, R, R]]:
    """Wake what is due: key, row before and row after, in the order of the deadlines."""
    changes: list[tuple[bytes, R, R]] = []
    taken: list[bytes] = []
    room = OUTPUTS_MAX - OUTPUTS_PER_ROW_MAX
    try:
        while len(taken) < DUE_PER_TICK_MAX and len(turn.outputs) <= room:
            keys = partition.deadlines.due(turn.now, 1)
            if not keys:
                break
            taken += keys
            before = folded.rows.get(keys[0]) or partition.read(keys[0])
            if before is not None:
                changes.append((keys[0], before, machine.due(turn, before)))
    except Exception:
        for key in taken:  # the tick is set aside whole: its rows stay due
            row = folded.rows.get(key) or partition.read(key)
            partition.deadlines.put(key, row.next_due_at if row is not None else 0)
        raise
    return changes


def _keep(
    machine: Machine[R],
    partition: Partition[R],
    folded: Folded[R],
    key: bytes,
    before: R | None,
    after: R,
    offset: int,
) -> None:
    folded.rows[key] = machine.stamp(after, offset)
    partition.deadlines.put(key, after.next_due_at)
    old = machine.count(before) if before is not None else Totals()
    new = machine.count(after)
    if old != new:
        partition.row = replace(partition.row, totals=_moved(partition.row.totals, old, new))
    if before is None:
        partition.row = changed(partition.row, rows=partition.row.rows + 1)


def _moved(totals: Totals, old: Totals, new: Totals) -> Totals:
    return Totals(
        registered=totals.registered - old.registered + new.registered,
        connected=totals.connected - old.connected + new.connected,
        rotations=totals.rotations - old.rotations + new.rotations,
        rotating=totals.rotating - old.rotating + new.rotating,
        alerts_open=totals.alerts_open - old.alerts_open + new.alerts_open,
    )


def _set_aside(
    machine: Machine[R],
    partition: Partition[R],
    folded: Folded[R],
    entry: Entry,
    error: Exception,
) -> Turn:
    """Set the record aside, with a dead letter. Re-raises where the list is full."""
    if len(partition.row.set_aside) >= SET_ASIDE_MAX:
        raise error
    folded.set_aside += 1
    turn = Turn(Position(machine.topic, partition.number, entry.offset), partition.row)
    _dead_letter(turn, entry, Reason.STEP_RAISED, f"{type(error).__name__}: {error}")
    listed = (*partition.row.set_aside, entry.offset)
    partition.row = replace(partition.row, set_aside=listed)
    return turn


def _dead_letter(turn: Turn, entry: Entry, reason: Reason, detail: str) -> None:
    letter = DeadLetter(
        reason=reason.value,
        detail=detail,
        origin="device machine",
        cause=turn.position,
        key=entry.key,
        payload=entry.value,
        letter_id=turn.new_id("x"),
    )
    turn.send(DEAD_LETTERS, entry.key, letter)
