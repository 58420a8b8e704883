"""A YAML file as plain values with the place of each, and all that is wrong with its form.

Rules of this file: safe loading only, a bounded size, no aliases (a few bytes could mean
gigabytes), and no key twice: YAML itself would take the last one silently.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

FILE_BYTES_MAX = 256 * 1024
DEPTH_MAX = 20
Where = tuple[int, int]
Location = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: where, which key, what was found, what is allowed."""

    place: str
    message: str
    key: str = ""
    found: str = ""
    allowed: str = ""
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        where = f"{self.place}:{self.line}:{self.column}" if self.line else self.place
        return ": ".join(one for one in (where, self.key, self.message) if one)


class InvalidConfiguration(ValueError):
    """The configuration cannot be used; `faults` is all that is wrong with it, in order."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults


def unusable(key: str, message: str) -> InvalidConfiguration:
    """Return what is raised where a value is well-formed, and cannot be used all the same."""
    return InvalidConfiguration([Fault("", message, key)])


@dataclass(slots=True)
class Source:
    """What a file says: its values, the place of each key and value, its faults of form."""

    file: Path
    values: dict[str, Any] = field(default_factory=dict)
    keys: dict[Location, Where] = field(default_factory=dict)
    places: dict[Location, Where] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def fault(self, where: Where, message: str, key: str = "", **more: str) -> None:
        """Note what is wrong at a place."""
        line, column = where
        self.faults.append(Fault(str(self.file), message, key, line=line, column=column, **more))

    def place(self, location: Location) -> Where:
        """Return where a value stands, or the nearest that it stands in."""
        for depth in range(len(location), 0, -1):
            if location[:depth] in self.places:
                return self.places[location[:depth]]
        return (1, 1)


def read(file: Path) -> Source:
    """Read a file. Raises InvalidConfiguration where there is nothing to go on with."""
    source = Source(file)
    try:
        with file.open("rb") as opened:
            data = opened.read(FILE_BYTES_MAX + 1)
        if len(data) > FILE_BYTES_MAX:
            raise _nothing(file, f"larger than {FILE_BYTES_MAX // 1024} KiB: is it the right file?")
        root = _composed(data.decode())
    except OSError as error:
        raise _nothing(file, error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise _nothing(file, f"not UTF-8: {error.reason} at byte {error.start}") from error
    except RecursionError as error:
        raise _nothing(file, f"nested too deeply: at most {DEPTH_MAX} levels") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        message = f"not YAML: {error.problem or error.context}"
        raise _nothing(file, message, where) from error
    except yaml.YAMLError as error:
        raise _nothing(file, f"not YAML: {' '.join(str(error).split())}") from error
    if root is None:
        return source
    if isinstance(root, yaml.MappingNode):
        source.values = _plain(source, root, ())
    else:
        source.fault(_where(root), "a map of sections is needed, such as `iot:`")
    return source


def _nothing(file: Path, message: str, where: Where = (0, 0)) -> InvalidConfiguration:
    return InvalidConfiguration([Fault(str(file), message, line=where[0], column=where[1])])


def _composed(text: str) -> yaml.Node | None:
    """Return the tree of the one document. Aliases and depth are looked at before it is built."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise yaml.MarkedYAMLError(
                problem="aliases are not accepted: write the value again",
                problem_mark=event.start_mark,
            )
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH_MAX:
            raise yaml.MarkedYAMLError(
                problem=f"nested more than {DEPTH_MAX} levels deep", problem_mark=event.start_mark
            )
    return yaml.compose(text, yaml.SafeLoader)


def _where(node: yaml.Node) -> Where:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _plain(source: Source, node: yaml.Node, above: Location) -> Any:
    """Return a node's value; note where everything in it stands, and what its form has wrong."""
    source.places[above] = _where(node)
    if isinstance(node, yaml.MappingNode):
        return dict(_pairs(source, node, above))
    if isinstance(node, yaml.SequenceNode):
        return [_plain(source, one, (*above, at)) for at, one in enumerate(node.value)]
    try:
        return yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError) as error:
        source.fault(_where(node), f"not a value: {getattr(error, 'problem', error)}", told(above))
        return None


def _pairs(source: Source, node: yaml.MappingNode, above: Location) -> Iterator[tuple[str, Any]]:
    seen: dict[str, Where] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            source.fault(_where(key), "a key is one word", told(above))
            continue
        name, here = str(key.value), (*above, str(key.value))
        if name in seen:
            line, _ = seen[name]
            source.fault(_where(key), f"stands there twice, first in line {line}", told(here))
            continue
        seen[name] = source.keys[here] = _where(key)
        yield name, _plain(source, value, here)


def told(location: Location) -> str:
    """Return a location as it is told: `iot.coap.dtls[1]`."""
    text = ""
    for one in location:
        text += f"[{one}]" if isinstance(one, int) else f".{one}"
    return text.lstrip(".")
