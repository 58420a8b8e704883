"""The rows beside the devices': what their fleets go by, and what their devices add up to.

A device's step changes its own row alone. It may look at these; what it notes of its sums is
added up here when it has succeeded.
"""

from collections.abc import Callable
from typing import Any

from schemas.events import FleetPolicyChanged
from schemas.fleet_queries import QUERIES_KEY
from schemas.records import changed
from schemas.states import FLEET_KEY_PREFIX, FleetPolicyRow
from streams.core import matching, tally
from streams.core.partition import Folded, Partition
from streams.core.turn import Turn


def reader(partition: Partition[Any], folded: Folded[Any]) -> Callable[[bytes], Any]:
    """Return how a step looks at another row: as this batch has left it so far."""

    def look(key: bytes) -> Any:
        return folded.rows.get(key) or partition.read(key)

    return look


def scanner(
    partition: Partition[Any], folded: Folded[Any]
) -> Callable[[bytes, bytes, int], list[tuple[bytes, Any]]]:
    """Return how a waking goes through the rows: as this batch has left them so far."""

    def scan(prefix: bytes, after: bytes, limit: int) -> list[tuple[bytes, Any]]:
        assert partition.scan is not None, "queries need scans"
        found = dict(partition.scan(prefix, after, limit))
        last = max(found) if len(found) == limit else b"\xff" * 256
        found |= {key: row for key, row in folded.rows.items() if after < key <= last}
        return sorted(one for one in found.items() if one[0].startswith(prefix))[:limit]

    return scan


def keep_policy(
    partition: Partition[Any], folded: Folded[Any], turn: Turn, event: FleetPolicyChanged
) -> None:
    """Keep what a fleet's devices go by, in a row of its own; an older word changes nothing."""
    key = FLEET_KEY_PREFIX + event.fleet_id.encode()
    before = folded.rows.get(key) or partition.read(key)
    folded.stepped += 1
    if before is not None and event.number <= before.number:
        return
    folded.rows[key] = FleetPolicyRow(
        applied_offset=turn.offset,
        next_due_at=0,
        fleet_id=event.fleet_id,
        number=event.number,
        membership=event.membership,
        rotation_enabled=event.rotation_enabled,
        days_before_expiry=event.days_before_expiry,
        health_check_interval_ms=event.health_check_interval_ms,
        metrics_interval_ms=event.metrics_interval_ms,
        error_rate=event.error_rate,
        latency_ms=event.latency_ms,
    )
    if before is None:
        partition.row = changed(partition.row, rows=partition.row.rows + 1)
    if event.membership != (before.membership if before is not None else ""):
        _keep_query(partition, folded, turn, event)


def _keep_query(
    partition: Partition[Any], folded: Folded[Any], turn: Turn, event: FleetPolicyChanged
) -> None:
    """Keep a fleet's query beside the others, and have all devices asked from the next tick on."""
    before = folded.rows.get(QUERIES_KEY) or partition.read(QUERIES_KEY)
    after = matching.with_query(turn, before, event.fleet_id, event.membership)
    if after is None:
        return
    folded.rows[QUERIES_KEY] = after
    partition.deadlines.put(QUERIES_KEY, after.next_due_at)
    if before is None:
        partition.row = changed(partition.row, rows=partition.row.rows + 1)


def add_up(partition: Partition[Any], folded: Folded[Any], turn: Turn) -> None:
    """Keep what a step has changed in the sums of fleets."""
    for fleet_id in dict.fromkeys(one[0] for one in turn.tallies):
        key = tally.key_of(fleet_id)
        before = folded.rows.get(key) or partition.read(key)
        after = tally.added(before, turn, fleet_id)
        folded.rows[key] = after
        if before is None:
            partition.row = changed(partition.row, rows=partition.row.rows + 1)
        if before is None or before.next_due_at != after.next_due_at:
            partition.deadlines.put(key, after.next_due_at)
    turn.tallies = ()
