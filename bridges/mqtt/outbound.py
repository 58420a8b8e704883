"""What goes down to devices and to the broker's plugin: pure. An expired command becomes nothing.

A command goes down twice, and the device chooses by its subscription: as JSON on
`devices/{id}/commands/{command}`, bytes in base64, for everyone; as CBOR on `.../{command}/cbor`.
"""

import base64
import dataclasses
import json
from dataclasses import dataclass
from typing import Any

import cbor2

from bridges.mqtt.inbound import Taken
from schemas.commands import Command, RefuseCertificate, RefuseRenewal

CONTROL = "$CONTROL/fleetcert/v1"
JSON, CBOR = "application/json", "application/cbor"
EXPIRY_SECONDS_MAX = 2**32 - 1
"""MQTT 5 section 3.3.2.3.3: a four byte integer."""


@dataclass(frozen=True, slots=True)
class Message:
    """One PUBLISH to make; `expires_seconds` is None where it stays valid."""

    topic: str
    payload: bytes
    content_type: str
    expires_seconds: int | None


def messages(command: Command, now: int) -> list[Message]:
    """Return what to publish for a command at `now` (ms), nothing where it has expired."""
    if isinstance(command, RefuseCertificate):
        body = {"id": command.command_id, "refuse": {"certificate": command.fingerprint.hex()}}
        return [Message(CONTROL, json.dumps(body).encode(), JSON, None)]
    if isinstance(command, RefuseRenewal):
        return []  # nobody renews at this door
    if command.expires_at <= now:
        return []
    fields = {one.name: getattr(command, one.name) for one in dataclasses.fields(command)}
    said = {"type": type(command).__name__, **fields}
    topic = f"devices/{command.device_id}/commands/{command.command_id}"
    seconds = min(max(1, (command.expires_at - now) // 1000), EXPIRY_SECONDS_MAX)
    return [
        Message(topic, json.dumps(said, default=_base64).encode(), JSON, seconds),
        Message(f"{topic}/cbor", cbor2.dumps(said), CBOR, seconds),
    ]


def recorded(numbers: list[tuple[int, int]]) -> bytes:
    """Return the payload that tells a device what Kafka has."""
    pairs = ",".join([f"[{boot},{sequence}]" for boot, sequence in numbers])
    return f'{{"recorded":[{pairs}]}}'.encode()


def refused(taken: Taken) -> bytes:
    """Return the payload that tells a device what was refused for good.

    It names the event by the device's own number, where that could be read, and by the number
    that the broker gave the message in its session.
    """
    assert taken.refused is not None
    said: dict[str, Any] = {"refused": taken.refused.value, "message": taken.counter}
    if taken.number is not None:
        said["boot"], said["sequence"] = taken.number
    return json.dumps(said).encode()


def _base64(value: object) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} has no form in JSON")
