"""Anomaly rules: declared as data, O(1) per event, judged per window of machine time.

Each rule reads one figure of the closed (or, where `at_once`, the open) window and the device's
own past; `raise_after` consecutive breaches raise an alert, `clear_after` consecutive quiet
windows clear it. Raising and clearing are decisions that carry the figures.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from schemas.decisions import DecisionName, Severity
from schemas.reasons import Reason
from schemas.states import DeviceRow, Past, Watch, Window
from streams.core import doors
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

Measure = Callable[[Window, Past], tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: it is breached where the figure is above the limit, both from `measure`."""

    reason: Reason
    measure: Measure
    severity: Severity = Severity.WARNING
    raise_after: int = 1
    clear_after: int = 2
    at_once: bool = False


def _error_rate(window: Window, _past: Past) -> tuple[float, float]:
    if window.messages < MESSAGES_MIN or window.errors < ERRORS_MIN:
        return 0.0, ERROR_RATE_MAX
    return window.errors / window.messages, ERROR_RATE_MAX


def _message_rate(window: Window, past: Past) -> tuple[float, float]:
    if past.windows < PAST_WINDOWS_MIN or window.messages < RATE_MIN:
        return 0.0, RATE_MIN
    return float(window.messages), past.messages_mean * RATE_TIMES_MAX


def _message_size(window: Window, past: Past) -> tuple[float, float]:
    if past.windows < PAST_WINDOWS_MIN or not window.messages:
        return 0.0, 1.0
    return window.bytes / window.messages, past.bytes_mean * SIZE_TIMES_MAX


RULES: tuple[Rule, ...] = (
    Rule(Reason.FLAPPING, lambda w, _: (float(w.opens), float(OPENS_MAX)), at_once=True),
    Rule(Reason.ERROR_RATE, _error_rate, raise_after=2),
    Rule(Reason.MESSAGE_RATE, _message_rate, raise_after=2),
    Rule(Reason.MESSAGE_SIZE, _message_size, raise_after=2),
    Rule(Reason.SEQUENCE_GAP, lambda w, _: (float(w.gaps), float(GAPS_MAX)), at_once=True),
    Rule(
        Reason.FINGERPRINT_UNKNOWN,
        lambda w, _: (float(w.unknown), 0.0),
        Severity.CRITICAL,
        at_once=True,
    ),
    Rule(
        Reason.CERTIFICATE_RETIRED,
        lambda w, _: (float(w.retired), 0.0),
        Severity.CRITICAL,
        at_once=True,
    ),
    Rule(
        Reason.TWO_ADDRESSES,
        lambda w, _: (float(w.moves), float(MOVES_MAX)),
        Severity.CRITICAL,
        at_once=True,
    ),
)
_NO_WATCH = Watch("", 0, 0, 0)


def close_window(turn: Turn, row: DeviceRow) -> DeviceRow:
    """Judge the window if its time is over, and fold it into the device's past.

    A window under suspicion teaches nothing, or the first breach would excuse the second; once
    the alert is raised, the past learns again, and a new normal clears it.
    """
    window = row.window
    if not window.started_at or turn.now < window.started_at + turn.policy.window_ms:
        return row
    watches = {watch.rule: watch for watch in row.watches}
    suspected = False
    for rule in RULES:
        figure, limit = rule.measure(window, row.past)
        before = watches.get(rule.reason.value, _NO_WATCH)
        after = _closed(turn, row.device_id, rule, before, figure, limit)
        suspected |= bool(after.breaches) and not before.raised_at
        _set(watches, rule.reason.value, after)
    past = row.past if suspected else _with(row.past, window)
    return replace(row, window=Window(), past=past, watches=tuple(watches.values()))


def at_once(turn: Turn, row: DeviceRow) -> DeviceRow:
    """Raise the rules that do not wait for the window's end."""
    for rule in RULES:
        if not rule.at_once:
            continue
        figure, limit = rule.measure(row.window, row.past)
        if figure <= limit or any(
            one.rule == rule.reason.value and one.raised_at for one in row.watches
        ):
            continue
        _raise(turn, row.device_id, rule, figure, limit)
        others = tuple(one for one in row.watches if one.rule != rule.reason.value)
        watch = Watch(rule.reason.value, 1, 0, turn.now or 1)
        row = replace(row, watches=(*others, watch))
    return row


def silence(turn: Turn, row: DeviceRow) -> DeviceRow:
    """Raise SILENT where nothing was heard for the policy's span, though it could have been."""
    if not row.last_seen_at or is_silent(row):
        return row
    quiet_ms = turn.now - doors.quiet_since(turn, row)
    if quiet_ms < turn.policy.silent_after_ms:
        return row
    _decide(
        turn, row.device_id, Reason.SILENT, Severity.WARNING, quiet_ms, turn.policy.silent_after_ms
    )
    return replace(row, watches=(*row.watches, Watch(Reason.SILENT.value, 1, 0, turn.now)))


def heard(turn: Turn, row: DeviceRow) -> DeviceRow:
    """Clear SILENT: the device is back."""
    if not is_silent(row):
        return row
    _clear(turn, row.device_id, Reason.SILENT)
    return replace(
        row, watches=tuple(one for one in row.watches if one.rule != Reason.SILENT.value)
    )


def is_silent(row: DeviceRow) -> bool:
    """Tell whether SILENT is raised."""
    return any(watch.rule == Reason.SILENT.value for watch in row.watches)


def open_alerts(row: DeviceRow) -> int:
    """Count the alerts that are raised."""
    return sum(1 for watch in row.watches if watch.raised_at)


def due_at(turn: Turn, row: DeviceRow) -> int:
    """Return when the rules next need the clock, zero for never."""
    instants = []
    if row.window.started_at:
        instants.append(row.window.started_at + turn.policy.window_ms)
    if row.last_seen_at and not is_silent(row):
        instants.append(doors.quiet_since(turn, row) + turn.policy.silent_after_ms)
    return min(instants, default=0)


def reopened(turn: Turn, row: DeviceRow) -> DeviceRow:
    """Open an empty window where an alert still waits for quiet windows to clear."""
    waiting = any(watch.rule != Reason.SILENT.value for watch in row.watches)
    if waiting and not row.window.started_at:
        return replace(row, window=Window(started_at=turn.now))
    return row


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
    return replace(before, breaches=0, quiet=before.quiet + 1)


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


def _clear(turn: Turn, device_id: str, reason: Reason) -> None:
    turn.decide(
        DecisionName.ALERT_CLEARED,
        Reason.RECOVERED,
        f"device:{device_id}",
        rule=reason.value,
    )
