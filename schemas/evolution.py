"""Evolution: may a schema change? FULL_TRANSITIVE, as a schema registry would judge it.

Rules: the newest drawing of a record and each older one must read each other's bytes. So a field
that comes or goes needs a default; types may only be promoted (Avro 1.12, schema resolution); a
field keeps its name. History is kept for ever, so this holds for every record of a history; rows
are recomputable and only need to be readable one way.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from schemas import codec, converters

HISTORY_FAMILIES = ("device", "command", "decision", "fleet")
"""Families whose bytes are kept for ever; `state` is folded anew."""

PROMOTIONS: Mapping[str, frozenset[str]] = {
    "int": frozenset({"long", "float", "double"}),
    "long": frozenset({"float", "double"}),
    "float": frozenset({"double"}),
    "string": frozenset({"bytes"}),
    "bytes": frozenset({"string"}),
}
"""What a reader may take a written type for."""

Named = dict[str, Any]


def objections(older: Any, newer: Any) -> list[str]:
    """Return why the two schemas do not read each other's bytes; empty where they do."""
    backward = [f"newer cannot read older: {one}" for one in _unreadable(older, newer)]
    forward = [f"older cannot read newer: {one}" for one in _unreadable(newer, older)]
    return backward + forward


def committed(avro: Path = codec.AVRO) -> Iterator[tuple[str, int, Any, Any]]:
    """Yield record name, older id, older schema and newest schema of every former drawing."""
    for family in HISTORY_FAMILIES:
        for file in sorted((avro / family).glob("*.v*.avsc")):
            name, version = file.stem.rsplit(".v", 1)
            newest = json.loads((avro / family / f"{name}.avsc").read_text())
            yield name, int(version), json.loads(file.read_text()), newest


def check(avro: Path = codec.AVRO) -> list[str]:
    """Return the objections to all committed drawings of the history families."""
    return [
        f"{name} v{version}: {objection}"
        for name, version, older, newest in committed(avro)
        for objection in objections(older, newest)
    ]


def _unreadable(written: Any, read: Any) -> list[str]:
    """Return what of `written` a reader with the schema `read` cannot read."""
    return list(_compared(written, read, _named(written, {}), _named(read, {}), ""))


def _named(schema: Any, found: Named) -> Named:
    """Collect the records by full name, so that a mention can be followed."""
    if isinstance(schema, list):
        for one in schema:
            _named(one, found)
    elif isinstance(schema, dict):
        if schema["type"] == "record":
            found[f"{converters.NAMESPACE}.{schema['name']}"] = schema
            for field in schema["fields"]:
                _named(field["type"], found)
        else:
            _named(schema.get("items", schema.get("values")), found)
    return found


def _compared(written: Any, read: Any, writers: Named, readers: Named, at: str) -> Iterator[str]:
    written, read = _resolved(written, writers), _resolved(read, readers)
    if isinstance(written, list):
        for one in written:
            yield from _compared(one, read, writers, readers, at)
    elif isinstance(read, list):
        if all(list(_compared(written, one, writers, readers, at)) for one in read):
            yield f"{at or 'the record'}: no branch takes {_kind(written)}"
    elif _kind(written) != _kind(read):
        if _kind(read) not in PROMOTIONS.get(_kind(written), ()):
            yield f"{at or 'the record'}: {_kind(written)} is no {_kind(read)}"
    elif isinstance(written, dict) and written["type"] == "record":
        yield from _fields(written, read, writers, readers, at)
    elif isinstance(written, dict):
        inner = "items" if written["type"] == "array" else "values"
        yield from _compared(written[inner], read[inner], writers, readers, f"{at}[]")


def _fields(written: Any, read: Any, writers: Named, readers: Named, at: str) -> Iterator[str]:
    before = {one["name"]: one for one in written["fields"]}
    for one in read["fields"]:
        here = f"{at}.{one['name']}".lstrip(".")
        if one["name"] in before:
            yield from _compared(before[one["name"]]["type"], one["type"], writers, readers, here)
        elif "default" not in one:
            yield f"{here}: not written, and without a default"


def _resolved(schema: Any, named: Named) -> Any:
    return named.get(schema, schema) if isinstance(schema, str) else schema


def _kind(schema: Any) -> str:
    """Return what must agree: a primitive's name, array, map, or a record's name."""
    if isinstance(schema, str):
        return schema
    return str(schema["name"] if schema["type"] == "record" else schema["type"])
