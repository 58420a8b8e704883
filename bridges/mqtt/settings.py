"""A bridge's way to its broker, as a user writes it: YAML (or JSON, which is YAML too).

    host: broker.example
    port: 8884
    clientId: bridge-a
    tls:
      cert: bridge.pem          # a path, beside the settings file, or the PEM text itself
      key: bridge.key
      ca: [service-ca.pem]
      rejectUnauthorized: true  # nothing else is accepted

Rules of this file: a mistake is an error that names the line and what was meant; nothing is
guessed, and nothing turns verification off.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bridges.mqtt.client import Door, Pem

KNOWN: Mapping[str, Any] = {
    "host": str,
    "port": int,
    "clientId": str,
    "tls": {"cert": str, "key": str, "ca": list, "rejectUnauthorized": bool},
}
NEEDED = ("host", "clientId", "tls.cert", "tls.key", "tls.ca")
PORT = 8884
PORT_MAX = 65_535
PEM = "-----BEGIN "


class InvalidSettings(ValueError):
    """The settings cannot be used; the message says where and what to write."""


def read(file: Path) -> tuple[str, Door]:
    """Return the client's id and the way to the broker. Raises InvalidSettings."""
    try:
        node = yaml.compose(file.read_text(), yaml.SafeLoader)
        said = yaml.safe_load(file.read_text())
    except OSError as error:
        raise InvalidSettings(f"{file}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"{file}: not YAML: {error}") from error
    if not isinstance(node, yaml.MappingNode):
        raise InvalidSettings(f"{file}: a map of {', '.join(KNOWN)} is needed")
    _check(node, KNOWN, "", file)
    for name in NEEDED:
        if _get(said, name) in (None, "", []):
            raise InvalidSettings(f"{file}: {name} is missing")
    return said["clientId"], _door(said, file)


def _door(said: dict[str, Any], file: Path) -> Door:
    tls, port = said["tls"], said.get("port", PORT)
    if not 1 <= port <= PORT_MAX:
        raise InvalidSettings(f"{file}: port is 1 to {PORT_MAX}, not {port}")
    if tls.get("rejectUnauthorized", True) is not True:
        raise InvalidSettings(
            f"{file}: tls.rejectUnauthorized: false is refused: TLS is mutual here, and a broker "
            "that is not verified could be anyone. Put its CA into tls.ca, and remove this line."
        )
    door = Door(
        said["host"],
        port,
        tuple(_pem(one, file) for one in tls["ca"]),
        _pem(tls["cert"], file),
        _pem(tls["key"], file),
    )
    try:
        door.context()
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise InvalidSettings(f"{file}: tls: {error}") from error
    return door


def _pem(said: object, file: Path) -> Pem:
    """Return PEM text as it is, or the file that is named, beside the settings."""
    if not isinstance(said, str):
        raise InvalidSettings(f"{file}: tls.ca is a list of paths or PEM texts")
    return said if PEM in said else file.parent / said


def _check(node: yaml.MappingNode, known: Mapping[str, Any], above: str, file: Path) -> None:
    """See that every key is known and every value of its kind."""
    seen = set()
    for key, value in node.value:
        where = f"{file}, line {key.start_mark.line + 1}"
        if key.value not in known:
            raise InvalidSettings(f"{where}: unknown key {above}{key.value}{_near(key, known)}")
        if key.value in seen:
            raise InvalidSettings(f"{where}: {above}{key.value} is there twice")
        seen.add(key.value)
        kind = known[key.value]
        if isinstance(kind, Mapping):
            if not isinstance(value, yaml.MappingNode):
                raise InvalidSettings(f"{where}: {key.value} is a map of {', '.join(kind)}")
            _check(value, kind, f"{key.value}.", file)
        elif not isinstance(yaml.SafeLoader("").construct_object(value, deep=True), kind):
            raise InvalidSettings(f"{where}: {above}{key.value} is a {kind.__name__}")


def _near(key: yaml.ScalarNode, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(str(key.value), known, 1)
    return f": did you mean {near[0]}?" if near else f": known are {', '.join(known)}"


def _get(said: Mapping[str, Any], name: str) -> Any:
    value: Any = said
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
