"""MQTT messages to events: pure. Every message becomes an event, a dead letter, or a hint.

Identity comes from the stamp of the broker's plugin, never from topic or payload. What cannot be
understood keeps its bytes in a dead letter, and its device is told.
"""

from dataclasses import dataclass

from bridges import inbound
from bridges.inbound import PAYLOAD_BYTES_MAX, WHERE_CHARACTERS_MAX, Refused, Said, Translated
from bridges.mqtt.broker.stamp import Stamp, verify
from schemas import events
from schemas.envelope import Evidence, is_device_id
from schemas.reasons import Reason

PROTOCOL = "mqtt"


@dataclass(frozen=True, slots=True)
class Received:
    """One PUBLISH as the broker handed it over."""

    topic: str
    payload: bytes
    content_type: str
    properties: list[tuple[str, str]]


def translate(received: Received, secret: bytes, received_at: int) -> Translated:
    """Translate one message. Never raises: what is refused becomes a dead letter."""
    parts = received.topic.split("/")
    if parts[0] == "bucket":
        parts = parts[2:]
    stamp = verify(received.properties, received.payload, secret)
    if stamp is None or stamp.topic.split("/") != parts:
        return _letter(received, parts, Refused(Reason.UNSIGNED_STAMP, "no valid stamp"))
    evidence = Evidence(
        certificate_sha256=stamp.certificate,
        peer_address=stamp.address,
        session=stamp.session,
        counter=stamp.counter,
        protocol=PROTOCOL,
        received_at=received_at,
    )
    try:
        if len(received.payload) > PAYLOAD_BYTES_MAX:
            raise Refused(Reason.OVERSIZE, f"{len(received.payload)} bytes")
        if parts[0] == "sessions":
            return _session(received, parts, evidence)
        if not _is_own(parts, stamp):
            raise Refused(Reason.FOREIGN_TOPIC, received.topic[:WHERE_CHARACTERS_MAX])
        if parts[2:] == ["status"]:
            return Translated(None, b"")
        kind, name = (parts[2], parts[3]) if len(parts) == 4 else (parts[2], "")
        said = Said(kind, name, received.content_type, received.payload)
        return inbound.event(said, parts[1], evidence)
    except Refused as error:
        return _letter(received, parts, error)


def _is_own(parts: list[str], stamp: Stamp) -> bool:
    return len(parts) >= 3 and parts[0] == "devices" and parts[1] == stamp.client


def _session(received: Received, parts: list[str], evidence: Evidence) -> Translated:
    """Translate what the plugin itself says of a session."""
    said = inbound.mapping(received.payload, received.content_type)
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


def _letter(received: Received, parts: list[str], error: Refused) -> Translated:
    named = parts[1] if len(parts) > 1 and is_device_id(parts[1]) else ""
    origin = f"mqtt:{received.topic[:WHERE_CHARACTERS_MAX]}"
    return inbound.letter(error, named, origin, received.payload)
