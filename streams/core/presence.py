"""Presence: sessions open and close, numbers go up, addresses move.

A session is named by its door; the closing of an older session than the one that is open says
nothing. Numbers: devices with our library number their events (boot, sequence); others are known
by the counter of their session. The rows here are the step's own copies, and change in place.
"""

from schemas.envelope import RENEWAL, Evidence, Numbering
from schemas.events import SessionClosed
from schemas.records import changed
from schemas.states import DeviceRow, RefusedSession, Window
from streams.core.turn import Turn

GAP_MAX = 1_000_000
"""What one jump of a sequence counts at most: a device names its numbers, a row holds 64 bits."""
CLOCK_AHEAD_MIN_MS = 60_000
"""A clock that is ahead by less is as good as right: it is not even counted."""
CLOCK_MAX_MS = 2**53
REFUSED_KEPT_MAX = 4
"""Sessions whose refused messages a row remembers, to know a repeat."""


def opened(turn: Turn, row: DeviceRow, evidence: Evidence) -> None:
    """A door let the device in."""
    moved = (
        row.connected
        and bool(row.peer_address)
        and _host(row.peer_address) != _host(evidence.peer_address)
    )
    odd(turn, row, opens=1, moves=int(moved))
    row.connected = True
    row.session = evidence.session
    row.session_counter = evidence.counter
    row.peer_address = evidence.peer_address


def closed(row: DeviceRow, event: SessionClosed) -> None:
    """A session ended; only the one that is open counts."""
    if row.session == event.evidence.session:
        row.connected = False


def seen(turn: Turn, row: DeviceRow, evidence: Evidence) -> None:
    """Something was heard of the device, through the door of that protocol.

    A device may renew its certificate at another door than the one it lives behind.
    """
    row.last_seen_at = turn.now or row.last_seen_at
    if row.door != evidence.protocol and evidence.protocol != RENEWAL:
        row.door = evidence.protocol


def is_repeat(row: DeviceRow, evidence: Evidence, numbering: Numbering | None) -> bool:
    """Tell whether this event came before: by its own number, else by its session's."""
    if numbering is not None:
        if numbering.boot == row.boot:
            return numbering.sequence <= row.sequence
        return numbering.boot < row.boot
    return evidence.counter <= row.session_counter and evidence.session == row.session


def is_refused_repeat(row: DeviceRow, evidence: Evidence) -> bool:
    """Tell whether this message was refused before. Its own number says nothing: a stranger's."""
    return any(
        one.session == evidence.session and evidence.counter <= one.counter for one in row.refused
    )


def refused(row: DeviceRow, evidence: Evidence) -> None:
    """Remember a refused message by its session and counter; the oldest session is forgotten."""
    others = tuple(one for one in row.refused if one.session != evidence.session)
    latest = RefusedSession(evidence.session, evidence.counter)
    row.refused = (*others, latest)[-REFUSED_KEPT_MAX:]


def numbered(turn: Turn, row: DeviceRow, evidence: Evidence, numbering: Numbering | None) -> None:
    """Take the event's number, and count what is missing before it."""
    if evidence.session == row.session:
        row.session_counter = evidence.counter
    if numbering is None:
        return
    expected = row.sequence + 1 if numbering.boot == row.boot else 1
    if numbering.sequence > expected and row.boot:
        odd(turn, row, gaps=min(GAP_MAX, numbering.sequence - expected))
    row.boot, row.sequence = numbering.boot, numbering.sequence


def reported(turn: Turn, row: DeviceRow, size: int, *, is_error: bool) -> None:
    """Count one report of `size` bytes in the window."""
    window = row.window
    row.window = Window(window.started_at or turn.now, window.messages + 1, window.bytes + size)
    if is_error:
        odd(turn, row, errors=1)


def odd(turn: Turn, row: DeviceRow, **counts: int) -> None:
    """Count oddities in the window; it is opened where none is."""
    before = row.oddities
    sums = {name: getattr(before, name) + count for name, count in counts.items()}
    row.oddities = changed(before, **sums)
    if not row.window.started_at:
        row.window = Window(started_at=turn.now)


def clock_ahead(row: DeviceRow, milliseconds: int) -> None:
    """The device's clock was ahead of its door's by so much, the most of the window."""
    row.oddities = changed(row.oddities, clock_ahead_ms=min(milliseconds, CLOCK_MAX_MS))


def _host(address: str) -> str:
    """Return the address without its port, where the door gives one."""
    host, separator, port = address.rpartition(":")
    whole = "." in host or host.endswith("]")  # a bare IPv6 address has no port
    return host if separator and port.isdigit() and whole else address
