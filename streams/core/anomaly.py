"""Anomaly rules: declared as data, O(1) per event, judged per window of machine time.

Each rule reads one figure of the closed (or, where `at_once`, the open) window and the device's
own past; `raise_after` consecutive breaches raise an alert, `clear_after` consecutive quiet
windows clear it. Raising and clearing are decisions that carry the figures.
"""

from collections.abc import Callable
from dataclasses import dataclass

from schemas.decisions import DecisionName, Severity
from schemas.reasons import Reason
from schemas.records import changed
from schemas.states import NO_ODDITIES, DeviceRow, Past, Watch, Window
from streams.core import belonging, doors
from streams.core.turn import Turn

MESSAGES_MIN = 5
"""Messages that a window needs before its error rate says anything."""
ERRORS_MIN = 2
"""One error is no rate."""
ERROR_RATE_MAX = 0.05
OPENS_MAX = 5
GAPS_MAX = 0
MOVES_MAX = 1
PAST_WINDOWS_MIN = 5
"""Windows of a device's past before it is compared with it."""
PAST_WEIGHT = 0.2
RATE_TIMES_MAX = 10.0
RATE_MIN = 20
SIZE_TIMES_MAX = 8.0

CLOCK_AHEAD_MAX_MS = 300_000
"""How far a device's clock may be ahead of its door's. Behind, it cannot be told from a report that
waited in the device's outbox."""

Measure = Callable[[DeviceRow], tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: it is breached where the figure is above the limit, both from `measure`."""

    reason: Reason
    measure: Measure
    severity: Severity = Severity.WARNING
    raise_after: int = 1
    clear_after: int = 2
    at_once: bool = False


def _error_rate(row: DeviceRow) -> tuple[float, float]:
    errors, messages = row.oddities.errors, row.window.messages
    if messages < MESSAGES_MIN or errors < ERRORS_MIN:
        return 0.0, ERROR_RATE_MAX
    return errors / messages, ERROR_RATE_MAX


def _message_rate(row: DeviceRow) -> tuple[float, float]:
    messages = row.window.messages
    if messages < RATE_MIN or row.past.windows < PAST_WINDOWS_MIN:
        return 0.0, RATE_MIN
    return float(messages), row.past.messages_mean * RATE_TIMES_MAX


def _message_size(row: DeviceRow) -> tuple[float, float]:
    window, past = row.window, row.past
    if past.windows < PAST_WINDOWS_MIN or not window.messages:
        return 0.0, 1.0
    return window.bytes / window.messages, past.bytes_mean * SIZE_TIMES_MAX


def _count(name: str, limit: float) -> Measure:
    """Return the measure of one of the oddities."""
    return lambda row: (float(getattr(row.oddities, name)), float(limit))


TRAFFIC_RULES = (
    Rule(Reason.MESSAGE_RATE, _message_rate, raise_after=2),
    Rule(Reason.MESSAGE_SIZE, _message_size, raise_after=2),
)
"""What can be breached by messages alone."""
ODDITY_RULES = (
    Rule(Reason.FLAPPING, _count("opens", OPENS_MAX), at_once=True),
    Rule(Reason.ERROR_RATE, _error_rate, raise_after=2),
    Rule(Reason.SEQUENCE_GAP, _count("gaps", GAPS_MAX), at_once=True),
    Rule(Reason.FINGERPRINT_UNKNOWN, _count("unknown", 0), Severity.CRITICAL, at_once=True),
    Rule(Reason.CERTIFICATE_RETIRED, _count("retired", 0), Severity.CRITICAL, at_once=True),
    Rule(Reason.TWO_ADDRESSES, _count("moves", MOVES_MAX), Severity.CRITICAL, at_once=True),
    Rule(Reason.CLOCK_OFF, _count("clock_ahead_ms", CLOCK_AHEAD_MAX_MS), at_once=True),
)
"""What is breached by an oddity: a window without any cannot breach them."""
RULES = (*TRAFFIC_RULES, *ODDITY_RULES)
_AT_ONCE = tuple(one for one in ODDITY_RULES if one.at_once)
_NO_WATCH = Watch("", 0, 0, 0)
_SILENT = Reason.SILENT.value


def close_window(turn: Turn, row: DeviceRow) -> None:
    """Judge the window if its time is over, and fold it into the device's past.

    A window under suspicion teaches nothing, or the first breach would excuse the second; once
    the alert is raised, the past learns again, and a new normal clears it.
    """
    window = row.window
    if not window.started_at or turn.now < window.started_at + turn.policy.window_ms:
        return
    suspected = False
    if not turn.policy.anomaly_detection:
        _switched_off(turn, row)
    elif row.watches or _breaches(row):
        watches = {watch.rule: watch for watch in row.watches}
        for rule in RULES:
            figure, limit = rule.measure(row)
            before = watches.get(rule.reason.value, _NO_WATCH)
            after = _closed(turn, row.device_id, rule, before, figure, limit)
            suspected |= bool(after.breaches) and not before.raised_at
            _set(watches, rule.reason.value, after)
        row.watches = tuple(watches.values())
    row.window, row.oddities = Window(), NO_ODDITIES
    if not suspected:
        row.past = _with(row.past, window)


def at_once(turn: Turn, row: DeviceRow) -> None:
    """Raise the rules that do not wait for the window's end."""
    if row.oddities is NO_ODDITIES or not turn.policy.anomaly_detection:
        return
    for rule in _AT_ONCE:
        figure, limit = rule.measure(row)
        if figure <= limit or any(
            one.rule == rule.reason.value and one.raised_at for one in row.watches
        ):
            continue
        _raise(turn, row.device_id, rule, figure, limit)
        others = tuple(one for one in row.watches if one.rule != rule.reason.value)
        row.watches = (*others, Watch(rule.reason.value, 1, 0, turn.now or 1))


def silence(turn: Turn, row: DeviceRow) -> None:
    """Raise SILENT where nothing was heard for the policy's span, though it could have been."""
    if not row.last_seen_at or is_silent(row):
        return
    quiet_ms, most = turn.now - doors.quiet_since(turn, row), belonging.silent_after_ms(turn, row)
    if quiet_ms >= most:
        _decide(turn, row.device_id, Reason.SILENT, Severity.WARNING, quiet_ms, most)
        row.watches = (*row.watches, Watch(_SILENT, 1, 0, turn.now))


def heard(turn: Turn, row: DeviceRow) -> None:
    """Clear SILENT: the device is back."""
    if row.watches and is_silent(row):
        _clear(turn, row.device_id, Reason.SILENT)
        row.watches = tuple(one for one in row.watches if one.rule != _SILENT)


def is_silent(row: DeviceRow) -> bool:
    """Tell whether SILENT is raised."""
    return any(watch.rule == _SILENT for watch in row.watches)


def open_alerts(row: DeviceRow) -> int:
    """Count the alerts that are raised."""
    return sum(1 for watch in row.watches if watch.raised_at) if row.watches else 0


def due_at(turn: Turn, row: DeviceRow) -> int:
    """Return when the rules next need the clock, zero for never.

    A window that breaches nothing, and for whose end no rule waits, needs no clock: it is closed
    by the device's next event, with the same result. So a fleet at rest costs nothing.
    """
    due = 0
    if row.last_seen_at and not (row.watches and is_silent(row)):
        due = doors.quiet_since(turn, row) + belonging.silent_after_ms(turn, row)
    judged = turn.policy.anomaly_detection
    if row.window.started_at and (_waits(row) or (judged and _breaches(row))):
        ends_at = row.window.started_at + turn.policy.window_ms
        due = min(due, ends_at) if due else ends_at
    return due


def reopened(turn: Turn, row: DeviceRow) -> None:
    """Open an empty window where an alert still waits for quiet windows to clear."""
    if not row.window.started_at and _waits(row):
        row.window = Window(started_at=turn.now)


def _switched_off(turn: Turn, row: DeviceRow) -> None:
    """Clear every alert of the rules, and forget what waited to raise one."""
    for watch in row.watches:
        if watch.raised_at and watch.rule != _SILENT:
            _clear(turn, row.device_id, Reason(watch.rule), Reason.DETECTION_OFF)
    row.watches = tuple(one for one in row.watches if one.rule == _SILENT)


def _waits(row: DeviceRow) -> bool:
    """Tell whether a rule waits for the end of a window, to raise or to clear."""
    return bool(row.watches) and any(watch.rule != _SILENT for watch in row.watches)


def _breaches(row: DeviceRow) -> bool:
    """Tell whether the window breaches a rule as it stands."""
    rules = TRAFFIC_RULES if row.oddities is NO_ODDITIES else RULES
    for rule in rules:
        figure, limit = rule.measure(row)
        if figure > limit:
            return True
    return False


def _closed(
    turn: Turn, device_id: str, rule: Rule, before: Watch, figure: float, limit: float
) -> Watch:
    if figure > limit:
        breaches, raised_at = before.breaches + 1, before.raised_at
        if not raised_at and breaches >= rule.raise_after:
            _raise(turn, device_id, rule, figure, limit)
            raised_at = turn.now
        return Watch(rule.reason.value, breaches, 0, raised_at)
    if not before.raised_at:
        return _NO_WATCH
    if before.quiet + 1 >= rule.clear_after:
        _clear(turn, device_id, rule.reason)
        return _NO_WATCH
    return changed(before, breaches=0, quiet=before.quiet + 1)


def _set(watches: dict[str, Watch], name: str, watch: Watch) -> None:
    if watch.rule:
        watches[name] = watch
    else:
        watches.pop(name, None)


def _with(past: Past, window: Window) -> Past:
    if not window.messages:
        return past
    size = window.bytes / window.messages
    if not past.windows:
        return Past(1, float(window.messages), size)
    return Past(
        past.windows + 1,
        past.messages_mean + PAST_WEIGHT * (window.messages - past.messages_mean),
        past.bytes_mean + PAST_WEIGHT * (size - past.bytes_mean),
    )


def _raise(turn: Turn, device_id: str, rule: Rule, figure: float, limit: float) -> None:
    _decide(turn, device_id, rule.reason, rule.severity, figure, limit)


def _decide(
    turn: Turn, device_id: str, reason: Reason, severity: Severity, figure: float, limit: float
) -> None:
    turn.decide(
        DecisionName.ALERT_RAISED,
        reason,
        f"device:{device_id}",
        severity=severity,
        rule=reason.value,
        values={"figure": figure, "limit": limit},
    )


def _clear(turn: Turn, device_id: str, reason: Reason, because: Reason = Reason.RECOVERED) -> None:
    turn.decide(
        DecisionName.ALERT_CLEARED,
        because,
        f"device:{device_id}",
        rule=reason.value,
    )
