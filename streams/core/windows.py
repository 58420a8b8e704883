"""Windows of the local day: is one open, when does the next one open, where in the open time.

Rules: the end is exclusive; a window whose end is not after its start runs past midnight and
belongs to the day on which it starts. What counts is what a clock on the wall shows: an hour that
a zone leaves out is never open, an hour that it repeats is open twice. The offsets come with the
events (docs/decisions): the machine reads no time zone files. Behind a table's end its last offset
stays; a zone without a table is UTC.
"""

import functools
from bisect import bisect_right
from collections.abc import Iterator

from schemas.fleet_states import TimeWindow, ZoneTable

DAY_MS = 86_400_000
MINUTE_MS = 60_000
DAY_MINUTES = 1_440
LOOK_AHEAD_MS = 15 * DAY_MS
"""An opening comes within eight days; a change of offset may take away one of them."""
SPREAD_MAX_MS = 366 * DAY_MS
"""The longest time that devices are spread over."""
RING = 1 << 64
"""Places on the ring of device hashes."""

UTC = ZoneTable("UTC", 1 << 62, ())
ALWAYS = TimeWindow(0, DAY_MINUTES)


def is_open(window: TimeWindow, zone: ZoneTable, at: int) -> bool:
    """Tell whether work may begin at this instant."""
    day, within = divmod(at + offset_ms(zone, at), DAY_MS)
    weekday = (day + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
    start, end = window.start_minute * MINUTE_MS, window.end_minute * MINUTE_MS
    if start < end:
        return start <= within < end and weekday in window.days
    if within >= start:
        return weekday in window.days
    return within < end and (weekday - 1) % 7 in window.days


def next_opening(window: TimeWindow, zone: ZoneTable, at: int) -> int:
    """Return the first instant at or after `at` at which the window is open, zero for none."""
    until = at + LOOK_AHEAD_MS
    while at < until:
        if is_open(window, zone, at):
            return at
        at = _boundary(window, zone, at)
    return 0


def closes_at(window: TimeWindow, zone: ZoneTable, at: int) -> int:
    """Return when the window that is open at `at` closes; LOOK_AHEAD_MS later where it does not."""
    until = at + LOOK_AHEAD_MS
    while at < until and is_open(window, zone, at):
        at = _boundary(window, zone, at)
    return min(at, until)


def openings(
    window: TimeWindow, zone: ZoneTable, from_at: int, until_at: int
) -> Iterator[tuple[int, int]]:
    """Yield the open stretches between two instants: begin and end."""
    at = from_at
    while at < until_at:
        opens = next_opening(window, zone, at)
        if not opens or opens >= until_at:
            return
        at = closes_at(window, zone, opens)
        yield opens, min(at, until_at)


def spread(window: TimeWindow, zone: ZoneTable, from_at: int, until_at: int, place: int) -> int:
    """Return the instant of `place` (0 to RING - 1) when all places share the open time evenly.

    Returns zero where the window is never open between the two instants.
    """
    until_at = min(until_at, from_at + SPREAD_MAX_MS)
    if until_at <= from_at:
        return from_at if is_open(window, zone, from_at) else 0
    stretches, total = _stretches(window, zone, from_at, until_at)
    left = total * place // RING
    for opens, closes in stretches:
        if left < closes - opens:
            return opens + left
        left -= closes - opens
    return 0


def last_chance(window: TimeWindow, zone: ZoneTable, now: int, until_at: int) -> int:
    """Return when the last stretch that begins before `until_at` closes, zero where none does."""
    if is_open(window, zone, max(now, until_at - 1)):
        return until_at
    found = 0
    for _, closes in openings(window, zone, max(now, until_at - LOOK_AHEAD_MS), until_at):
        found = closes
    return found


def offset_ms(zone: ZoneTable, at: int) -> int:
    """Return what a clock on the wall is ahead of UTC."""
    place = bisect_right(zone.offsets, at, key=lambda one: one.from_at)
    return zone.offsets[place - 1].offset_ms if place else 0


@functools.lru_cache(maxsize=4_096)
def _stretches(
    window: TimeWindow, zone: ZoneTable, from_at: int, until_at: int
) -> tuple[tuple[tuple[int, int], ...], int]:
    found = tuple(openings(window, zone, from_at, until_at))
    return found, sum(closes - opens for opens, closes in found)


def _boundary(window: TimeWindow, zone: ZoneTable, at: int) -> int:
    """Return the next instant after `at` at which the window may open or close."""
    offset = offset_ms(zone, at)
    local = at + offset
    midnight = local - local % DAY_MS
    marks = (
        midnight + window.start_minute * MINUTE_MS,
        midnight + window.end_minute * MINUTE_MS,
        midnight + DAY_MS,
    )
    following = min(one for one in marks if one > local) - offset
    place = bisect_right(zone.offsets, at, key=lambda one: one.from_at)
    if place < len(zone.offsets):
        following = min(following, zone.offsets[place].from_at)
    return following
