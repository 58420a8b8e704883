"""The codec: a record to bytes and back, in the Confluent wire format (magic 0, schema id, Avro).

The dataclasses are the one definition. `avsc` draws the Avro schema of a type; the drawings are
committed in `schemas/avro/` with their ids, so that any consumer can read without a service.
Laws: `decode(encode(x)) == x`; bytes that are no record raise `Undecodable` and nothing else.
"""

import dataclasses
import functools
import io
import json
import operator
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
    fleet_queries,
    fleet_states,
    pending,
    states,
)
from schemas.converters import (
    NAMESPACE,
    PRIMITIVES,
    Convert,
    has_union,
    same,
    to_longs,
    to_plain,
    to_typed,
)

AVRO = Path(__file__).parent / "avro"
MAGIC = 0
REMEMBERED_MAX = 50_000
"""Records of a type whose seldom changed part is remembered; the oldest is forgotten first."""
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
    "device": typing.get_args(events.DeviceEvent),
    "command": (
        *typing.get_args(commands.Command),
        *typing.get_args(commands.ForIssuer),
        *typing.get_args(commands.ForEnrolment),
    ),
    "decision": (decisions.Decision, decisions.DeadLetter),
    "state": (
        states.DeviceRow,
        pending.PendingRow,
        states.PartitionRow,
        states.FleetPolicyRow,
        states.FleetSumsRow,
        fleet_queries.FleetQueriesRow,
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


class Undecodable(ValueError):
    """The bytes are not a record of the language. The message says why."""


def roots() -> dict[str, tuple[type, ...]]:
    """Return the record types of each family, in the order of their unions."""
    return dict(_ROOTS)


def avsc(kind: type, named: set[str] | None = None, names: tuple[str, ...] = ()) -> dict[str, Any]:
    """Draw the Avro schema of a dataclass; nested records are written whole where first met.

    With `names`, of these fields alone.
    """
    named = set() if named is None else named
    named.add(kind.__name__)
    hints = typing.get_type_hints(kind)
    fields = []
    for item in dataclasses.fields(kind):
        if names and item.name not in names:
            continue
        drawn: dict[str, Any] = {"name": item.name, "type": _avro_type(hints[item.name], named)}
        if isinstance(drawn["type"], list) and drawn["type"][0] == "null":
            drawn["default"] = None
        elif isinstance(item.default, str | int | float):
            drawn["default"] = item.default
        elif item.default_factory is dict:
            drawn["default"] = {}
        elif item.default == ():
            drawn["default"] = []
        elif dataclasses.is_dataclass(item.default):
            drawn["default"] = dataclasses.asdict(item.default)  # type: ignore[arg-type]
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
    if hint in PRIMITIVES:
        return PRIMITIVES[hint]
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


def encode(record: Any) -> bytes:
    """Return the bytes of a record of the language."""
    data: bytes = _writers()[type(record)](record)
    return data


def decode(data: bytes, avro: Path = AVRO) -> Any:
    """Return the record that the bytes are; one of an older schema becomes one of the newest.

    `avro` is the folder of the committed drawings. Raises Undecodable for anything else: wrong
    magic, unknown id, truncation, trailing bytes.
    """
    readers = _committed() if avro is AVRO else _readers(avro)
    found = readers.get(data[: HEADER.size])
    if found is None:
        raise Undecodable(_no_header(data))
    buffer = io.BytesIO(data)
    buffer.seek(HEADER.size)
    try:
        record = found.typed(fastavro.schemaless_reader(buffer, *found.schemas, **found.options))
    except Exception as error:  # fastavro raises many kinds on garbage; all mean the same
        raise Undecodable(f"not a {found.kind.__name__}: {type(error).__name__}") from error
    if buffer.tell() != len(data):
        raise Undecodable(f"{len(data) - buffer.tell()} bytes after the {found.kind.__name__}")
    return record


def _no_header(data: bytes) -> str:
    """Return why these bytes do not begin as a record does."""
    if len(data) < HEADER.size:
        return "shorter than the header"
    magic, schema_id = HEADER.unpack_from(data)
    if magic != MAGIC:
        return f"magic byte {magic}, expected {MAGIC}"
    return f"unknown schema id {schema_id}"


@dataclasses.dataclass(frozen=True, slots=True)
class _Reader:
    """How one schema id is read: by the schema it was written with, and the newest where older.

    `options` ask fastavro for the names of a union's records where there is a union: it costs time.
    """

    kind: type
    schemas: tuple[Any, ...]
    options: dict[str, bool]
    typed: Convert


@functools.cache
def _readers(avro: Path) -> dict[bytes, _Reader]:
    """Return the readers by header: the newest of each record, and the older drawings."""
    found: dict[bytes, _Reader] = {}
    for family, kinds in _ROOTS.items():
        for kind in kinds:
            *older, last = catalogue(avro)[kind.__name__]
            newest, typed = fastavro.parse_schema(avsc(kind)), to_typed(kind)
            names = ("return_record_name", "return_record_name_override")
            options = dict.fromkeys(names if has_union(kind) else (), True)
            found[HEADER.pack(MAGIC, last)] = _Reader(kind, (newest,), options, typed)
            for one in older:
                file = avro / family / f"{kind.__name__}.v{one}.avsc"
                written = fastavro.parse_schema(json.loads(file.read_text()))
                found[HEADER.pack(MAGIC, one)] = _Reader(kind, (written, newest), options, typed)
    return found


@functools.cache
def _committed() -> dict[bytes, _Reader]:
    """Return the readers of the committed drawings, without the cost of hashing a path."""
    return _readers(AVRO)


@functools.cache
def _writers() -> dict[type, Callable[[Any], bytes]]:
    ids = schema_ids()
    return {
        kind: _writer(kind, HEADER.pack(MAGIC, ids[kind.__name__]))
        for kinds in _ROOTS.values()
        for kind in kinds
    }


def _writer(kind: type, header: bytes) -> Callable[[Any], bytes]:
    """Return what writes records of this type.

    The bytes of an Avro record are the bytes of its fields, one after the other. So a record of
    which much changes seldom (`states.SOMETIMES`, `states.SELDOM`) is written in parts by pace, and
    the bytes of a part are remembered as long as its fields are the very same objects.
    """
    parts: dict[int, tuple[str, ...]] = {}
    for one in dataclasses.fields(kind):
        pace = one.metadata.get("pace", 0)
        parts[pace] = (*parts.get(pace, ()), one.name)
    if len(parts) == 1:
        return _part(kind, header, ())
    assert list(parts) == sorted(parts), "the slower a field, the later it stands"
    often, *slower = parts.values()
    first = _part(kind, header, often)
    rest = [(same(kind, names), _part(kind, b"", names)) for names in slower]
    anchor = operator.attrgetter(slower[-1][0])  # no two things have this in common
    remembered: dict[int, tuple[Any, list[bytes]]] = {}

    def write(record: Any) -> bytes:
        key = id(anchor(record))
        before, known = remembered.get(key) or (None, [b""] * len(rest))
        if before is None and len(remembered) >= REMEMBERED_MAX:
            del remembered[next(iter(remembered))]
        made = [
            part if before is not None and unchanged(record, before) else write_part(record)
            for (unchanged, write_part), part in zip(rest, known, strict=True)
        ]
        remembered[key] = (record, made)
        return first(record) + b"".join(made)

    return write


def _part(kind: type, header: bytes, names: tuple[str, ...]) -> Callable[[Any], bytes]:
    """Return what writes these fields of a record, all where none is named."""
    longs = to_longs(kind, names)
    if longs is not None:
        return lambda record: header + longs(record)
    schema, plain = fastavro.parse_schema(avsc(kind, names=names)), to_plain(kind, names)

    def write(record: Any) -> bytes:
        buffer = io.BytesIO()
        buffer.write(header)
        fastavro.schemaless_writer(buffer, schema, plain(record))
        return buffer.getvalue()

    return write
