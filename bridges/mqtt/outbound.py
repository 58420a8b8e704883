"""Commands to MQTT messages: pure. An expired command becomes nothing."""

import dataclasses
import json
from dataclasses import dataclass

import cbor2

from schemas.commands import Command, RefuseCertificate

CONTROL = "$CONTROL/fleetcert/v1"
CONTENT_TYPE = "application/cbor"


@dataclass(frozen=True, slots=True)
class Message:
    """One PUBLISH to make; `expires_seconds` is None where it stays valid."""

    topic: str
    payload: bytes
    content_type: str
    expires_seconds: int | None


def message(command: Command, now: int) -> Message | None:
    """Return what to publish for a command at `now` (ms), None where it has expired."""
    if isinstance(command, RefuseCertificate):
        body = {"id": command.command_id, "refuse": {"certificate": command.fingerprint.hex()}}
        return Message(CONTROL, json.dumps(body).encode(), "application/json", None)
    if command.expires_at <= now:
        return None
    fields = {one.name: getattr(command, one.name) for one in dataclasses.fields(command)}
    payload = cbor2.dumps({"type": type(command).__name__, **fields})
    topic = f"devices/{command.device_id}/commands/{command.command_id}"
    expires = max(1, (command.expires_at - now) // 1000)
    return Message(topic, payload, CONTENT_TYPE, min(expires, 2**32 - 1))


def recorded(numbers: list[tuple[int, int]]) -> bytes:
    """Return the payload that tells a device what Kafka has."""
    return json.dumps({"recorded": numbers}).encode()


def refused(boot: int, sequence: int, reason: str) -> bytes:
    """Return the payload that tells a device what was refused for good."""
    return json.dumps({"boot": boot, "sequence": sequence, "refused": reason}).encode()
