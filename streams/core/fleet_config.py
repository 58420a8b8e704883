"""A fleet's configuration: the user's names, deep merge, validation that names the path.

Patches are JSON objects, merged as RFC 7396 says: objects merge, all else replaces, null takes
the fleet's own value away so that the inherited one shows again. `FIELDS` is the one table of
names, kinds and limits. Spans are milliseconds, as the user's names have them.
"""

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from schemas.fleet_states import (
    AlertThresholds,
    CertRotation,
    FleetConfig,
    Monitoring,
    TimeWindow,
    UpdatePolicy,
    ZoneTable,
)

PATCH_CHARACTERS_MAX = 16_384
DAY_NAMES = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])|24:00")
ZONE = re.compile(r"[A-Za-z0-9_+/-]{1,64}")

Flat = dict[str, Any]
"""Values by dotted path."""


@dataclass(frozen=True, slots=True)
class Field:
    """One value: its kind, its limits, and what it means (with its unit)."""

    kind: str
    default: Any
    meaning: str
    least: float = 0
    most: float = 0


FIELDS: Mapping[str, Field] = {
    "maxDevices": Field("whole", 1_000, "most members", 1, 10_000_000),
    "updatePolicy.automatic": Field("flag", True, "campaigns begin without a person's gate"),
    "updatePolicy.timeWindow.start": Field("clock", "02:00", "local time, HH:MM"),
    "updatePolicy.timeWindow.end": Field("clock", "04:00", "local time, HH:MM, exclusive"),
    "updatePolicy.timeWindow.timeZone": Field("zone", "UTC", "a zone's name, as Europe/Berlin"),
    "updatePolicy.timeWindow.days": Field("days", list(DAY_NAMES), "mon to sun, of the start"),
    "updatePolicy.batchSize": Field("whole", 10, "most devices in work", 1, 10_000),
    "updatePolicy.failureThreshold": Field("share", 0.1, "failed / finished", 0, 1),
    "certRotation.enabled": Field("flag", True, "certificates are rotated by themselves"),
    "certRotation.daysBeforeExpiry": Field("whole", 30, "days", 1, 3_650),
    "certRotation.staggered": Field("flag", True, "devices are spread over the time there is"),
    "monitoring.healthCheckInterval": Field("whole", 300_000, "ms", 1_000, 604_800_000),
    "monitoring.metricsInterval": Field("whole", 60_000, "ms", 1_000, 86_400_000),
    "monitoring.alertThresholds.errorRate": Field("share", 0.05, "failed / finished", 0, 1),
    "monitoring.alertThresholds.latency": Field("whole", 1_000, "ms, p95", 1, 3_600_000),
}
BRANCHES = frozenset(
    path.rsplit(".", depth)[0] for path in FIELDS for depth in range(1, path.count(".") + 1)
)
DEFAULTS: Flat = {path: field.default for path, field in FIELDS.items()}


class Objection(ValueError):
    """The configuration is not valid; the message names the path, the value and the limit."""


def patched(overrides: str, patch: str) -> str:
    """Return the overrides (JSON) after a deep merge of a patch. Raises Objection."""
    flat = flatten(overrides)
    removed: list[str] = []
    for path, value in _walk(_parsed(patch), "", removed):
        flat[path] = value
    for gone in removed:
        flat = {path: one for path, one in flat.items() if not _under(path, gone)}
    return nested(flat)


def resolved(*layers: str) -> FleetConfig:
    """Return the configuration that layers of overrides give, the last on top. Raises Objection."""
    flat = dict(DEFAULTS)
    for layer in layers:
        flat |= flatten(layer)
    return _typed(flat)


def zone_missing(config: FleetConfig, zones: tuple[ZoneTable, ...]) -> str:
    """Return the zone of the window for which no table was recorded, empty where none misses."""
    zone = config.update_policy.time_window.time_zone
    known = zone == "UTC" or any(one.zone == zone for one in zones)
    return "" if known else zone


def flatten(text: str) -> Flat:
    """Return the values of a patch by path, nulls left out. Raises Objection."""
    return dict(_walk(_parsed(text), "", []))


def nested(flat: Flat) -> str:
    """Return values by path as canonical JSON."""
    root: dict[str, Any] = {}
    for path, value in flat.items():
        *branches, leaf = path.split(".")
        node = root
        for one in branches:
            node = node.setdefault(one, {})
        node[leaf] = value
    return json.dumps(root, sort_keys=True, separators=(",", ":"))


def plain(config: FleetConfig) -> Flat:
    """Return a configuration as the user's values by path."""
    policy, rotation, watch = config.update_policy, config.cert_rotation, config.monitoring
    values = (
        config.max_devices,
        policy.automatic,
        clock_text(policy.time_window.start_minute),
        clock_text(policy.time_window.end_minute),
        policy.time_window.time_zone,
        [DAY_NAMES[one] for one in policy.time_window.days],
        policy.batch_size,
        policy.failure_threshold,
        rotation.enabled,
        rotation.days_before_expiry,
        rotation.staggered,
        watch.health_check_interval_ms,
        watch.metrics_interval_ms,
        watch.alert_thresholds.error_rate,
        watch.alert_thresholds.latency_ms,
    )
    return dict(zip(FIELDS, values, strict=True))


def difference(before: Flat, after: Flat) -> list[tuple[str, Any, Any]]:
    """Return (path, before, after) of what differs; None where a value is inherited."""
    paths = [path for path in FIELDS if before.get(path) != after.get(path)]
    return [(path, before.get(path), after.get(path)) for path in paths]


def window_of(start: str, end: str, time_zone: str, days: list[str]) -> TimeWindow:
    """Return a window from the user's values, which are valid each by itself. Raises Objection."""
    if start == end:
        raise Objection(
            f"updatePolicy.timeWindow: start and end are both {start}; for the whole day write "
            "00:00 to 24:00"
        )
    numbers = tuple(sorted(DAY_NAMES.index(one) for one in days))
    return TimeWindow(_minutes(start), _minutes(end), time_zone, numbers)


def clock_text(minute: int) -> str:
    """Return a minute of the day as HH:MM."""
    return f"{minute // 60:02d}:{minute % 60:02d}"


def checked(path: str, value: Any) -> Any:
    """Return a value that fits its field. Raises Objection."""
    field = FIELDS[path]
    wrong = _CHECKS[field.kind](field, value)
    if wrong:
        raise Objection(f"{path} is {json.dumps(value)}: {wrong} ({field.meaning})")
    return value


def nearest(path: str) -> str:
    """Return the refusal of an unknown name, with the nearest known one."""
    known = [*FIELDS, *sorted(BRANCHES)]
    lowered = {one.lower(): one for one in known}
    close = difflib.get_close_matches(path.lower(), lowered, 1, 0.5)
    hint = f"; did you mean {lowered[close[0]]}?" if close else ""
    return f"{path}: no such name{hint}"


def _typed(flat: Flat) -> FleetConfig:
    values = iter(flat[path] for path in FIELDS)
    most = next(values)
    automatic = next(values)
    window = window_of(next(values), next(values), next(values), next(values))
    policy = UpdatePolicy(automatic, window, next(values), float(next(values)))
    rotation = CertRotation(next(values), next(values), next(values))
    intervals = next(values), next(values)
    thresholds = AlertThresholds(float(next(values)), next(values))
    return FleetConfig(policy, rotation, Monitoring(*intervals, thresholds), most)


def _parsed(text: str) -> dict[str, Any]:
    if len(text) > PATCH_CHARACTERS_MAX:
        raise Objection(f"the patch has {len(text)} characters, at most {PATCH_CHARACTERS_MAX}")
    try:
        parsed = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError as error:
        raise Objection("the patch is nested too deeply") from error
    except Objection:
        raise
    except ValueError as error:
        raise Objection(f"the patch is no JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise Objection("the patch is no JSON object")
    return parsed


def _walk(node: dict[str, Any], prefix: str, removed: list[str]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in node.items():
        path = f"{prefix}{name}"
        if path not in FIELDS and path not in BRANCHES:
            raise Objection(nearest(path))
        if value is None:
            removed.append(path)
        elif path in FIELDS:
            found.append((path, checked(path, value)))
        elif isinstance(value, dict):
            found += _walk(value, f"{path}.", removed)
        else:
            raise Objection(f"{path} is {json.dumps(value)}: expected an object")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in pairs:
        if not name.isprintable():  # half a surrogate pair is text that nobody can write down
            raise Objection(f"{name!a}: no such name")
        if name in made:
            raise Objection(f"{name} stands twice in one object")
        made[name] = value
    return made


def _no_constant(name: str) -> Any:
    raise Objection(f"{name} is no number of JSON")


def _under(path: str, branch: str) -> bool:
    return path == branch or path.startswith(f"{branch}.")


def _minutes(clock: str) -> int:
    return int(clock[:2]) * 60 + int(clock[3:])


def _flag(_field: Field, value: Any) -> str:
    return "" if isinstance(value, bool) else "expected true or false"


def _whole(field: Field, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int):
        return "expected a whole number"
    within = field.least <= value <= field.most
    return "" if within else f"expected {field.least:.0f} to {field.most:.0f}"


def _share(field: Field, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "expected a number"
    within = field.least <= value <= field.most
    return "" if within else f"expected {field.least:g} to {field.most:g}"


def _clock(_field: Field, value: Any) -> str:
    good = isinstance(value, str) and CLOCK.fullmatch(value)
    return "" if good else "expected a time from 00:00 to 24:00"


def _zone(_field: Field, value: Any) -> str:
    good = isinstance(value, str) and ZONE.fullmatch(value)
    return "" if good else "expected the name of a time zone"


def _days(_field: Field, value: Any) -> str:
    good = isinstance(value, list) and value and all(one in DAY_NAMES for one in value)
    if not good or len(set(value)) != len(value):
        return f"expected a list of {', '.join(DAY_NAMES)}, each once"
    return ""


_CHECKS = {
    "flag": _flag,
    "whole": _whole,
    "share": _share,
    "clock": _clock,
    "zone": _zone,
    "days": _days,
}
