"""What is to be done so that a schema registry holds our schemas under our ids. No I/O.

Rules of this file: an id is for ever, so it is ours or nothing is done; what the registry holds
beside ours is left alone. Only subjects of records are filled (`fleetcert.<Record>`, the strategy
RecordNameStrategy): their versions keep their numbers, and evolve.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from client.errors import FleetError
from schemas import registry
from schemas.registry import Registered, Schema

TOLD_MAX = 5


class Taken(FleetError):
    """The registry holds something else where ours would stand; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a registry holds where ours stand or would stand."""

    texts: Mapping[int, str]
    """What it holds under our ids."""
    versions: Mapping[str, Mapping[int, int]]
    """The ids in our subjects, by subject and version."""
    levels: Mapping[str, str]
    """The compatibility of those of our subjects that have one of their own."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is missing in a registry."""

    register: tuple[Registered, ...]
    """The versions, in the order in which a subject takes them."""
    unknown: tuple[Schema, ...]
    """Those of them whose ids the registry has nowhere."""
    levels: tuple[str, ...]
    """Subjects of histories whose compatibility is not FULL_TRANSITIVE yet."""

    @property
    def subjects(self) -> Mapping[str, Sequence[Registered]]:
        """The versions to register, by subject."""
        found: dict[str, list[Registered]] = {}
        for one in self.register:
            found.setdefault(one.subject, []).append(one)
        return found


def planned(held: Held, wanted: Sequence[Registered]) -> Plan:
    """Return what a registry misses of `wanted`. Raises Taken."""
    if objections := [*_ids(held, wanted), *_versions(held, wanted)]:
        more = len(objections) - TOLD_MAX
        told = "; ".join(objections[:TOLD_MAX]) + (f"; and {more} more" if more > 0 else "")
        raise Taken(
            f"nothing was changed, for the registry holds other schemas in our places: {told}. Our "
            "ids stand in every record: give fleetcert a registry, or a context, of its own"
        )
    histories = dict.fromkeys(one.subject for one in wanted if registry.is_history(one.schema))
    missing = [one for one in wanted if one.version not in held.versions.get(one.subject, {})]
    return Plan(
        tuple(missing),
        tuple(one.schema for one in missing if one.schema.schema_id not in held.texts),
        tuple(one for one in histories if held.levels.get(one) != registry.COMPATIBILITY),
    )


def _ids(held: Held, wanted: Sequence[Registered]) -> list[str]:
    """Return which of our ids are another schema's."""
    found = []
    for schema in {one.schema.schema_id: one.schema for one in wanted}.values():
        text = held.texts.get(schema.schema_id)
        if text is not None and not registry.same(text, schema):
            found.append(f"id {schema.schema_id} is not {schema.record}")
    return found


def _versions(held: Held, wanted: Sequence[Registered]) -> list[str]:
    """Return which of our places in subjects have another id."""
    found = []
    for one in wanted:
        own = one.schema.schema_id
        there = held.versions.get(one.subject, {}).get(one.version, own)
        if there != own:
            found.append(f"version {one.version} of {one.subject} has id {there}, not {own}")
    return found
