"""A rehearsal: the fleet machine on rows in memory, with devices that do as they are told.

This is the dry run. Nothing is estimated by other rules than those that will act: the plan is what
the machine itself does with a copy of the rows, a clock that jumps from deadline to deadline, and
devices whose results and durations the caller gives. The simulations of the tests stand on it too.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from schemas import fleet_events as events
from schemas.decisions import Decision, DecisionName
from schemas.envelope import Cause, Position
from schemas.events import RotationOrdered
from schemas.fleet_orders import UpdateOrdered
from schemas.fleet_states import CampaignRow, MemberRow
from schemas.reasons import Reason
from schemas.states import PartitionRow
from schemas.topics import DEVICE_EVENTS, FLEET_EVENTS
from streams.core import campaign, certificate, fleet, ring
from streams.core.deadlines import Deadlines
from streams.core.rows import Ordered, Overlay
from streams.core.turn import Output, Turn

HOUR_MS = 3_600_000
TICK_MS = 1_000
STEPS_MAX = 10_000_000
TYPICAL_MS = 60_000
"""How long a device takes with an order, where nothing better is known."""

Order = RotationOrdered | UpdateOrdered
Behaviour = Callable[[Order], tuple[int, str, str] | None]
"""Given an order: how long it takes (ms), outcome and reason; None for a device that is silent."""


class Stage:
    """The fleet machine's rows in memory, a clock, and the machine's own continuations."""

    def __init__(self, rows: Iterable[tuple[bytes, Any]] = (), now: int = 0) -> None:
        self.rows = Ordered()
        self.deadlines = Deadlines()
        self.partition = PartitionRow(now=now)
        self.now = now
        self.offset = 0
        for key, row in rows:
            self.rows.put(key, row)
            self.deadlines.put(key, row.next_due_at)

    def apply(self, event: Any) -> list[Output]:
        """Answer one event, and what the machine continues by itself."""
        waiting, said = [event], []
        while waiting:
            turn, overlay = self._turn()
            one = waiting.pop(0)
            if isinstance(one, events.FleetDefaultsActivated):
                fleet.activate_defaults(turn, overlay, one)
            else:
                fleet.step(turn, overlay, one)
            said += self._keep(turn, overlay, waiting)
        return said

    def pass_time(self, now: int) -> list[Output]:
        """Let it be `now`, and wake what is due."""
        self.now = max(self.now, now)
        said: list[Output] = []
        while (key := self.deadlines.take(self.now)) is not None:
            turn, overlay = self._turn()
            fleet.due(turn, overlay, key)
            waiting: list[Any] = []
            said += self._keep(turn, overlay, waiting)
            for one in waiting:
                said += self.apply(one)
        return said

    def campaign(self, fleet_id: str, campaign_id: str) -> CampaignRow:
        """Return a campaign's row."""
        row: CampaignRow = self.rows.get(ring.campaign_key(fleet_id, campaign_id))
        return row

    def _turn(self) -> tuple[Turn, Overlay]:
        self.offset += 1
        turn = Turn(FLEET_EVENTS, 0, self.offset, self.partition)
        turn.now = self.now
        return turn, Overlay(self.rows)

    def _keep(self, turn: Turn, overlay: Overlay, waiting: list[Any]) -> list[Output]:
        for key, row in overlay.changes.items():
            if row is None:
                self.rows.delete(key)
            else:
                self.rows.put(key, row)
            self.deadlines.put(key, 0 if row is None else row.next_due_at)
        said = [one for one in turn.outputs if one.topic != FLEET_EVENTS]
        waiting += [one.record for one in turn.outputs if one.topic == FLEET_EVENTS]
        return said


class Theatre:
    """A stage with devices on it: orders end after a while, as `behaviour` says."""

    def __init__(self, stage: Stage, behaviour: Behaviour) -> None:
        self.stage, self._behaviour = stage, behaviour
        self._ends: list[tuple[int, int, Order, str, str]] = []
        self._number = 0
        self.on_output: Callable[[Output], None] = lambda output: None

    def apply(self, event: Any) -> None:
        """Answer one event; devices take their orders."""
        self._take(self.stage.apply(event))

    def run(self, over: Callable[[], bool], until_at: int) -> None:
        """Let time pass until something is over, nothing more happens, or the last instant."""
        for _ in range(STEPS_MAX):
            at = self._following()
            if over() or not at or at > until_at:
                return
            self._take(self.stage.pass_time(at))
            while self._ends and self._ends[0][0] <= self.stage.now:
                _, _, order, outcome, reason = heapq.heappop(self._ends)
                cause = Cause(Position(DEVICE_EVENTS, 0, self._number), 0, 2)
                self._take(
                    self.stage.apply(
                        events.OrderEnded(
                            order.fleet_id,
                            order.device_id,
                            order.campaign_id,
                            order.order_id,
                            outcome,
                            reason,
                            cause,
                        )
                    )
                )

    def _following(self) -> int:
        """Return the next instant at which something is due, on the clock's next tick."""
        instants = [one for one in (self.stage.deadlines.first(),) if one]
        if self._ends:
            instants.append(self._ends[0][0])
        if not instants:
            return 0
        at = max(min(instants), self.stage.now)
        return -(-at // TICK_MS) * TICK_MS

    def _take(self, outputs: list[Output]) -> None:
        for output in outputs:
            self.on_output(output)
            order = output.record
            if not isinstance(order, RotationOrdered | UpdateOrdered):
                continue
            end = self._behaviour(order)
            if end is not None:
                self._number += 1
                took, outcome, reason = end
                at = self.stage.now + took
                heapq.heappush(self._ends, (at, self._number, order, outcome, reason))


@dataclass(frozen=True, slots=True)
class PlannedGroup:
    """One group of a plan: its size, and when its first and last device are ordered."""

    size: int
    first_at: int
    last_at: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a campaign would do if every device did as it is told.

    `hours` are orders per hour (its beginning, the count), `first` the devices that begin,
    `refused` says why the campaign would not be accepted, `expiry_wins` counts orders that no
    window could take.
    """

    refused: str
    enrolled: int
    passed_over: int
    groups: tuple[PlannedGroup, ...]
    hours: tuple[tuple[int, int], ...]
    first: tuple[str, ...]
    expiry_wins: int
    begins_at: int
    ends_at: int
    state: str

    @property
    def peak_to_mean(self) -> float:
        """The busiest hour over the mean of the hours in which devices are ordered."""
        counts = [count for _, count in self.hours]
        return max(counts) * len(counts) / sum(counts) if counts else 0.0


FIRST_MAX = 10


def plan(
    rows: Iterable[tuple[bytes, Any]],
    event: events.CampaignOrdered,
    now: int,
    typical_ms: int = TYPICAL_MS,
) -> Plan:
    """Return what a campaign would do with these rows. Gates are taken as opened at once."""
    stage = Stage(rows, now)
    theatre = Theatre(stage, lambda order: (typical_ms, campaign.SUCCEEDED, Reason.NONE.value))
    chosen: list[Decision] = []
    refused: list[str] = []

    def look(output: Output) -> None:
        record = output.record
        if not isinstance(record, Decision):
            return
        if record.name == DecisionName.DEVICE_CHOSEN and _is(record, event.campaign_id):
            chosen.append(record)
        elif record.name == DecisionName.EVENT_REFUSED:
            refused.append(f"{record.reason}: {record.values['detail']}")

    theatre.on_output = look
    theatre.apply(event)
    if refused:
        return Plan(refused[0], 0, 0, (), (), (), 0, 0, 0, "refused")
    for number in range(len(event.spec.groups) + 1):
        theatre.apply(events.GateOpened(event.fleet_id, event.campaign_id, number, event.actor))
    row = stage.campaign(event.fleet_id, event.campaign_id)
    theatre.run(
        lambda: bool(stage.campaign(event.fleet_id, event.campaign_id).ended_at), row.end_at + 1
    )
    return _told(stage.campaign(event.fleet_id, event.campaign_id), chosen)


def forecast(
    rows: Iterable[tuple[bytes, Any]], fleet_id: str, now: int, until_at: int
) -> tuple[tuple[int, int], ...]:
    """Return the rotations per hour that a fleet's certificates will ask for by themselves.

    Every member's certificate nears its end as the device machine has it.
    """
    stage = Stage(rows, now)
    fleet_row = stage.rows.get(ring.fleet_key(fleet_id))
    days = fleet_row.config.cert_rotation.days_before_expiry
    theatre = Theatre(stage, lambda order: (TYPICAL_MS, campaign.SUCCEEDED, Reason.NONE.value))
    hours: Counter[int] = Counter()

    def look(output: Output) -> None:
        if isinstance(output.record, RotationOrdered):
            hours[stage.now // HOUR_MS * HOUR_MS] += 1

    theatre.on_output = look
    near: list[tuple[int, str, MemberRow]] = []
    for _, row in stage.rows.items():
        if isinstance(row, MemberRow) and row.fleet_id == fleet_id and row.not_after_at:
            at = certificate.nears_at(row.not_before_at, row.not_after_at, days)
            near.append((max(now, at), row.device_id, row))
    for number, (at, device_id, row) in enumerate(sorted(near, key=lambda one: one[:2])):
        if at > until_at:
            break
        theatre.run(lambda: False, at)
        theatre.stage.now = max(theatre.stage.now, at)
        cause = Cause(Position(DEVICE_EVENTS, 0, number), 0, 1)
        neared = events.CertificateNeared(
            fleet_id, device_id, row.not_before_at, row.not_after_at, cause
        )
        theatre.apply(neared)
    theatre.run(lambda: False, until_at)
    return tuple(sorted(hours.items()))


def _is(decision: Decision, campaign_id: str) -> bool:
    return decision.values["campaign"] == campaign_id


def _told(row: CampaignRow, chosen: list[Decision]) -> Plan:
    hours = Counter(one.decided_at // HOUR_MS * HOUR_MS for one in chosen)
    groups = []
    for number, one in enumerate(row.groups):
        times = [each.decided_at for each in chosen if each.values["group"] == str(number)]
        if one.enrolled:
            groups.append(PlannedGroup(one.enrolled, min(times, default=0), max(times, default=0)))
    return Plan(
        refused="",
        enrolled=row.enrolled,
        passed_over=row.passed_over,
        groups=tuple(groups),
        hours=tuple(sorted(hours.items())),
        first=tuple(one.values["device"] for one in chosen[:FIRST_MAX]),
        expiry_wins=sum(one.reason == Reason.EXPIRY_WINS for one in chosen),
        begins_at=min((one.decided_at for one in chosen), default=0),
        ends_at=row.ended_at,
        state=row.state,
    )
