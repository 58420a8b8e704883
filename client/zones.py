"""Time zones as tables of offsets: looked up here, recorded with the event, read by the machine.

The machine never opens time zone files: they differ from one machine to the next and change with
the years, and a replay would then differ too. So whoever names a zone sends its offsets along.
"""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from schemas.fleet_states import ZoneOffset, ZoneTable

YEARS = 10
DAY_MS = 86_400_000


def table(zone: str, from_at: int, years: int = YEARS) -> ZoneTable:
    """Return a zone's offsets from an instant on (ms), each change to the second.

    Raises ValueError for a zone that this machine does not know.
    """
    try:
        rules = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, IsADirectoryError) as error:
        raise ValueError(
            f"{zone!r} is no time zone that this machine knows; names are like Europe/Berlin "
            "(Debian: apt install tzdata)"
        ) from error
    at = from_at - from_at % 1000
    until_at = at + years * 366 * DAY_MS
    offset = _offset_ms(rules, at)
    offsets = [ZoneOffset(0, offset)]
    while at < until_at:
        following = _offset_ms(rules, at + DAY_MS)
        if following != offset:
            changes_at = _change(rules, at, at + DAY_MS)
            offset = _offset_ms(rules, changes_at)
            offsets.append(ZoneOffset(changes_at, offset))
            at = changes_at
        else:
            at += DAY_MS
    return ZoneTable(zone, until_at, tuple(offsets))


def _change(rules: ZoneInfo, low: int, high: int) -> int:
    """Return the second at which the offset at `low` ends."""
    before = _offset_ms(rules, low)
    while high - low > 1000:
        middle = (low + high) // 2000 * 1000
        if _offset_ms(rules, middle) == before:
            low = middle
        else:
            high = middle
    return high


def _offset_ms(rules: ZoneInfo, at: int) -> int:
    offset = datetime.fromtimestamp(at / 1000, UTC).astimezone(rules).utcoffset()
    assert offset is not None
    return int(offset.total_seconds() * 1000)
