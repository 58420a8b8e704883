"""Presence: sessions open and close, numbers go up, addresses move.

A session is named by its door; the closing of an older session than the one that is open says
nothing. Numbers: devices with our library number their events (boot, sequence); others are known
by the counter of their session.
"""

from schemas.envelope import Evidence, Numbering
from schemas.events import SessionClosed, SessionOpened
from schemas.records import changed
from schemas.states import DeviceRow, Window
from streams.core.turn import Turn

GAP_MAX = 1_000_000
"""What one jump of a sequence counts at most: a device names its numbers, a row holds 64 bits."""


def opened(turn: Turn, row: DeviceRow, event: SessionOpened) -> DeviceRow:
    """A door let the device in."""
    evidence = event.evidence
    moved = (
        row.connected
        and bool(row.peer_address)
        and _host(row.peer_address) != _host(evidence.peer_address)
    )
    window = _window(turn, row)
    window = changed(window, opens=window.opens + 1, moves=window.moves + moved)
    return changed(
        row,
        connected=True,
        session=evidence.session,
        session_counter=evidence.counter,
        peer_address=evidence.peer_address,
        window=window,
    )


def closed(row: DeviceRow, event: SessionClosed) -> DeviceRow:
    """A session ended; only the one that is open counts."""
    if row.session != event.evidence.session or not row.connected:
        return row
    return changed(row, connected=False)


def seen(turn: Turn, row: DeviceRow, evidence: Evidence) -> DeviceRow:
    """Something was heard of the device, through the door of that protocol."""
    return changed(row, last_seen_at=turn.now or row.last_seen_at, door=evidence.protocol)


def is_repeat(row: DeviceRow, evidence: Evidence, numbering: Numbering | None) -> bool:
    """Tell whether this event came before: by its own number, else by its session's."""
    if numbering is not None:
        return (numbering.boot, numbering.sequence) <= (row.boot, row.sequence)
    return evidence.session == row.session and evidence.counter <= row.session_counter


def numbered(
    turn: Turn, row: DeviceRow, evidence: Evidence, numbering: Numbering | None
) -> DeviceRow:
    """Take the event's number, and count what is missing before it."""
    counter = evidence.counter if evidence.session == row.session else row.session_counter
    if numbering is None:
        return changed(row, session_counter=counter)
    expected = row.sequence + 1 if numbering.boot == row.boot else 1
    missing = min(GAP_MAX, max(0, numbering.sequence - expected)) if row.boot else 0
    window = row.window
    if missing:
        window = _window(turn, row)
        window = changed(window, gaps=window.gaps + missing)
    return changed(
        row,
        boot=numbering.boot,
        sequence=numbering.sequence,
        session_counter=counter,
        window=window,
    )


def reported(turn: Turn, row: DeviceRow, size: int, is_error: bool) -> DeviceRow:
    """Count one report of `size` bytes in the window."""
    window = _window(turn, row)
    window = changed(
        window,
        messages=window.messages + 1,
        bytes=window.bytes + size,
        errors=window.errors + is_error,
    )
    return changed(row, window=window)


def misused(turn: Turn, row: DeviceRow, *, unknown: int = 0, retired: int = 0) -> DeviceRow:
    """Count an event under a certificate that the device must not use."""
    window = _window(turn, row)
    window = changed(window, unknown=window.unknown + unknown, retired=window.retired + retired)
    return changed(row, window=window)


def _window(turn: Turn, row: DeviceRow) -> Window:
    if row.window.started_at or not turn.now:
        return row.window
    return Window(started_at=turn.now)


def _host(address: str) -> str:
    """Return the address without its port, where the door gives one."""
    host, separator, port = address.rpartition(":")
    whole = "." in host or host.endswith("]")  # a bare IPv6 address has no port
    return host if separator and port.isdigit() and whole else address
