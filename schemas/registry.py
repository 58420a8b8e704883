"""The committed schemas as a schema registry tells them: subjects, versions, fixed ids.

Rules of this file: what is committed is all there is, so nothing is ever added or removed. Each
record is a subject of its own (`fleetcert.<Record>`, RecordNameStrategy); `<topic>-value`
(TopicNameStrategy) holds the schemas of all records of a topic, by id. Versions count from 1. A
record's versions, oldest first, keep their numbers; a topic's may move when a schema is added, ids
never do.
"""

import functools
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas import (
    codec,
    commands,
    decisions,
    events,
    fleet_events,
    fleet_queries,
    fleet_states,
    pending,
    states,
    topics,
)
from schemas.converters import NAMESPACE
from schemas.evolution import HISTORY_FAMILIES

COMPATIBILITY = "FULL_TRANSITIVE"
"""Held by tests/schemas/test_evolution.py."""
MODE = "READONLY"
LATEST = ("latest", "-1")

RECORDS: Mapping[str, tuple[type, ...]] = {
    topics.DEVICE_EVENTS: typing.get_args(events.DeviceEvent),
    topics.DEVICE_COMMANDS: typing.get_args(commands.Command),
    topics.CERTIFICATE_REQUESTS: typing.get_args(commands.ForIssuer),
    topics.DEVICE_INVITATIONS: typing.get_args(commands.ForEnrolment),
    topics.DECISIONS: (decisions.Decision,),
    topics.DEVICE_STATE: (
        states.DeviceRow,
        pending.PendingRow,
        states.PartitionRow,
        states.FleetPolicyRow,
        states.FleetSumsRow,
        fleet_queries.FleetQueriesRow,
    ),
    topics.DEAD_LETTERS: (decisions.DeadLetter,),
    topics.FLEET_EVENTS: typing.get_args(fleet_events.FleetEvent),
    topics.FLEET_STATE: (
        fleet_states.FleetRow,
        fleet_states.FleetHistoryRow,
        fleet_states.FleetDefaultsRow,
        fleet_states.MemberRow,
        fleet_states.ExpiryRow,
        fleet_states.QueueRow,
        fleet_states.CampaignRow,
        states.PartitionRow,
    ),
}
"""Which records stand in which topic."""


class NotThere(LookupError):
    """What was asked for does not exist; `code` is the registry protocol's."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def no_subject(subject: str) -> NotThere:
    """Return the error of an unknown subject."""
    return NotThere(40401, f"Subject '{subject}' not found.")


def no_version(version: str) -> NotThere:
    """Return the error of an unknown version."""
    return NotThere(40402, f"Version {version} not found.")


def no_schema(what: str) -> NotThere:
    """Return the error of an unknown schema."""
    return NotThere(40403, f"Schema {what} not found.")


@dataclass(frozen=True, slots=True)
class Schema:
    """One committed schema: the record it is of, its id, its Avro text in one line."""

    record: str
    schema_id: int
    text: str
    file: str
    """Where it is committed, below `schemas/avro/`."""


@dataclass(frozen=True, slots=True)
class Registered:
    """A schema as a version of a subject."""

    subject: str
    version: int
    schema: Schema


@functools.cache
def schemas(avro: Path = codec.AVRO) -> dict[int, Schema]:
    """Return all committed schemas by id."""
    found = {}
    for family, kinds in codec.roots().items():
        for name in (kind.__name__ for kind in kinds):
            *older, newest = codec.catalogue(avro)[name]
            files = {one: f"{name}.v{one}.avsc" for one in older} | {newest: f"{name}.avsc"}
            for one, file in files.items():
                drawn = json.loads((avro / family / file).read_text())
                text = json.dumps(drawn, separators=(",", ":"))
                found[one] = Schema(name, one, text, f"{family}/{file}")
    return dict(sorted(found.items()))


@functools.cache
def subjects(avro: Path = codec.AVRO) -> dict[str, tuple[Schema, ...]]:
    """Return the schemas of each subject, version 1 first."""
    ids, known = codec.catalogue(avro), schemas(avro)
    of_records = {f"{NAMESPACE}.{name}": ids[name] for name in ids}
    of_topics = {
        f"{topic}-value": sorted(one for kind in kinds for one in ids[kind.__name__])
        for topic, kinds in RECORDS.items()
    }
    return {
        subject: tuple(known[one] for one in found)
        for subject, found in sorted((of_records | of_topics).items())
    }


def of_records() -> list[Registered]:
    """Return every schema where its record has it: in the subject of its own."""
    return [
        one
        for subject in subjects()
        if subject.startswith(f"{NAMESPACE}.")
        for one in versions(subject)
    ]


def is_history(schema: Schema) -> bool:
    """Tell whether bytes of this schema are kept for ever, so that it may only evolve."""
    return schema.file.partition("/")[0] in HISTORY_FAMILIES


def by_id(schema_id: str) -> Schema:
    """Return a schema. Raises NotThere."""
    found = schemas().get(int(schema_id)) if schema_id.isascii() and schema_id.isdigit() else None
    if found is None:
        raise no_schema(schema_id)
    return found


def versions(subject: str) -> list[Registered]:
    """Return all versions of a subject, the oldest first. Raises NotThere."""
    found = subjects().get(subject)
    if found is None:
        raise no_subject(subject)
    return [Registered(subject, number, one) for number, one in enumerate(found, 1)]


def version(subject: str, number: str) -> Registered:
    """Return one version of a subject, or the `latest`. Raises NotThere."""
    found = versions(subject)
    if number in LATEST:
        return found[-1]
    for one in found:
        if str(one.version) == number:
            return one
    raise no_version(number)


def places(schema: Schema) -> list[Registered]:
    """Return where a schema stands: its subjects, and its version in each."""
    return [
        one
        for subject, found in subjects().items()
        if schema in found
        for one in versions(subject)
        if one.schema == schema
    ]


def lookup(subject: str, text: object) -> Registered:
    """Return the version of a subject that is this schema, however it is written.

    Documentation and the order of names do not matter. Raises NotThere.
    """
    for one in versions(subject):
        if same(text, one.schema):
            return one
    raise no_schema(f"under '{subject}'")


def same(text: object, schema: Schema) -> bool:
    """Tell whether a text is this schema, but for documentation and the order of names."""
    try:
        return bool(_bare(json.loads(str(text))) == _bare(json.loads(schema.text)))
    except (ValueError, RecursionError):
        return False


def _bare(drawn: Any) -> Any:
    """Return a schema without documentation, its names without our namespace."""
    if isinstance(drawn, list):
        return [_bare(one) for one in drawn]
    if not isinstance(drawn, dict):
        return drawn.removeprefix(f"{NAMESPACE}.") if isinstance(drawn, str) else drawn
    return {
        key: value if key == "default" else _bare(value)
        for key, value in drawn.items()
        if key not in ("doc", "namespace")
    }
