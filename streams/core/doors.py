"""Doors: which shares of which door are served, and since when without a gap.

A device behind a door that nobody serves cannot be heard: its silence is not held against it.
A bridge says every few seconds, in every partition, which shares it serves (`DoorServed`).

Two clocks, for two questions. *Could the machine hear the device?* is asked of machine time: a
worker that was away folds an hour of history at one instant, and the devices spoke in it, but the
machine cannot tell when; so their quiet span begins again (`heard_at`, `up_since`). *Did the door
stand open?* is asked of the bridge's own word too (`at`): a worker's absence is no door's.

A share that nobody served for a week is taken as removed and forgotten: the silence behind it
counts again. Other shares must be served meanwhile, else the whole stack may have been away.
"""

from schemas.decisions import DecisionName, Severity
from schemas.envelope import is_device_id
from schemas.events import DoorServed
from schemas.reasons import Reason
from schemas.records import changed
from schemas.shares import share_of
from schemas.states import DeviceRow, DoorShare, PartitionRow
from streams.core.turn import Doors, Turn

SHARES_MAX = 256
"""Shares of one door."""
HELD_MAX = 512
"""Shares of all doors that a partition row remembers."""
FORGOTTEN_MS = 7 * 86_400_000
"""How long nobody has served a share that is taken as removed."""
DECIDING_PARTITION = 0
"""Every partition hears of every share; one of them tells of it, or each would."""


def objection(partition: PartitionRow, event: DoorServed) -> str:
    """Return what is wrong with the event, empty where nothing is."""
    if not is_device_id(event.door):  # the same form: it stands in a decision's subject
        return "a door's name has the form of a device id"
    if not 0 < event.shares <= SHARES_MAX or not 0 <= event.share < event.shares:
        return f"share {event.share} of {event.shares}, of at most {SHARES_MAX}"
    if find(partition.doors, event) is None and len(partition.doors) >= HELD_MAX:
        return f"more than {HELD_MAX} shares of doors"
    return ""


def find(held: tuple[DoorShare, ...], event: DoorServed) -> DoorShare | None:
    """Return what is known of the event's share."""
    for one in held:
        if (one.door, one.share, one.shares) == (event.door, event.share, event.shares):
            return one
    return None


def served(turn: Turn, held: tuple[DoorShare, ...], event: DoorServed) -> tuple[DoorShare, ...]:
    """A bridge serves a share. Another number of shares is another layout: the former is gone."""
    before = find(held, event)
    if before is not None and event.number <= before.number:
        return held
    gone = [one for one in held if one.door == event.door and one.shares != event.shares]
    for one in gone:
        _clear(turn, one)
    if before is None:
        kept = tuple(one for one in held if one not in gone)
        return (*kept, _first(turn, event))
    _clear(turn, before)
    now = changed(
        before,
        number=event.number,
        at=event.at,
        heard_at=turn.now,
        up_since=turn.now if is_away(turn, before) else before.up_since,
        told=False,
    )
    return tuple(now if one is before else one for one in held)


def judged(turn: Turn, held: tuple[DoorShare, ...]) -> tuple[DoorShare, ...]:
    """Tell of each share that is served no longer, once; forget what was removed long ago."""
    most = turn.policy.door_away_ms
    unserved = [one for one in held if _unserved_ms(turn, one) > most]
    if not unserved:
        return held
    late = [one for one in unserved if not one.told]
    for one in late:
        _decide(turn, one, DecisionName.ALERT_RAISED, Reason.DOOR_AWAY)
    gone = [one for one in unserved if one.told and _unserved_ms(turn, one) > FORGOTTEN_MS]
    if not any(_is_steady(turn, one) for one in held):
        gone = []
    for one in gone:
        _decide(turn, one, DecisionName.ALERT_CLEARED, Reason.DOOR_REMOVED)
    if not late and not gone:
        return held
    return tuple(changed(one, told=True) if one in late else one for one in held if one not in gone)


def index(held: tuple[DoorShare, ...]) -> Doors:
    """Return the shares by door and number."""
    found: Doors = {}
    for one in held:
        found.setdefault(one.door, {})[one.share] = one
    return found


def is_away(turn: Turn, share: DoorShare) -> bool:
    """Tell whether the machine has heard nothing of the share for longer than the policy's span."""
    return turn.now - share.heard_at > turn.policy.door_away_ms


def _unserved_ms(turn: Turn, share: DoorShare) -> int:
    """Return for how long nobody has served the share: by machine time and by its bridge's."""
    return turn.now - max(share.at, share.heard_at)


def _is_steady(turn: Turn, share: DoorShare) -> bool:
    """Tell whether a share is served, and has been for so long that all others would be, too."""
    return not is_away(turn, share) and turn.now - share.up_since > turn.policy.door_away_ms


def quiet_since(turn: Turn, row: DeviceRow) -> int:
    """Return from when on the device's silence counts: never while its share is away.

    Behind a door that has never been served by name it counts from the last word.
    """
    shares = turn.doors.get(row.door) if turn.doors else None
    if not shares:
        return row.last_seen_at
    some = next(iter(shares.values()))
    share = shares.get(share_of(row.device_id, some.shares))
    if share is None:
        return row.last_seen_at
    return turn.now if is_away(turn, share) else max(row.last_seen_at, share.up_since)


def _first(turn: Turn, event: DoorServed) -> DoorShare:
    return DoorShare(
        door=event.door,
        share=event.share,
        shares=event.shares,
        number=event.number,
        at=event.at,
        heard_at=turn.now,
        up_since=turn.now,
        told=False,
    )


def _clear(turn: Turn, share: DoorShare) -> None:
    if share.told:
        _decide(turn, share, DecisionName.ALERT_CLEARED, Reason.RECOVERED)


def _decide(turn: Turn, share: DoorShare, name: DecisionName, reason: Reason) -> None:
    if turn.number != DECIDING_PARTITION:
        return
    turn.decide(
        name,
        reason,
        f"door:{share.door}/{share.share}",
        severity=Severity.CRITICAL if name == DecisionName.ALERT_RAISED else Severity.INFO,
        rule=Reason.DOOR_AWAY.value,
        values={
            "figure": _unserved_ms(turn, share),
            "limit": turn.policy.door_away_ms,
            "served_at": share.at,
        },
    )
