"""Commands to what a device reads: pure. An expired command becomes nothing."""

import base64
import dataclasses
import json
from collections.abc import MutableMapping
from typing import Any

import cbor2

from schemas.commands import ForDevice

MAX_AGE_SECONDS = 3_600
"""How long a list is fresh where nothing in it expires sooner: until then a change is told."""


def fields(command: ForDevice) -> dict[str, Any]:
    """Return a command as the map that a device reads."""
    named = {one.name: getattr(command, one.name) for one in dataclasses.fields(command)}
    return {"type": type(command).__name__, **named}


def document(
    commands: MutableMapping[str, ForDevice], now: int, *, as_json: bool
) -> tuple[bytes, int]:
    """Return the list of commands at `now` (ms) and the seconds it is fresh; expired ones leave."""
    for gone in [one.command_id for one in commands.values() if one.expires_at <= now]:
        del commands[gone]
    maps = [fields(one) for one in commands.values()]
    left = [(one.expires_at - now) // 1000 for one in commands.values()]
    seconds = max(1, min([MAX_AGE_SECONDS, *left]))
    if as_json:
        return json.dumps(maps, default=_base64, separators=(",", ":")).encode(), seconds
    return cbor2.dumps(maps), seconds


def _base64(value: object) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} has no form in JSON")
