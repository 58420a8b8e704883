"""Which fleet a device's tags put it into: the queries of all fleets, beside the devices.

A fleet's query is told to every partition of devices, so each device is matched where its row is.
Rules: a device that is in no fleet asks into the first fleet, by id, whose query finds it. One that
its fleet's query no longer finds says so, and is let go if the query had brought it. A change of
tags costs the queries, never the devices; a change of a query goes through the devices once, so
many a tick. Who was let go by hand comes back with its next change of tags.
"""

from schemas import fleet_events as fleets
from schemas.decisions import DecisionName, Severity
from schemas.envelope import Cause
from schemas.fleet_queries import QUERIES_KEY, FleetQueriesRow, FleetQuery
from schemas.reasons import Reason
from schemas.records import changed
from schemas.states import DeviceRow
from schemas.topics import FLEET_EVENTS
from streams.core import query
from streams.core.turn import Turn

QUERIES_MAX = 256
"""Fleets with a query that a partition remembers."""
VISITED_MAX = 2_000
OUTPUTS_MAX = 90
"""Devices that one tick goes through, and what it may say of them."""


def with_query(
    turn: Turn, row: FleetQueriesRow | None, fleet_id: str, text: str
) -> FleetQueriesRow | None:
    """Return the queries with a fleet's set or taken away, None where there is no room."""
    held = {one.fleet_id: one.query for one in row.queries} if row is not None else {}
    if query.objection(text):
        return None
    if text:
        held[fleet_id] = text
    else:
        held.pop(fleet_id, None)
    if len(held) > QUERIES_MAX:
        turn.decide(
            DecisionName.EVENT_REFUSED,
            Reason.TOO_MANY_QUERIES,
            f"fleet:{fleet_id}",
            severity=Severity.WARNING,
            values={"what": "FleetPolicyChanged", "detail": f"at most {QUERIES_MAX}"},
        )
        return None
    queries = tuple(FleetQuery(*one) for one in sorted(held.items()))
    return FleetQueriesRow(turn.offset, max(1, turn.now), queries)


def visit(turn: Turn, row: FleetQueriesRow) -> FleetQueriesRow:
    """Ask the next devices; the rest comes with the next tick."""
    cursor, first = row.cursor, len(turn.outputs)
    found = turn.scan(b"", cursor, VISITED_MAX)
    for key, one in found:
        cursor = key
        if isinstance(one, DeviceRow):
            ask(turn, one, row)
        if len(turn.outputs) - first >= OUTPUTS_MAX:
            return changed(row, cursor=cursor, next_due_at=max(1, turn.now))
    if len(found) == VISITED_MAX:
        return changed(row, cursor=cursor, next_due_at=max(1, turn.now))
    return changed(row, cursor=b"", next_due_at=0)


def ask(turn: Turn, row: DeviceRow, held: FleetQueriesRow | None = None, but: str = "") -> None:
    """Ask the device into the fleet that its tags name, or out of its own; not into `but`."""
    known: FleetQueriesRow | None = held or turn.beside(QUERIES_KEY)
    if known is None or row.retired_at:
        return
    own = row.belongs.fleet_id
    for one in known.queries:
        if one.fleet_id == but or own not in ("", one.fleet_id):
            continue
        fits = query.matches(query.parse(one.query), row.tags, row.device_type, row.protocols)
        if fits is bool(own):
            continue
        fleet_id, cause = one.fleet_id, Cause(turn.position, len(turn.outputs), 1)
        word: fleets.DeviceRemoved | fleets.DeviceAdded
        if own:
            why = Reason.UNMATCHED.value
            word = fleets.DeviceRemoved(fleet_id, row.device_id, why, "query", cause)
        else:
            word = fleets.DeviceAdded(fleet_id, row.device_id, "query", "query", cause)
        turn.send(FLEET_EVENTS, fleet_id.encode(), word)
        return
