"""One vocabulary: a thing is called alike in Avro, Python, topics, metrics, logs and documents."""

import ast
import dataclasses
import json
import re
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from schemas import codec, commands, events, fleet_events, topics
from schemas.decisions import DecisionName
from schemas.metrics import METRICS
from schemas.reasons import Reason

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "schemas", "streams", "bridges", "pki", "client", "device", "protocols", "configuration"
)  # fmt: skip
SOURCES = [path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]

LOG_ONLY = frozenset(
    {
        "advice",
        "answer",
        "bridge",
        "bucket",
        "committed",
        "entries",
        "error",
        "exc_info",
        "expected",
        "file",
        "issuer_id",
        "next_offset",
        "port",
        "program",
        "seconds",
        "to",
        "unpublished",
        "unsaid",
        "unsent",
        "where",
        "written",
    }
)
"""What logs alone speak of: how a process fares, never what the language has a name for."""
LABELS_ONLY = frozenset(
    {
        "operation",
        "process",
        "program",
        "transport",
        "within_days",
    }
)
"""Labels that are no field's name, beside those of METRICS that are: `fleet` is a `fleet_id`."""
PROMISED = frozenset(
    {
        "mqtt_messages_received",
        "mqtt_messages_sent",
        "mqtt_message_size",
        "coap_message_size",
        "fleet_update_duration",
    }
)
"""Metrics whose exact names users were promised (docs/decisions/0021); coap's follows mqtt's."""
THEIRS = frozenset(
    {
        "max_devices",
        "time_window",
        "time_zone",
        "any_time",
        "MAX_AGE_SECONDS",
        "NO_CHECK_TIME",
        "TIME_ERROR",
        "just_in_time",
    }
)
"""Names that others gave: the user's maxDevices and timeWindow, CoAP's Max-Age, C's constants, and
just-in-time registration, as everybody calls it."""
UNITS = frozenset({"ms", "seconds", "minute", "minutes", "hours", "days", "bytes", "mib", "bits"})
VAGUE = frozenset(
    {
        "timeout",
        "timestamp",
        "time",
        "date",
        "ttl",
        "delay",
        "interval",
        "duration",
        "limit",
        "millis",
        "secs",
        "maximum",
    }
)
"""What an instant, a span or a limit is not called: `_at`, `_seconds` or `_ms`, `_max`."""
PAST = re.compile(r"(ed|Chosen|Left|Proven)(?=[A-Z]|$)")
IMPERATIVES = ("Rotate", "Install", "Drop", "Refuse", "Revoke", "Sign")
OUTSIDE = frozenset(
    {
        "AlterConfigs",
        "AvroConverter",
        "AvroDeserializer",
        "DescribeConfigs",
        "StringConverter",
        "SchemaRegistryClient",
        "RecordNameStrategy",
        "TopicNameStrategy",
    }
)
"""CamelCase of other programs that our pages show."""


def records() -> dict[str, type]:
    """Return every dataclass that the language's records are made of."""
    found: dict[str, type] = {}
    waiting: list[Any] = [kind for kinds in codec.roots().values() for kind in kinds]
    while waiting:
        one = waiting.pop()
        if dataclasses.is_dataclass(one) and isinstance(one, type):
            if one.__name__ not in found:
                found[one.__name__] = one
                waiting += typing.get_type_hints(one).values()
        else:
            waiting += typing.get_args(one)
    return found


FIELDS = {
    (kind.__name__, name): hint
    for kind in records().values()
    for name, hint in typing.get_type_hints(kind).items()
}
NAMES = {name for _, name in FIELDS}


def constants(tree: ast.Module) -> Iterator[str]:
    """Yield the constants of a module."""
    for node in tree.body:
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        for one in targets:
            for name in one.elts if isinstance(one, ast.Tuple) else [one]:
                if isinstance(name, ast.Name) and name.id.isupper():
                    yield name.id


def wrong(name: str) -> str:
    """Return what of a name breaks the rule of instants, spans, limits, units; "" for nothing."""
    words = name.lower().strip("_").split("_")
    if name in THEIRS:
        return ""
    for place, word in enumerate(words):
        rest = set(words[place + 1 :])
        if word in ("max", "min") and not (rest <= UNITS and place):
            return f"{name}: a limit ends in _{word}, at most its unit follows"
        if word in VAGUE and not rest & UNITS:
            return f"{name}: an instant ends in _at, a span in its unit, a limit in _max"
    return ""


def test_the_rule_knows_good_names_from_bad_ones() -> None:
    """The checks below can fail."""
    good = (
        "said_at",
        "backoff_max_ms",
        "finished_min",
        "ANSWER_SECONDS_MAX",
        "metrics_interval_ms",
    )
    bad = ("timestamp", "max_attempts", "session_timeout", "MAX_BYTES", "MAXIMUM", "retry_delay")
    assert [one for one in good if wrong(one)] == []
    assert [one for one in bad if not wrong(one)] == []


def test_fields_say_instant_span_and_limit() -> None:
    """In every record; an instant is a whole number of milliseconds."""
    assert [message for name in sorted(NAMES) if (message := wrong(name))] == []
    instants = {place: hint for place, hint in FIELDS.items() if place[1].endswith("_at")}
    assert len(instants) > 40
    assert {place: hint for place, hint in instants.items() if hint is not int} == {}


def test_a_fields_name_means_one_thing() -> None:
    """The same name has the same type wherever it stands."""
    kinds: dict[str, set[str]] = {}
    for (_, name), hint in FIELDS.items():
        if name.endswith(("_at", "_ms", "_id", "_sha256", "_offset", "_max")) or name == "actor":
            kinds.setdefault(name, set()).add(str(hint).removesuffix(" | None"))
    assert {name: found for name, found in kinds.items() if len(found) > 1} == {}


def test_constants_say_limit_and_unit() -> None:
    """In every module."""
    found = [
        f"{path.relative_to(ROOT)}: {message}"
        for path in SOURCES
        if "metrics" not in path.parts
        for name in constants(ast.parse(path.read_text()))
        if (message := wrong(name))
    ]
    assert found == []


def test_options_say_their_unit() -> None:
    """`--session-timeout-seconds`, never `--timeout`."""
    vague = re.compile(r"--[a-z-]*(timeout|interval|delay|lifetime|grace|validity|refresh)[a-z-]*")
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            value = node.value if isinstance(node, ast.Constant) else None
            if isinstance(value, str) and vague.fullmatch(value):
                assert value.rpartition("-")[2] in UNITS, (path.name, value)


def test_events_are_past_commands_imperative() -> None:
    """What happened, what was decided, what is asked."""
    happened = [
        *typing.get_args(events.DeviceEvent),
        *typing.get_args(fleet_events.FleetEvent),
    ]
    assert [one.__name__ for one in happened if not PAST.search(one.__name__)] == []
    assert [one.value for one in DecisionName if not PAST.search(one.value)] == []
    asked = [*typing.get_args(commands.Command), *typing.get_args(commands.ForIssuer)]
    assert [one.__name__ for one in asked if not one.__name__.startswith(IMPERATIVES)] == []
    assert [one for one in Reason if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", one.value)] == []


def test_avro_and_python_have_the_same_names() -> None:
    """Each committed drawing is named as its file, and has the fields of its record."""
    for family, kinds in codec.roots().items():
        for kind in kinds:
            drawn = json.loads((codec.AVRO / family / f"{kind.__name__}.avsc").read_text())
            assert drawn["name"] == kind.__name__
            fields = [one.name for one in dataclasses.fields(kind)]
            assert [one["name"] for one in drawn["fields"]] == fields


def test_topics_are_named_in_one_place() -> None:
    """Nobody writes a topic's name as a string but the catalogue."""
    named = {one.name for one in topics.TOPICS}
    for path in SOURCES:
        if path == ROOT / "schemas" / "topics.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and node.value in named - {topics.DECISIONS}:
                raise AssertionError(f"{path.relative_to(ROOT)}:{node.lineno}: {node.value}")


def logged(path: Path) -> Iterator[str]:
    """Yield the keys of the log lines of a module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("debug", "info", "warning", "error")
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id in ("log", "_log")
        ):
            yield from (one.arg for one in node.keywords if one.arg)


def test_logs_speak_the_language() -> None:
    """A key is the name of a field, or one of those that only logs need; each of these is used."""
    keys = {key: path for path in SOURCES for key in logged(path)}
    strange = {key: path.name for key, path in keys.items() if key not in NAMES | LOG_ONLY}
    assert strange == {}
    assert sorted(LOG_ONLY - set(keys)) == []
    assert sorted(LOG_ONLY & NAMES) == []


def test_metrics_speak_the_language() -> None:
    """A label is a field, a field without `_id`, or one of those that only metrics need."""
    known = NAMES | {one.removesuffix("_id") for one in NAMES} | LABELS_ONLY
    for one in METRICS:
        assert set(one.labels) <= known, one.name
        if one.kind == "counter" and one.name not in PROMISED:
            assert one.name.endswith("_total"), one.name
        if one.unit in ("seconds", "bytes") and one.name not in PROMISED:
            assert one.unit in one.name.split("_"), one.name


@cache
def shown_names() -> frozenset[str]:
    """Return what a page may name: classes, records, decisions, alerts, and some of others'."""
    trees = (ast.walk(ast.parse(path.read_text())) for path in SOURCES)
    classes = {node.name for tree in trees for node in tree if isinstance(node, ast.ClassDef)}
    rules = (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text()
    alerts = re.findall(r"alert: (\w+)", rules)
    return OUTSIDE | classes.union(records(), alerts, (one.value for one in DecisionName))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_what_exists(page: Path) -> None:
    """What a page writes in CamelCase as code is a record, a decision or a class of ours."""
    shown = re.findall(r"`((?:[A-Z][a-z0-9]+){2,})`", page.read_text())
    assert sorted(set(shown) - shown_names()) == []
