"""Between records and what fastavro takes: one function per type and direction, compiled.

fastavro writes dictionaries and reads them. A loop over `dataclasses.fields` would cost more than
its C code; so for each record type the source of one function is written, with the conversions of
nested types bound by name, and compiled once. What comes out for

    class SessionClosed: device_id: str; evidence: Evidence; reason_code: int

is, to plain values and back,

    def plain(r):
        return {"device_id": r.device_id, "evidence": evidence(r.evidence),
                "reason_code": r.reason_code}

    def typed(r):
        made = new(kind)
        set_device_id(made, r["device_id"])
        set_evidence(made, evidence(r["evidence"]))
        set_reason_code(made, r["reason_code"])
        return made

`typed` goes past `__init__`: no record of the language computes anything there, and the setters of
its slots take a third of the time. A KeyError or TypeError on garbage is the caller's to tell.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Callable
from typing import Any

from schemas.longs import long
from schemas.records import setters

Convert = Callable[[Any], Any]

NAMESPACE = "fleetcert"
"""The Avro namespace of every record."""
PRIMITIVES = {str: "string", bytes: "bytes", int: "long", float: "double", bool: "boolean"}
"""The Python types that pass as they are, and their Avro types."""


@functools.cache
def to_plain(kind: type, names: tuple[str, ...] = ()) -> Convert:
    """Return the conversion of a record to a dictionary, of some of its fields where named."""
    scope, parts = _bound(kind, names, _nested_to_plain), []
    for name in _names(kind, names):
        value = f"c_{name}(r.{name})" if f"c_{name}" in scope else f"r.{name}"
        parts.append(f"{name!r}: {value}")
    return _compiled("plain", ["return {" + ", ".join(parts) + "}"], scope)


@functools.cache
def to_longs(kind: type, names: tuple[str, ...]) -> Callable[[Any], bytes] | None:
    """Return what writes these fields where they hold nothing but longs, None where they do not."""
    paths = [path for name in _names(kind, names) for path in _longs(kind, name)]
    if None in paths:
        return None
    written = ", ".join(f"long(r.{path})" for path in paths)
    return _compiled("longs", [f"return join(({written},))"], {"long": long, "join": b"".join})


def _longs(kind: type, name: str) -> list[str | None]:
    """Return the paths of the longs that a field is made of; None stands for anything else."""
    hint = typing.get_type_hints(kind)[name]
    if hint is int:
        return [name]
    if not dataclasses.is_dataclass(hint):
        return [None]
    inner = typing.cast(type, hint)
    nested = [path for one in _names(inner, ()) for path in _longs(inner, one)]
    return [path and f"{name}.{path}" for path in nested]


@functools.cache
def to_typed(kind: type) -> Convert:
    """Return the conversion of a dictionary with all fields to the record."""
    scope, lines = _bound(kind, (), _nested_to_typed), ["made = new(kind)"]
    scope |= {"kind": kind, "new": object.__new__}
    for name, setter in setters(kind).items():
        scope[f"set_{name}"] = setter
        value = f"c_{name}(r[{name!r}])" if f"c_{name}" in scope else f"r[{name!r}]"
        lines.append(f"set_{name}(made, {value})")
    return _compiled("typed", [*lines, "return made"], scope)


@functools.cache
def same(kind: type, names: tuple[str, ...]) -> Callable[[Any, Any], bool]:
    """Return what tells whether these fields of two records are the very same objects."""
    parts = " and ".join(f"r.{name} is o.{name}" for name in names)
    source = f"lambda r, o: {parts}"
    function: Callable[[Any, Any], bool] = eval(source)  # noqa: S307 - our own field names
    return function


def has_union(kind: type) -> bool:
    """Tell whether fastavro must name the records of a union somewhere in this type."""
    return any(_tagged(hint) for hint in typing.get_type_hints(kind).values())


def _tagged(hint: Any) -> bool:
    if dataclasses.is_dataclass(hint):
        return has_union(typing.cast(type, hint))
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        arguments = tuple(one for one in arguments if one is not types.NoneType)
        if len(arguments) > 1:
            return True
    return any(_tagged(one) for one in arguments)


def _names(kind: type, names: tuple[str, ...]) -> tuple[str, ...]:
    return names or tuple(one.name for one in dataclasses.fields(kind))


def _bound(
    kind: type, names: tuple[str, ...], nested: Callable[[Any], Convert | None]
) -> dict[str, Any]:
    """Return the conversions of the fields that need one, as `c_<name>`."""
    hints = typing.get_type_hints(kind)
    found = {f"c_{name}": nested(hints[name]) for name in _names(kind, names)}
    return {name: convert for name, convert in found.items() if convert is not None}


def _compiled(name: str, lines: list[str], scope: dict[str, Any]) -> Convert:
    source = "\n    ".join([f"def {name}(r):", *lines])
    exec(source, scope)  # noqa: S102 - our own field names
    function: Convert = scope[name]
    return function


def _nested_to_plain(hint: Any) -> Convert | None:
    """Return how a field's value becomes plain, None where it passes as it is."""
    return _nested(hint, to_plain, list, _tag)


def _nested_to_typed(hint: Any) -> Convert | None:
    """Return how a field's value becomes typed, None where it passes as it is."""
    return _nested(hint, to_typed, tuple, _untag)


def _nested(
    hint: Any,
    of_record: Callable[[type], Convert],
    sequence: type,
    of_union: Callable[[dict[str, Convert]], Convert],
) -> Convert | None:
    if dataclasses.is_dataclass(hint):
        return of_record(typing.cast(type, hint))
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in PRIMITIVES or origin is dict:
        return None
    if origin is tuple:
        item = _nested(arguments[0], of_record, sequence, of_union)
        if item is None:
            return sequence
        return lambda values: sequence([item(value) for value in values])
    others = [one for one in arguments if one is not types.NoneType]
    if len(others) > 1:
        return of_union({one.__name__: of_record(one) for one in others})
    other = _nested(others[0], of_record, sequence, of_union)
    return None if other is None else lambda value: None if value is None else other(value)


def _tag(cases: dict[str, Convert]) -> Convert:
    """Name the record of a union for fastavro: (full name, fields)."""
    named = {name: (f"{NAMESPACE}.{name}", convert) for name, convert in cases.items()}

    def tagged(value: Any) -> tuple[str, Any]:
        full, convert = named[type(value).__name__]
        return full, convert(value)

    return tagged


def _untag(cases: dict[str, Convert]) -> Convert:
    """Choose the record of a union by the name that fastavro gives."""
    named = {f"{NAMESPACE}.{name}": convert for name, convert in cases.items()}
    return lambda value: named[value[0]](value[1])
