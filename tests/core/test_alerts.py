"""The rules around the alerts: when they raise, what they say, when they clear."""

from dataclasses import replace

import pytest

from schemas.decisions import Decision
from schemas.envelope import BROADCAST_KEY
from schemas.events import PolicyActivated
from schemas.reasons import Reason
from schemas.states import DeviceRow, Oddities, Past, Window
from streams.core import anomaly
from streams.core.turn import Turn
from tests.helpers.folding import DEVICE, START, Log

WINDOW = 61_000


def alerts(log: Log) -> list[Decision]:
    """Return the alerts that were raised or cleared."""
    records = [one.record for one in log.outputs if isinstance(one.record, Decision)]
    return [one for one in records if one.name.startswith("Alert")]


def send(log: Log, count: int, errors: int = 0, size: int = 10) -> None:
    """Report some messages, the first of them errors, and close the window."""
    for number in range(count):
        log.reported(1, "error" if number < errors else "reading", size)
    log.tick(WINDOW)


def test_an_alert_carries_its_figure_its_limit_and_its_rule() -> None:
    """Six openings where five are allowed."""
    log = Log().registered()
    for number in range(6):
        log.opened(1, session=f"s{number}")
    (raised,) = alerts(log)
    assert (raised.rule, raised.reason, raised.severity) == ("flapping", "flapping", "warning")
    assert raised.values == {"figure": "6.0", "limit": "5.0"}
    assert raised.subject == f"device:{DEVICE}"


def test_five_openings_are_no_flapping() -> None:
    """The limit itself is allowed."""
    log = Log().registered()
    for number in range(5):
        log.opened(1, session=f"s{number}")
    assert alerts(log) == []


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        ([(10, 10)], []),
        ([(10, 10), (10, 10)], ["AlertRaised"]),
        ([(10, 10), (10, 0), (10, 10), (10, 0)], []),
        ([(4, 4)] * 4, []),
        ([(10, 1)] * 4, []),
        ([(10, 10)] * 4, ["AlertRaised"]),
        ([(10, 10)] * 2 + [(10, 0)], ["AlertRaised"]),
        ([(10, 10)] * 2 + [(10, 0)] * 2, ["AlertRaised", "AlertCleared"]),
        ([(10, 10)] * 2 + [(10, 0), (10, 10), (10, 0)], ["AlertRaised"]),
    ],
)
def test_the_error_rate_raises_after_two_windows_and_clears_after_two_quiet_ones(
    windows: list[tuple[int, int]], expected: list[str]
) -> None:
    """Too few messages say nothing, one error is no rate, and a relapse starts the quiet anew."""
    log = Log().registered()
    for count, errors in windows:
        send(log, count, errors)
    assert [one.name for one in alerts(log)] == expected


def test_the_past_is_needed_before_it_is_compared_with() -> None:
    """Five windows with messages; before that, no rate is too fast."""
    log = Log().registered()
    for _ in range(anomaly.PAST_WINDOWS_MIN - 1):
        send(log, 1)
    send(log, 300)
    send(log, 300)
    assert Reason.MESSAGE_RATE.value not in {one.reason for one in alerts(log)}


def test_a_suspicious_window_does_not_excuse_the_next() -> None:
    """The past stays as it was while a rule is being breached for the first time."""
    log = Log().registered()
    for _ in range(6):
        send(log, 10)
    log.reported(1)
    learned = log.row.past
    send(log, 300)
    assert log.row.past == learned
    send(log, 300)
    assert [one.rule for one in alerts(log)] == ["message-rate"]


def test_a_new_normal_clears_the_alert() -> None:
    """Once raised, the past learns, until the figure is no longer ten times as high."""
    log = Log().registered()
    for _ in range(6):
        send(log, 2)
    for _ in range(12):
        send(log, 60)
    assert [one.name for one in alerts(log)] == ["AlertRaised", "AlertCleared"]


def test_an_alert_clears_without_a_further_word_of_the_device() -> None:
    """Quiet windows are opened by the clock where an alert waits for them."""
    log = Log().registered()
    log.opened(1)
    log.reported(9)
    for _ in range(6):
        log.tick(WINDOW)
    assert [one.name for one in alerts(log)] == ["AlertRaised", "AlertCleared"]
    assert alerts(log)[1].reason == "recovered"
    assert log.row.watches == ()


def test_silence_is_told_once_and_ends_with_the_first_word() -> None:
    """After the policy's span, counted from the last word; the figure is the span."""
    log = Log().registered()
    log.reported(1)
    log.tick(899_999)
    assert alerts(log) == []
    for _ in range(4):
        log.tick(1)
    (raised,) = alerts(log)
    assert raised.values == {"figure": "900000", "limit": "900000"}
    log.reported(1)
    assert [one.name for one in alerts(log)] == ["AlertRaised", "AlertCleared"]
    log.tick(900_000)
    assert len(alerts(log)) == 3


def test_a_device_that_never_spoke_is_not_silent() -> None:
    """It may still lie in its box."""
    log = Log().registered()
    log.tick(10_000_000)
    assert alerts(log) == []


def test_a_strangers_word_does_not_end_the_silence() -> None:
    """Only what was said under an accepted certificate counts as heard."""
    log = Log().registered()
    log.reported(1)
    log.tick(900_000)
    log.reported(9)
    assert anomaly.is_silent(log.row)


def test_severities_tell_nuisance_from_attack() -> None:
    """Wrong certificates and two addresses at once are critical; the rest are warnings."""
    critical = {one.reason for one in anomaly.RULES if one.severity == "critical"}
    assert critical == {
        Reason.FINGERPRINT_UNKNOWN,
        Reason.CERTIFICATE_RETIRED,
        Reason.TWO_ADDRESSES,
    }


def test_a_row_at_rest_wants_no_waking_by_the_rules() -> None:
    """No window and no word: zero."""
    log = Log().registered()
    turn = Turn("device.events", 0, 9, log.partition.row)
    assert anomaly.due_at(turn, log.row) == 0


def test_an_ordinary_window_breaches_nothing() -> None:
    """Every rule has its figure at or under its limit."""
    row = replace(
        Log().registered().row,
        window=Window(started_at=1, messages=10, bytes=1_000),
        oddities=Oddities(opens=1),
        past=Past(windows=9, messages_mean=10.0, bytes_mean=100.0),
    )
    for rule in anomaly.RULES:
        figure, limit = rule.measure(row)
        assert figure <= limit, rule.reason


def test_the_smoothed_past_moves_a_fifth_of_the_way() -> None:
    """The first window is taken whole; windows without messages teach nothing."""
    log = Log().registered()
    send(log, 10, size=100)
    send(log, 20, size=200)
    assert past(log.row) == (1, 10.0, 100.0)
    log.opened(1)
    assert past(log.row) == (2, 12.0, 120.0)
    log.tick(WINDOW)
    log.opened(1, session="another")
    assert past(log.row) == (2, 12.0, 120.0)


def test_a_quiet_window_needs_no_clock() -> None:
    """A device that reports and does nothing odd is woken by its silence alone."""
    log = Log().registered()
    log.opened(1)
    for _ in range(20):
        log.reported(1)
        assert log.row.next_due_at == log.now + 900_000
        log.tick(30_000)
    assert log.row.past.windows > 5
    assert log.row.applied_offset == len(log.entries) - 2


def test_a_breach_is_judged_by_the_clock_without_a_further_word() -> None:
    """The window's end is a deadline as soon as something in it breaches a rule."""
    log = Log().registered()
    for _ in range(2):
        for _ in range(5):
            log.reported(1, "error")
        log.tick(WINDOW)
    assert [one.rule for one in alerts(log)] == ["error-rate"]


def test_a_device_whose_clock_is_far_ahead_is_told_of() -> None:
    """With its lead in milliseconds; a lead within the bound, a late report or no clock is fine."""
    log = Log().registered()
    for said_at in (0, START - 10**9, START + anomaly.CLOCK_AHEAD_MAX_MS):
        log.said(said_at)
    assert alerts(log) == []
    log.said(START + 3_600_000)
    (raised,) = alerts(log)
    assert (raised.reason, raised.severity) == ("clock-off", "warning")
    assert raised.values == {"figure": "3600000.0", "limit": "300000.0"}
    for _ in range(3):
        log.tick(WINDOW)
    assert [one.name for one in alerts(log)] == ["AlertRaised", "AlertCleared"]


def past(row: DeviceRow) -> tuple[int, float, float]:
    """Return the device's past in figures."""
    return row.past.windows, row.past.messages_mean, row.past.bytes_mean


def test_without_anomaly_detection_no_rule_is_judged_but_silence() -> None:
    """The policy is recorded, so a replay judges as the live machine did."""
    log = Log().registered()
    off = replace(log.partition.row.policy, anomaly_detection=False, silent_after_ms=2 * WINDOW)
    log.add(PolicyActivated(1, off, "tests"), BROADCAST_KEY)
    for number in range(9):
        log.opened(1, session=f"s{number}")
    send(log, 10, 10)
    send(log, 10, 10)
    assert alerts(log) == []
    log.tick(3 * WINDOW)
    assert [one.rule for one in alerts(log)] == ["silent"]


def test_switching_detection_off_clears_what_is_open_and_on_judges_anew() -> None:
    """An alert whose rule is no longer judged would stand for ever."""
    log = Log().registered()
    before = log.partition.row.policy
    for number in range(6):
        log.opened(1, session=f"s{number}")
    log.add(PolicyActivated(1, replace(before, anomaly_detection=False), "tests"), BROADCAST_KEY)
    log.tick(WINDOW)
    raised, cleared = alerts(log)
    assert (raised.rule, cleared.rule, cleared.reason) == ("flapping", "flapping", "detection-off")
    assert log.row.watches == ()
    log.add(PolicyActivated(2, before, "tests"), BROADCAST_KEY)
    for number in range(6):
        log.opened(1, session=f"t{number}")
    assert [one.name for one in alerts(log)][2:] == ["AlertRaised"]
