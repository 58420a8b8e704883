"""The payloads between a device and its bridge, as bytes and as values. No I/O.

    up    devices/{id}/events/{type}       {boot, sequence, at, body}
    up    devices/{id}/replies/{command}   {boot, sequence, outcome, detail, ...}
    up    devices/{id}/status              {boot, status: online | offline}
    down  devices/{id}/commands/{command}  {type, command_id, issued_at, expires_at, ...}, as JSON
    down  .../commands/{command}/cbor      the same, as CBOR
    down  devices/{id}/recorded            {recorded: [[b, s], ...]} or {boot?, sequence?, refused}
                                           or, to a newcomer, {presented}: its certificate's SHA-256

`at` is the device's own clock in milliseconds: told, never trusted; one far ahead raises an alert.
Rules of this file: CBOR (RFC 8949) or JSON by the MQTT 5 content type, guessed from the first
byte without one; bytes are base64 in JSON. Garbage raises `Malformed` and nothing else.
"""

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import cbor2

CBOR = "application/cbor"
JSON = "application/json"
CONTENT_TYPES = (CBOR, JSON)

BYTES_MAX = 131_072
"""The longest payload that a device reads."""

ACCEPTED, DONE, FAILED, REFUSED = "accepted", "done", "failed", "refused"


class Malformed(ValueError):
    """The payload is not what its topic and content type say."""


@dataclass(frozen=True, slots=True)
class Command:
    """What a device is asked. `fields` is the whole map; instants are the server's, in ms."""

    command_id: str
    type: str
    issued_at: int
    expires_at: int
    fields: Mapping[str, Any]

    def raw(self, name: str) -> bytes:
        """Return a field of bytes. Raises Malformed."""
        value = self.fields.get(name)
        if isinstance(value, bytes):
            return value
        if isinstance(value, str):
            try:
                return base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError) as error:
                raise Malformed(f"{name} is not base64") from error
        raise Malformed(f"{name} is missing or not bytes")


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the bridge has recorded, or refused for good with a reason.

    `presented` is the certificate by which a newcomer is known: it waits for its own.
    """

    numbers: tuple[tuple[int, int], ...]
    refused: str | None
    presented: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a command; `extra` holds `signing_request` where one was asked.

    `progress` says how far an update is: one of schemas.progress, empty for nothing.
    """

    outcome: str
    detail: str = ""
    progress: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


def encoder(content_type: str) -> Callable[[Mapping[str, Any]], bytes]:
    """Return what writes a map in this content type. Raises ValueError for an unknown one."""
    if content_type == CBOR:
        return lambda value: cbor2.dumps(dict(value))
    if content_type == JSON:
        return lambda value: json.dumps(value, default=_in_json, separators=(",", ":")).encode()
    raise ValueError(f"content type {content_type!r}; choose one of {', '.join(CONTENT_TYPES)}")


def decode(payload: bytes, content_type: str | None) -> dict[str, Any]:
    """Return the map that a payload is. Raises Malformed."""
    if len(payload) > BYTES_MAX:
        raise Malformed(f"{len(payload)} bytes, the limit is {BYTES_MAX}")
    as_json = content_type == JSON if content_type else payload[:1].strip() in (b"{", b"")
    try:
        value = json.loads(payload) if as_json else cbor2.loads(payload)
    except (ValueError, cbor2.CBORError, RecursionError) as error:
        raise Malformed(f"neither JSON nor CBOR as announced: {error}") from error
    if not isinstance(value, dict):
        raise Malformed("the payload is no map")
    return value


def command(payload: bytes, content_type: str | None, command_id: str) -> Command:
    """Return the command of this payload; the id in the topic is the one that counts."""
    fields = decode(payload, content_type)
    kind, named = fields.get("type"), fields.get("command_id", command_id)
    if not isinstance(kind, str) or named != command_id:
        raise Malformed("type is missing, or command_id is not the topic's")
    issued_at, expires_at = fields.get("issued_at", 0), fields.get("expires_at", 0)
    if not (_is_count(issued_at) and _is_count(expires_at)):
        raise Malformed("issued_at and expires_at are milliseconds")
    return Command(command_id, kind, issued_at, expires_at, fields)


def recorded(payload: bytes, content_type: str | None) -> Recorded:
    """Return which numbers a `recorded` message lets go, in any of its forms."""
    fields = decode(payload, content_type)
    pairs = fields.get("recorded", [])
    if "boot" in fields:
        pairs = [[fields["boot"], fields.get("sequence")]]
    if not isinstance(pairs, list) or not all(map(_is_number, pairs)):
        raise Malformed("recorded is a list of [boot, sequence]")
    refused, presented = fields.get("refused"), str(fields.get("presented", ""))
    why = None if refused is None else str(refused)
    return Recorded(tuple((b, s) for b, s in pairs), why, presented)


def _is_number(pair: object) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(map(_is_count, pair))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _in_json(value: object) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} has no form in JSON")
