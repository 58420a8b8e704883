"""Windows: the wall's clock, midnight, days, changes of offset, and the open time shared out."""

from collections import Counter
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client import zones
from schemas.fleet_states import TimeWindow, ZoneOffset, ZoneTable
from streams.core import campaign, windows
from tests.helpers.fleets import DAY, HOUR, NOON

ZONES = ("UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Africa/Casablanca")
TABLES = {name: zones.table(name, NOON) for name in ZONES}
instants = st.integers(NOON, NOON + 9 * 365 * DAY)
minutes = st.integers(0, 1_439)
some_windows = st.builds(
    TimeWindow,
    minutes,
    minutes,
    st.sampled_from(ZONES),
    st.sets(st.integers(0, 6), min_size=1).map(lambda one: tuple(sorted(one))),
).filter(lambda one: one.start_minute != one.end_minute)


def at(text: str) -> int:
    """Return an instant (UTC) in milliseconds."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(ZONES), instants)
def test_a_recorded_table_gives_the_zone_offset(zone: str, instant: int) -> None:
    """At every instant of ten years, as the zone's own rules have it."""
    local = datetime.fromtimestamp(instant / 1000, UTC).astimezone(ZoneInfo(zone))
    assert windows.offset_ms(TABLES[zone], instant) == local.utcoffset().total_seconds() * 1000
    assert campaign.zone_objection(TABLES[zone]) == ""


@settings(max_examples=300, deadline=None)
@given(some_windows, instants)
def test_a_window_is_open_by_the_clock_on_the_wall(window: TimeWindow, instant: int) -> None:
    """Start inclusive, end exclusive; behind midnight it belongs to the day it began."""
    local = datetime.fromtimestamp(instant / 1000, UTC).astimezone(ZoneInfo(window.time_zone))
    minute, day = local.hour * 60 + local.minute, local.weekday()
    if window.start_minute < window.end_minute:
        expected = window.start_minute <= minute < window.end_minute and day in window.days
    else:
        late, early = minute >= window.start_minute, minute < window.end_minute
        expected = (late and day in window.days) or (early and (day - 1) % 7 in window.days)
    assert windows.is_open(window, TABLES[window.time_zone], instant) is expected


@settings(max_examples=200, deadline=None)
@given(some_windows, instants)
def test_the_next_opening_is_the_first_one(window: TimeWindow, instant: int) -> None:
    """It is open then, and closed in every minute before; it closes where it says."""
    zone = TABLES[window.time_zone]
    opens = windows.next_opening(window, zone, instant)
    assert instant <= opens <= instant + windows.LOOK_AHEAD_MS
    assert windows.is_open(window, zone, opens)
    closes = windows.closes_at(window, zone, opens)
    probes = range(instant, opens, max(60_000, (opens - instant) // 200 + 1))
    assert not any(windows.is_open(window, zone, one) for one in probes)
    assert windows.is_open(window, zone, closes - 1)


def test_a_window_over_midnight_on_one_day() -> None:
    """Friday 22:00 to 02:00 is open on Saturday at 01:00, not on Friday at 01:00."""
    window = TimeWindow(22 * 60, 2 * 60, "UTC", (4,))
    is_open = [
        windows.is_open(window, windows.UTC, at(one))
        for one in ("2027-01-15T01:00", "2027-01-15T22:00", "2027-01-16T01:59", "2027-01-16T02:00")
    ]
    assert is_open == [False, True, True, False]
    opens = windows.next_opening(window, windows.UTC, at("2027-01-16T02:00"))
    assert opens == at("2027-01-22T22:00")
    assert windows.closes_at(window, windows.UTC, opens) == at("2027-01-23T02:00")


def test_the_hour_that_a_zone_leaves_out_does_not_open() -> None:
    """In Berlin 02:00 to 03:00 does not exist on 2027-03-28, and comes twice on 2027-10-31."""
    window, zone = TimeWindow(120, 180, "Europe/Berlin"), TABLES["Europe/Berlin"]
    opens = windows.next_opening(window, zone, at("2027-03-27T12:00"))
    assert opens == at("2027-03-29T00:00")
    first = windows.next_opening(window, zone, at("2027-10-30T12:00"))
    assert (first, windows.closes_at(window, zone, first)) == (
        at("2027-10-31T00:00"),
        at("2027-10-31T02:00"),
    )


def test_the_whole_day_never_closes() -> None:
    """00:00 to 24:00 is open always; its end is only looked for so far."""
    assert windows.is_open(windows.ALWAYS, windows.UTC, NOON + 12 * HOUR - 1)
    assert windows.closes_at(windows.ALWAYS, windows.UTC, NOON) == NOON + windows.LOOK_AHEAD_MS
    assert windows.last_chance(windows.ALWAYS, windows.UTC, NOON, NOON + DAY) == NOON + DAY


@settings(max_examples=200, deadline=None)
@given(some_windows, instants, st.integers(0, 60 * DAY), st.integers(0, windows.RING - 1))
def test_places_share_the_open_time(window: TimeWindow, begin: int, span: int, place: int) -> None:
    """Every place gets an instant that is open and within the span, later ones not earlier."""
    zone = TABLES[window.time_zone]
    found = windows.spread(window, zone, begin, begin + span, place)
    if not found:
        opens = windows.next_opening(window, zone, begin)
        assert opens > begin if not span else opens >= begin + span
        return
    assert begin <= found < begin + max(1, span)
    assert windows.is_open(window, zone, found)
    assert windows.spread(window, zone, begin, begin + span, place // 2) <= found


def test_even_places_fall_evenly_over_hours() -> None:
    """Two open hours a day for ten days: twenty hours with the same number, but for one."""
    window = TimeWindow(120, 240)
    hours = Counter(
        windows.spread(window, windows.UTC, NOON, NOON + 10 * DAY, one * windows.RING // 1_000)
        // HOUR
        for one in range(1_000)
    )
    assert set(hours.values()) <= {49, 50, 51}
    assert len(hours) == 20


@pytest.mark.parametrize(
    ("until", "closes"),
    [("2027-01-18T01:00", "2027-01-17T04:00"), ("2027-01-18T03:00", "2027-01-18T03:00")],
)
def test_the_last_chance_is_where_the_last_window_closes(until: str, closes: str) -> None:
    """Before the instant, or the instant itself where a window is open then."""
    window = TimeWindow(120, 240)
    assert windows.last_chance(window, windows.UTC, NOON, at(until)) == at(closes)


def test_no_chance_where_no_window_opens() -> None:
    """From noon to ten in the evening no window of the early morning opens."""
    assert windows.last_chance(TimeWindow(120, 240), windows.UTC, NOON, NOON + 10 * HOUR) == 0


@pytest.mark.parametrize(
    "offsets",
    [
        tuple(ZoneOffset(one, 0) for one in range(300)),
        (ZoneOffset(5, 0), ZoneOffset(1, 0)),
        (ZoneOffset(1, 0), ZoneOffset(1, 1)),
        (ZoneOffset(0, 3 * DAY),),
    ],
    ids=["too many", "out of order", "twice", "too far"],
)
def test_an_absurd_table_is_refused(offsets: tuple[ZoneOffset, ...]) -> None:
    """Its length, its order and its offsets have limits."""
    assert campaign.zone_objection(ZoneTable("Far/Away", NOON, offsets))


@pytest.mark.parametrize("zone", ["Europe/Berlln", "", "../etc", "/etc/passwd"])
def test_an_unknown_zone_is_refused_in_words(zone: str) -> None:
    """The refusal gives an example of a name."""
    with pytest.raises(ValueError, match="Europe/Berlin"):
        zones.table(zone, NOON)
