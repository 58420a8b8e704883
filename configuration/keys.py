"""Each key of the model by its path: its variable, what is allowed, what is known of it."""

import difflib
import functools
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from configuration.model import Configuration

PREFIX = "FLEETCERT_"
FILE_VARIABLE = f"{PREFIX}CONFIG"
Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Key:
    """One key: where it stands and what the model says of it."""

    path: Path
    attributes: Path
    default: Any
    kind: str
    allowed: str
    meaning: str
    unit: str
    restart: str
    file: bool
    secret: bool
    variable_only: bool

    @property
    def name(self) -> str:
        """The key as it is told: its path with dots."""
        return ".".join(self.path)

    @property
    def variable(self) -> str:
        """The environment variable that overrides it."""
        return PREFIX + "_".join(_snake(one) for one in self.path).upper()


def _snake(camel: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", camel)


@functools.cache
def every() -> Mapping[str, Key]:
    """Return every key, in the order of the model, by its name."""
    schema = Configuration.model_json_schema()
    return {one.name: one for one in _walk(Configuration, (), (), schema["$defs"])}


@functools.cache
def sections() -> Mapping[str, str]:
    """Return the first line on each section, by its name."""
    return dict(_sections(Configuration, ()))


def _sections(model: type[BaseModel], above: Path) -> Iterator[tuple[str, str]]:
    for field in model.model_fields.values():
        if below := _section(field.annotation):
            path = (*above, str(field.alias))
            yield ".".join(path), (below.__doc__ or "").splitlines()[0]
            yield from _sections(below, path)


def _walk(
    model: type[BaseModel], path: Path, attributes: Path, defs: Mapping[str, Any]
) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        here, inside = (*path, str(field.alias)), (*attributes, name)
        if below := _section(field.annotation):
            yield from _walk(below, here, inside, defs)
            continue
        properties = defs.get(model.__name__, {}).get("properties", {})
        said = properties[str(field.alias)]
        kind, allowed = _allowed(said)
        unit = str(said.get("x-unit", ""))
        yield Key(
            here,
            inside,
            field.get_default(call_default_factory=True, validated_data={}),
            kind,
            said.get("x-said") or f"{allowed} {unit}".rstrip(),
            str(field.description),
            unit,
            str(said.get("x-restart", "")),
            bool(said.get("x-file")),
            bool(said.get("x-secret")),
            bool(said.get("x-variable-only")),
        )


def _section(annotation: Any) -> type[BaseModel] | None:
    found = isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias)
    return annotation if found and issubclass(annotation, BaseModel) else None


def _allowed(said: Mapping[str, Any]) -> tuple[str, str]:
    """Return the kind of a value and what it may be, from its JSON schema."""
    if "anyOf" in said:
        said = next(one for one in said["anyOf"] if one.get("type") != "null")
    if "const" in said:
        return _kind(said), _one_of([said["const"]])
    if "enum" in said:
        return _kind(said), _one_of(said["enum"])
    kind = _kind(said)
    if kind == "array":
        _, inner = _allowed(said["items"])
        least = "one or more" if said.get("minItems") else "any number"
        return kind, f"a list, {least} of: {inner.removeprefix('one of ')}"
    if kind in ("integer", "number"):
        what = "a whole number" if kind == "integer" else "a number"
        above = "above " if "exclusiveMinimum" in said else ""
        least = said.get("minimum", said.get("exclusiveMinimum"))
        return kind, f"{what} from {above}{_figure(least)} to {_figure(said['maximum'])}"
    return kind, {"boolean": "true or false"}.get(kind, "a path or PEM text")


def _kind(said: Mapping[str, Any]) -> str:
    return str(said.get("type", ""))


def _one_of(values: list[Any]) -> str:
    words = [str(one).lower() if isinstance(one, bool) else str(one) for one in values]
    return words[0] if len(words) == 1 else f"one of {', '.join(words)}"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


def nearest(path: Path) -> str:
    """Return what is said of an unknown key: the nearest known one, or those that are there."""
    depth = len(path) - 1
    below = [one.path for one in every().values() if len(one.path) > depth]
    siblings = sorted({one[depth] for one in below if one[:depth] == path[:-1]})
    lowered = {one.lower(): one for one in siblings}
    if close := difflib.get_close_matches(path[-1].lower(), lowered, 1, 0.6):
        return f"did you mean {lowered[close[0]]}?"
    named = {one.path[-1].lower(): one.name for one in every().values()}
    named |= {one.rsplit(".", 1)[-1].lower(): one for one in sections()}
    if close := difflib.get_close_matches(path[-1].lower(), named, 1, 0.75):
        return f"did you mean {named[close[0]]}?"
    return f"known here: {', '.join(siblings)}" if siblings else "nothing stands below it"


def nearest_variable(name: str) -> str:
    """Return what is said of an unknown variable."""
    known = [one.variable for one in every().values()]
    close = difflib.get_close_matches(name, known, 1, 0.6)
    return f"did you mean {close[0]}?" if close else "see `fleetcert config show`"


def accepts_text(key: Key) -> bool:
    """Tell whether a key's value is text, so that a variable is taken as it stands."""
    return key.kind == "string"


def get(configuration: Configuration, key: Key) -> Any:
    """Return a key's value."""
    value: Any = configuration
    for name in key.attributes:
        value = getattr(value, name)
    return value
