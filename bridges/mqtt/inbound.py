"""MQTT messages to events: pure. Every message becomes an event, a dead letter, or a hint.

Identity comes from the stamp of the broker's plugin, never from topic or payload. What cannot be
understood keeps its bytes in a dead letter, and its device is told.
"""

import json
from dataclasses import dataclass
from typing import Any

import cbor2

from bridges.mqtt.broker.stamp import Stamp, verify
from pki.requests import VERIFIER, MalformedRequest, examine
from schemas import events
from schemas.decisions import DeadLetter
from schemas.envelope import Evidence, Numbering, is_device_id
from schemas.reasons import Reason

PAYLOAD_BYTES_MAX = 262_144
NAME_CHARACTERS_MAX = 64
DETAIL_CHARACTERS_MAX = 1_000
OUTCOMES = frozenset({"accepted", "done", "failed", "refused"})
NUMBER_MAX = 2**62
PROTOCOL = "mqtt"


@dataclass(frozen=True, slots=True)
class Received:
    """One PUBLISH as the broker handed it over."""

    topic: str
    payload: bytes
    content_type: str
    properties: list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Translated:
    """What a message became: `record` for `key` (None: a hint, nothing to record).

    `device_id` and `numbering` say whom to tell; `refused` is the Reason of a dead letter.
    """

    record: Any
    key: bytes
    device_id: str = ""
    numbering: Numbering | None = None
    refused: Reason | None = None


class Refused(ValueError):
    """The message is not accepted, with a Reason."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def translate(received: Received, secret: bytes, received_at: int) -> Translated:
    """Translate one message. Never raises: what is refused becomes a dead letter."""
    parts = received.topic.split("/")
    if parts[0] == "bucket":
        parts = parts[2:]
    stamp = verify(received.properties, received.payload, secret)
    if stamp is None or stamp.topic.split("/") != parts:
        return _letter(received, parts, Refused(Reason.UNSIGNED_STAMP, "no valid stamp"), None)
    evidence = Evidence(
        certificate_sha256=stamp.certificate,
        peer_address=stamp.address,
        session=stamp.session,
        counter=stamp.counter,
        protocol=PROTOCOL,
        received_at=received_at,
    )
    numbering: Numbering | None = None
    try:
        if len(received.payload) > PAYLOAD_BYTES_MAX:
            raise Refused(Reason.OVERSIZE, f"{len(received.payload)} bytes")
        if parts[0] == "sessions":
            return _session(received, parts, evidence)
        if not _is_own(parts, stamp):
            raise Refused(Reason.FOREIGN_TOPIC, received.topic[:200])
        if parts[2:] == ["status"]:
            return Translated(None, b"")
        fields = _fields(received)
        numbering = _numbering(fields)
        return _device_event(received, parts, evidence, numbering, fields)
    except Refused as error:
        return _letter(received, parts, error, numbering)


def _is_own(parts: list[str], stamp: Stamp) -> bool:
    return len(parts) >= 3 and parts[0] == "devices" and parts[1] == stamp.client


def _device_event(
    received: Received,
    parts: list[str],
    evidence: Evidence,
    numbering: Numbering | None,
    fields: dict[str, Any],
) -> Translated:
    device_id = parts[1]
    if len(parts) != 4 or not 0 < len(parts[3]) <= NAME_CHARACTERS_MAX:
        raise Refused(Reason.UNKNOWN_TYPE, received.topic[:200])
    record: events.Keyed
    if parts[2] == "events":
        record = events.DeviceReported(
            device_id, evidence, numbering, parts[3], received.content_type, received.payload
        )
    elif parts[2] == "replies":
        record = _reply(device_id, evidence, numbering, parts[3], fields)
    else:
        raise Refused(Reason.UNKNOWN_TYPE, received.topic[:200])
    return Translated(record, device_id.encode(), device_id, numbering)


def _reply(
    device_id: str,
    evidence: Evidence,
    numbering: Numbering | None,
    command_id: str,
    fields: dict[str, Any],
) -> events.Keyed:
    signed = fields.get("signing_request")
    if signed is None:
        outcome, detail = fields.get("outcome"), fields.get("detail", "")
        if not isinstance(outcome, str) or not isinstance(detail, str) or outcome not in OUTCOMES:
            raise Refused(Reason.MALFORMED, "outcome is accepted, done, failed or refused")
        return events.CommandAnswered(
            device_id, evidence, numbering, command_id, outcome, _text(detail)
        )
    if not isinstance(signed, bytes):
        raise Refused(Reason.MALFORMED, "signing_request is a byte string")
    try:
        found = examine(signed, evidence.certificate_sha256)
    except MalformedRequest as error:
        raise Refused(Reason.MALFORMED, str(error)) from error
    return events.SigningRequested(
        device_id=device_id,
        evidence=evidence,
        numbering=numbering,
        command_id=command_id,
        nonce=found.nonce,
        signed_request=signed,
        csr=found.csr,
        subject=found.subject,
        key=found.key,
        spki_sha256=found.spki_sha256,
        key_accepted=found.key_accepted,
        csr_signature_valid=found.csr_signature_valid,
        request_signature_valid=found.request_signature_valid,
        verifier=VERIFIER,
    )


def _session(received: Received, parts: list[str], evidence: Evidence) -> Translated:
    """Translate what the plugin itself says of a session."""
    said = _fields(received)
    device_id, kind, reason = parts[-1], said.get("event"), str(said.get("reason", ""))
    if not is_device_id(device_id):  # the broker's start, or a peer without a name to believe
        return Translated(None, b"")
    record: events.Keyed
    if kind == "opened":
        record = events.SessionOpened(device_id, evidence)
    elif kind == "closed":
        code = said.get("reason_code", 0)
        record = events.SessionClosed(device_id, evidence, code if isinstance(code, int) else 0)
    else:
        why = DOOR_REASONS.get(reason, reason)
        record = events.SessionRefused(device_id, evidence, why, str(kind))
    return Translated(record, device_id.encode(), device_id)


DOOR_REASONS = {
    "refused-certificate": Reason.CERTIFICATE_RETIRED.value,
    "refused-device": Reason.DEVICE_BLOCKED.value,
    "foreign-topic": Reason.FOREIGN_TOPIC.value,
    "topic-too-long": Reason.OVERSIZE.value,
    "too-many-properties": Reason.OVERSIZE.value,
    "uri-mismatch": Reason.WRONG_SUBJECT.value,
    "client-id-mismatch": Reason.WRONG_SUBJECT.value,
    "invalid-name": Reason.WRONG_SUBJECT.value,
    "unknown-issuer": Reason.FINGERPRINT_UNKNOWN.value,
    "no-certificate": Reason.FINGERPRINT_UNKNOWN.value,
}
"""The plugin's words for a refusal, in ours."""


def _text(detail: str) -> str:
    """Return text that can be encoded: JSON may hold half a surrogate pair."""
    return detail[:DETAIL_CHARACTERS_MAX].encode(errors="replace").decode()


def _fields(received: Received) -> dict[str, Any]:
    try:
        if received.content_type == "application/cbor":
            value = cbor2.loads(received.payload)
        else:
            value = json.loads(received.payload)
    except Exception as error:  # cbor2 raises many kinds on garbage; all mean the same
        raise Refused(Reason.MALFORMED, f"not {received.content_type or 'JSON'}") from error
    if not isinstance(value, dict):
        raise Refused(Reason.MALFORMED, "the payload is no map")
    return value


def _numbering(fields: dict[str, Any]) -> Numbering | None:
    boot, sequence = fields.get("boot"), fields.get("sequence")
    if boot is None and sequence is None:
        return None
    for one in (boot, sequence):
        if not isinstance(one, int) or isinstance(one, bool) or not 0 < one < NUMBER_MAX:
            raise Refused(Reason.MALFORMED, "boot and sequence are positive numbers")
    assert isinstance(boot, int)
    assert isinstance(sequence, int)
    return Numbering(boot, sequence)


def _letter(
    received: Received, parts: list[str], error: Refused, numbering: Numbering | None
) -> Translated:
    named = parts[1] if len(parts) > 1 and is_device_id(parts[1]) else ""
    letter = DeadLetter(
        reason=error.reason.value,
        detail=error.detail,
        origin=f"mqtt:{received.topic[:200]}",
        cause=None,
        key=named.encode(),
        payload=received.payload[:PAYLOAD_BYTES_MAX],
        letter_id="",
    )
    return Translated(letter, named.encode(), named, numbering, error.reason)
