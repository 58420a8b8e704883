"""Reading the configuration: defaults, then the file, then the environment, then options.

Rules of this file: the later source wins, key by key; each value knows its source; all that is
wrong is told at once; a relative path in a file is beside the file, any other one is here.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from configuration import keys as known
from configuration import source
from configuration.fields import PEM
from configuration.keys import FILE_VARIABLE, PREFIX, Key
from configuration.model import Configuration
from configuration.source import Fault, InvalidConfiguration, Source, told

FILE = Path("fleetcert.yaml")
"""Read where it is in the current directory and no other one is named."""
DEFAULT = "default"
TEXT_MAX = 200


@dataclass(frozen=True, slots=True)
class Loaded:
    """The configuration, the file it came from, and the source of each key that is no default."""

    configuration: Configuration
    file: Path | None
    origins: Mapping[str, str]

    def origin(self, key: Key) -> str:
        """Return where a key's value is from: default, file:line, a variable, an option."""
        return self.origins.get(key.name, DEFAULT)


@dataclass(slots=True)
class _Layers:
    """The values of all sources, one over the other."""

    values: dict[str, Any]
    origins: dict[str, str]
    faults: list[Fault]

    def put(self, key: Key, value: Any, origin: str) -> None:
        """Let a source say a key's value."""
        node = self.values
        for name in key.path[:-1]:
            below = node.get(name)
            if not isinstance(below, dict):
                below = node[name] = {}
            node = below
        node[key.path[-1]] = value
        self.origins[key.name] = origin


def load(
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    options: Mapping[str, tuple[str, Any]] | None = None,
) -> Loaded:
    """Return what holds. `options` are values by key name, each with the option's own name.

    Without a file, the one that FLEETCERT_CONFIG names, else fleetcert.yaml of the current
    directory, if any. Raises InvalidConfiguration with everything that is wrong.
    """
    environment = os.environ if environment is None else environment
    file = found(file, environment)
    said = source.read(file) if file is not None else Source(FILE)
    layers = _Layers(said.values, _origins(said), said.faults)
    if file is not None:
        _beside(said, file.parent)
        _variables_only(layers, said)
    for name, value in sorted(environment.items()):
        _variable(layers, name, value)
    for name, (option, value) in (options or {}).items():
        layers.put(known.every()[name], value, option)
    configuration = None
    try:
        configuration = Configuration.model_validate(layers.values)
    except ValidationError as error:
        told_of = {one.key for one in layers.faults}
        faults = [_fault(one, said, layers.origins) for one in error.errors(include_url=False)]
        layers.faults += [one for one in faults if one.key not in told_of]
    if configuration is None or layers.faults:
        raise InvalidConfiguration(sorted(layers.faults, key=lambda one: (one.line, one.column)))
    return Loaded(configuration, file, layers.origins)


def found(file: Path | None, environment: Mapping[str, str]) -> Path | None:
    """Return the file to read, None where there is none."""
    if file is not None:
        return file
    if named := environment.get(FILE_VARIABLE):
        return Path(named)
    return FILE if FILE.exists() else None


def written(configuration: Configuration) -> str:
    """Return what differs from the defaults as YAML: `load` gives the same of it, from any folder.

    What may stand in no file is left to the variables.
    """
    root: dict[str, Any] = {}
    layers = _Layers(root, {}, [])
    for key in known.every().values():
        value = known.get(configuration, key)
        if value != key.default and not key.variable_only:
            layers.put(key, _anywhere(value) if key.file else value, "")
    return str(yaml.safe_dump(root, sort_keys=False))


def _anywhere(value: Any) -> Any:
    """Return paths as they are from any folder."""
    if isinstance(value, list):
        return [_anywhere(one) for one in value]
    return value if PEM in value else str(Path(value).absolute())


def _origins(said: Source) -> dict[str, str]:
    names = {told(location): f"{said.file}:{line}" for location, (line, _) in said.keys.items()}
    return {name: place for name, place in names.items() if name in known.every()}


def _beside(said: Source, folder: Path) -> None:
    """Let the paths of a file begin at its folder."""
    for key in known.every().values():
        node: Any = said.values
        for name in key.path[:-1]:
            node = node.get(name) if isinstance(node, dict) else None
        if key.file and isinstance(node, dict) and key.path[-1] in node:
            value = node[key.path[-1]]
            node[key.path[-1]] = (
                [_path(one, folder) for one in value]
                if isinstance(value, list)
                else _path(value, folder)
            )


def _variables_only(layers: _Layers, said: Source) -> None:
    """Refuse what may stand in no file; what stands there is not told."""
    for key in known.every().values():
        place = said.keys.get(key.path)
        if key.variable_only and place is not None:
            message = f"a secret does not stand here: name its file, or set {key.variable}"
            fault = Fault(str(said.file), message, key.name, line=place[0], column=place[1])
            layers.faults.append(fault)


def _path(value: Any, folder: Path) -> Any:
    if not isinstance(value, str) or not value or PEM in value:
        return value
    return str(folder / value)


def _variable(layers: _Layers, name: str, text: str) -> None:
    """Take an environment variable, if it is one of ours."""
    roots = {f"{PREFIX}{one.path[0].upper()}_" for one in known.every().values()}
    if not any(name.startswith(one) for one in roots):
        return
    key = next((one for one in known.every().values() if one.variable == name), None)
    if key is None:
        hint = known.nearest_variable(name)
        layers.faults.append(Fault(name, f"no such variable; {hint}"))
        return
    value: Any = text
    if not known.accepts_text(key):
        try:
            value = yaml.safe_load(text[:TEXT_MAX])
        except yaml.YAMLError:
            value = text
    layers.put(key, value, name)


def _fault(error: Any, said: Source, origins: Mapping[str, str]) -> Fault:
    """Return what the user is told of one error of validation."""
    location = tuple(error["loc"])
    path = tuple(one for one in location if isinstance(one, str))
    key = known.every().get(".".join(path))
    found = "" if key is not None and key.secret else _shown(error["input"])
    allowed = key.allowed if key is not None else "a map of keys"
    if error["type"] == "extra_forbidden":
        message, found, allowed = f"unknown key; {known.nearest(path)}", path[-1], ""
    elif error["type"] == "value_error":
        message = str(error["ctx"]["error"])
    else:
        message = f"found {found}, allowed is {allowed}" if found else f"allowed is {allowed}"
    origin = origins.get(".".join(path), "")
    if key is not None and origin and not origin.startswith(f"{said.file}:"):
        return Fault(origin, message, told(location), found, allowed)
    where = said.keys if error["type"] == "extra_forbidden" else said.places
    line, column = where.get(location, said.place(location))
    return Fault(str(said.file), message, told(location), found, allowed, line, column)


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a map"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]}…"
