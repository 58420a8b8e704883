"""The codec: a record to bytes and back, in the Confluent wire format (magic 0, schema id, Avro).

The dataclasses are the one definition. `avsc` draws the Avro schema of a type; the drawings are
committed in `schemas/avro/` with their ids, so that any consumer can read without a service.
Laws: `decode(encode(x)) == x`; bytes that are no record raise `Undecodable` and nothing else.
"""

import dataclasses
import functools
import io
import json
import struct
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fastavro

from schemas import (
    commands,
    decisions,
    events,
    fleet_events,
    fleet_orders,
    fleet_states,
    states,
)

AVRO = Path(__file__).parent / "avro"
NAMESPACE = "fleetcert"
MAGIC = 0
HEADER = struct.Struct(">bI")

FAMILIES: Mapping[str, types.ModuleType] = {
    "device": events,
    "command": commands,
    "decision": decisions,
    "state": states,
    "fleet": fleet_events,
}

_ID_FIRST = {"device": 1000, "command": 2000, "decision": 3000, "state": 4000, "fleet": 5000}
_ROOTS: Mapping[str, tuple[type, ...]] = {
    "device": (
        *typing.get_args(events.DeviceEvent),
        *typing.get_args(fleet_orders.ForDeviceMachine),
        fleet_orders.FleetPolicyChanged,
    ),
    "command": (*typing.get_args(commands.Command), *typing.get_args(commands.ForIssuer)),
    "decision": (decisions.Decision, decisions.DeadLetter),
    "state": (
        states.DeviceRow,
        states.PartitionRow,
        fleet_states.FleetRow,
        fleet_states.FleetHistoryRow,
        fleet_states.FleetDefaultsRow,
        fleet_states.MemberRow,
        fleet_states.ExpiryRow,
        fleet_states.QueueRow,
        fleet_states.CampaignRow,
    ),
    "fleet": (
        *typing.get_args(fleet_events.FleetKeyed),
        fleet_events.FleetDefaultsActivated,
    ),
}
_PRIMITIVES = {str: "string", bytes: "bytes", int: "long", float: "double", bool: "boolean"}


class Undecodable(ValueError):
    """The bytes are not a record of the language. The message says why."""


def roots() -> dict[str, tuple[type, ...]]:
    """Return the record types of each family, in the order of their unions."""
    return dict(_ROOTS)


def avsc(kind: type, named: set[str] | None = None) -> dict[str, Any]:
    """Draw the Avro schema of a dataclass; nested records are written whole where first met."""
    named = set() if named is None else named
    named.add(kind.__name__)
    hints = typing.get_type_hints(kind)
    fields = []
    for item in dataclasses.fields(kind):
        drawn: dict[str, Any] = {"name": item.name, "type": _avro_type(hints[item.name], named)}
        if isinstance(drawn["type"], list) and drawn["type"][0] == "null":
            drawn["default"] = None
        elif isinstance(item.default, str | int | float):
            drawn["default"] = item.default
        elif item.default == ():
            drawn["default"] = []
        fields.append(drawn)
    doc = (kind.__doc__ or "").strip().splitlines()[0]
    return {
        "type": "record",
        "name": kind.__name__,
        "namespace": NAMESPACE,
        "doc": doc,
        "fields": fields,
    }


def _avro_type(hint: Any, named: set[str]) -> Any:
    if hint in _PRIMITIVES:
        return _PRIMITIVES[hint]
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return f"{NAMESPACE}.{hint.__name__}" if hint.__name__ in named else avsc(hint, named)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return {"type": "array", "items": _avro_type(arguments[0], named)}
    if origin is dict:
        return {"type": "map", "values": _avro_type(arguments[1], named)}
    if origin in (typing.Union, types.UnionType):
        if types.NoneType in arguments:
            other = next(one for one in arguments if one is not types.NoneType)
            return ["null", _avro_type(other, named)]
        return [_avro_type(one, named) for one in arguments]
    raise TypeError(f"no Avro type for {hint!r}")


@functools.cache
def catalogue(avro: Path = AVRO) -> dict[str, list[int]]:
    """Return all committed ids of each record, oldest first, by record name."""
    read: dict[str, list[int]] = json.loads((avro / "ids.json").read_text())
    return read


def schema_ids() -> dict[str, int]:
    """Return the committed id of each record's newest schema, by record name."""
    return {name: versions[-1] for name, versions in catalogue().items()}


@functools.cache
def _writers() -> dict[type, tuple[bytes, Any, Callable[[Any], Any]]]:
    ids = schema_ids()
    return {
        kind: (HEADER.pack(MAGIC, ids[kind.__name__]), fastavro.parse_schema(avsc(kind)), plain)
        for kinds in _ROOTS.values()
        for kind in kinds
        for plain in [_to_plain(kind)]
    }


@dataclasses.dataclass(frozen=True, slots=True)
class _Reader:
    """How one schema id is read; `newest` is None where `written` is the newest itself."""

    kind: type
    written: Any
    newest: Any
    typed: Callable[[Any], Any]


@functools.cache
def _readers(avro: Path) -> dict[int, _Reader]:
    """Return the readers of all ids: the newest of each record, and the older drawings."""
    found: dict[int, _Reader] = {}
    for family, kinds in _ROOTS.items():
        for kind in kinds:
            *older, last = catalogue(avro)[kind.__name__]
            newest, typed = fastavro.parse_schema(avsc(kind)), _to_typed(kind)
            found[last] = _Reader(kind, newest, None, typed)
            for one in older:
                file = avro / family / f"{kind.__name__}.v{one}.avsc"
                written = fastavro.parse_schema(json.loads(file.read_text()))
                found[one] = _Reader(kind, written, newest, typed)
    return found


def encode(record: Any) -> bytes:
    """Return the bytes of a record of the language."""
    header, schema, plain = _writers()[type(record)]
    buffer = io.BytesIO()
    buffer.write(header)
    fastavro.schemaless_writer(buffer, schema, plain(record))
    return buffer.getvalue()


def decode(data: bytes, avro: Path = AVRO) -> Any:
    """Return the record that the bytes are; one of an older schema becomes one of the newest.

    `avro` is the folder of the committed drawings. Raises Undecodable for anything else: wrong
    magic, unknown id, truncation, trailing bytes.
    """
    if len(data) < HEADER.size:
        raise Undecodable("shorter than the header")
    magic, schema_id = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise Undecodable(f"magic byte {magic}, expected {MAGIC}")
    found = _readers(avro).get(schema_id)
    if found is None:
        raise Undecodable(f"unknown schema id {schema_id}")
    buffer = io.BytesIO(data)
    buffer.seek(HEADER.size)
    try:
        plain = fastavro.schemaless_reader(
            buffer,
            found.written,
            found.newest,
            return_record_name=True,
            return_record_name_override=True,
        )
        record = found.typed(plain)
    except Exception as error:  # fastavro raises many kinds on garbage; all mean the same
        raise Undecodable(f"not a {found.kind.__name__}: {type(error).__name__}") from error
    if buffer.tell() != len(data):
        raise Undecodable(f"{len(data) - buffer.tell()} bytes after the {found.kind.__name__}")
    return record


def _converter(hint: Any, of_record: Callable[[type], Callable[[Any], Any]], tagged: bool) -> Any:
    """Return the conversion of one field, or None where the value passes as it is."""
    if hint in _PRIMITIVES:
        return None
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return of_record(hint)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        item = _converter(arguments[0], of_record, tagged)
        kind: Callable[[Any], Any] = list if tagged else tuple
        if item is None:
            return kind
        return lambda values: kind([item(value) for value in values])
    if origin is dict:
        return None
    if types.NoneType in arguments:
        other = _converter(
            next(one for one in arguments if one is not types.NoneType), of_record, tagged
        )
        if other is None:
            return None
        return lambda value: None if value is None else other(value)
    cases = {one.__name__: of_record(one) for one in arguments}
    if tagged:
        return lambda value: (
            f"{NAMESPACE}.{type(value).__name__}",
            cases[type(value).__name__](value),
        )
    start = len(NAMESPACE) + 1
    return lambda value: cases[value[0][start:]](value[1])


@functools.cache
def _to_plain(kind: type) -> Callable[[Any], dict[str, Any]]:
    """Compile the conversion of a dataclass to what fastavro writes."""
    return _compile(kind, to_plain=True)


@functools.cache
def _to_typed(kind: type) -> Callable[[Any], Any]:
    """Compile the conversion of what fastavro reads to the dataclass."""
    return _compile(kind, to_plain=False)


def _compile(kind: type, *, to_plain: bool) -> Callable[[Any], Any]:
    """Write and compile one expression for the type: four times the speed of a loop over fields."""
    hints = typing.get_type_hints(kind)
    scope: dict[str, Any] = {"kind": kind}
    parts = []
    for item in dataclasses.fields(kind):
        access = f"r.{item.name}" if to_plain else f"r[{item.name!r}]"
        convert = _converter(hints[item.name], _to_plain if to_plain else _to_typed, to_plain)
        if convert is not None:
            scope[f"c_{item.name}"] = convert
            access = f"c_{item.name}({access})"
        parts.append(f"{item.name!r}: {access}" if to_plain else access)
    body = "{" + ", ".join(parts) + "}" if to_plain else f"kind({', '.join(parts)})"
    compiled: Callable[[Any], Any] = eval(f"lambda r: {body}", scope)  # noqa: S307 - our own names
    return compiled
