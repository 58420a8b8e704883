"""Instants and spans as people write and read them. Instants are milliseconds, times are UTC."""

import re
from datetime import UTC, datetime

from client.errors import FleetError

START, NOW = "start", "now"
_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SPAN = re.compile(r"(\d{1,6})([smhd])")


def parse(text: str, now: int) -> int:
    """Return the instant that `10m` (ago), `2026-11-25T10:00`, `start` or `now` means.

    Raises FleetError.
    """
    if text == START:
        return 0
    if text == NOW:
        return now
    span = _SPAN.fullmatch(text)
    if span:
        return max(0, now - int(span[1]) * _UNITS_MS[span[2]])
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise FleetError(
            f"{text!r} is no instant: write 30s, 10m, 2h or 7d (ago), 2026-11-25T10:00 (UTC), "
            f"{START} or {NOW}"
        ) from error
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return int(at.timestamp() * 1000)


def length(text: str) -> int:
    """Return the span (milliseconds) that `30s`, `10m`, `2h` or `7d` means. Raises FleetError."""
    span = _SPAN.fullmatch(text)
    if span is None:
        raise FleetError(f"{text!r} is no span: write 30s, 10m, 2h or 7d")
    return int(span[1]) * _UNITS_MS[span[2]]


def shown(at: int) -> str:
    """Return an instant as text, a dash for never."""
    if not at:
        return "-"
    try:
        return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):  # beyond the calendar: a record may say anything
        return str(at)


def clock(at: int, beside: int) -> str:
    """Return an instant as the time of day alone, where it is the day of the one `beside` it."""
    whole, other = shown(at), shown(beside)
    return whole[11:] if len(whole) == 19 and whole[:10] == other[:10] else whole


def span(milliseconds: int) -> str:
    """Return a span by its largest unit: `250 ms`, `4.2 s`, `12 min`, `3 h`, `89 days`."""
    size = abs(milliseconds)
    if size < 1_000:
        return f"{size} ms"
    if size < 60_000:
        return f"{size / 1_000:.1f} s"
    for unit, length in (("days", 86_400_000), ("h", 3_600_000), ("min", 60_000)):
        if size >= 2 * length or unit == "min":
            return f"{size // length} {unit}"
    raise AssertionError(size)


def distance(at: int, now: int) -> str:
    """Return how far an instant is away: `in 89 days`, `4.2 s ago`."""
    return f"in {span(at - now)}" if at >= now else f"{span(now - at)} ago"
