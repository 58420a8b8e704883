"""What a partition of devices adds up for their fleets: sums by difference, told now and then.

A step compares a device's row before and after it and notes what that changes in its fleet's sums;
the fold keeps them in a row per fleet and partition (key `@sums:<fleet>`). A row that has changed
is told to the fleet by its own deadline, at most once per metricsInterval. Nothing is scanned; a
fleet in which nothing happens costs nothing.

Results: a device's reports count when their window closes (errors have failed), its answers to
commands at once. Latency is from command to reply, by the bridge's clock.
"""

from typing import Any

from schemas import events
from schemas import fleet_events as fleets
from schemas.envelope import Cause
from schemas.fleet_sums import FleetSums
from schemas.records import changed
from schemas.states import (
    FLEET_KEY_PREFIX,
    SUMS_KEY_PREFIX,
    DeviceRow,
    FleetPolicyRow,
    FleetSumsRow,
    Issued,
    Requested,
)
from schemas.topics import FLEET_EVENTS
from streams.core import health
from streams.core.turn import Turn

METRICS_INTERVAL_MS = 60_000
"""Where the fleet has not said its own."""
ENDS = ("done", "failed", "refused")
"""Outcomes after which a command is finished."""
LATENCY_MAX_MS = 86_400_000


def count(turn: Turn, before: DeviceRow, row: DeviceRow, event: events.Keyed | None) -> None:
    """Note what a step has changed in the sums of the device's fleet."""
    old, new = before.belongs, row.belongs
    if old.fleet_id != new.fleet_id or old.health != new.health:
        if old.fleet_id and old.health:
            turn.tally(old.fleet_id, old.health, -1)
        if new.fleet_id and new.health:
            turn.tally(new.fleet_id, new.health, 1)
    fleet_id = new.fleet_id
    if not fleet_id:
        return
    if row.rotations != before.rotations:
        turn.tally(fleet_id, "rotations", row.rotations - before.rotations)
    window = before.window
    if window.messages and row.window.started_at != window.started_at:
        turn.tally(fleet_id, "finished", window.messages)
        if before.oddities.errors:
            turn.tally(fleet_id, "failed", before.oddities.errors)
    if isinstance(event, events.SigningRequested):
        _answered(turn, before, event, failed=False)
    elif isinstance(event, events.CommandAnswered) and event.outcome in ENDS:
        _answered(turn, before, event, failed=event.outcome != "done")


def added(row: FleetSumsRow | None, turn: Turn, fleet_id: str) -> FleetSumsRow:
    """Return the sums of a fleet in this partition with what the turn has noted for it."""
    if row is None:
        row = FleetSumsRow(-1, 0, fleet_id, FleetSums(turn.number))
    sums = row.sums
    for noted, name, by in turn.tallies:
        if noted != fleet_id:
            continue
        if name == "latency":
            sums = changed(sums, latencies=health.with_latency(sums.latencies, by))
        else:
            sums = changed(sums, **{name: getattr(sums, name) + by})
    at = row.next_due_at or turn.now + _interval_ms(turn, fleet_id)
    return changed(row, applied_offset=turn.offset, next_due_at=at, sums=sums)


def report(turn: Turn, row: FleetSumsRow) -> FleetSumsRow:
    """Tell the fleet its sums."""
    cause = Cause(turn.position, len(turn.outputs), 1)
    word = fleets.FleetTotalsReported(row.fleet_id, row.sums, cause)
    turn.send(FLEET_EVENTS, row.fleet_id.encode(), word)
    return changed(row, next_due_at=0)


def key_of(fleet_id: str) -> bytes:
    """Return the key of a fleet's sums in a partition."""
    return SUMS_KEY_PREFIX + fleet_id.encode()


def _answered(
    turn: Turn,
    before: DeviceRow,
    event: events.SigningRequested | events.CommandAnswered,
    *,
    failed: bool,
) -> None:
    fleet_id = before.belongs.fleet_id
    issued_at = _issued_at(turn, before, event.command_id)
    if not fleet_id or not issued_at:
        return
    turn.tally(fleet_id, "finished", 1)
    if failed:
        turn.tally(fleet_id, "failed", 1)
    latency = event.evidence.received_at - issued_at
    turn.tally(fleet_id, "latency", min(LATENCY_MAX_MS, max(0, latency)))


def _issued_at(turn: Turn, row: DeviceRow, command_id: str) -> int:
    """Return when the command in work went down, zero where it is another one."""
    rotation, update = row.rotation, row.belongs.update
    if isinstance(rotation, Requested | Issued) and rotation.command_id == command_id:
        return rotation.deadline_at - turn.policy.answer_within_ms
    if update is not None and update.command_id == command_id:
        return update.issued_at
    return 0


def _interval_ms(turn: Turn, fleet_id: str) -> int:
    found: Any = turn.beside(FLEET_KEY_PREFIX + fleet_id.encode())
    return found.metrics_interval_ms if isinstance(found, FleetPolicyRow) else METRICS_INTERVAL_MS
