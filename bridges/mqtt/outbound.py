"""What goes down to devices and to the broker's plugin: pure. An expired command becomes nothing.

A command goes down twice, and the device chooses by its subscription: as JSON on
`devices/{id}/commands/{command}`, bytes in base64, for everyone; as CBOR on `.../{command}/cbor`.
Where newcomers are let in, those of an enrolment go down under `newcomers/{id}` as well.
"""

import base64
import dataclasses
import json
from dataclasses import dataclass
from typing import Any

import cbor2

from bridges.mqtt.inbound import DEVICES, NEWCOMERS, Taken
from schemas.commands import (
    Command,
    InstallCertificate,
    RefuseCertificate,
    RefuseRenewal,
    RotateCertificate,
)

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


def messages(command: Command, now: int, *, newcomers: bool = False) -> list[Message]:
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
    tail = f"{command.device_id}/commands/{command.command_id}"
    seconds = min(max(1, (command.expires_at - now) // 1000), EXPIRY_SECONDS_MAX)
    forms = (
        ("", json.dumps(said, default=_base64).encode(), JSON),
        ("/cbor", cbor2.dumps(said), CBOR),
    )
    enrols = newcomers and isinstance(command, RotateCertificate | InstallCertificate)
    return [
        Message(f"{tree}/{tail}{form}", payload, content_type, seconds)
        for tree in ((DEVICES, NEWCOMERS) if enrols else (DEVICES,))
        for form, payload, content_type in forms
    ]


def recorded(numbers: list[tuple[int, int]]) -> bytes:
    """Return the payload that tells a device what Kafka has."""
    pairs = ",".join([f"[{boot},{sequence}]" for boot, sequence in numbers])
    return f'{{"recorded":[{pairs}]}}'.encode()


def presented(fingerprint: str) -> bytes:
    """Return the payload that tells a newcomer that its certificate is known, and it waits."""
    return json.dumps({"presented": fingerprint}).encode()


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
