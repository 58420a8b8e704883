"""What a device says, to events: pure, and the same whatever protocol it speaks.

Who said it stands in the evidence, which comes from the session; the payload is never asked. What
cannot be understood is Refused with a Reason, and its door keeps the bytes in a dead letter.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from pki.requests import VERIFIER, Examined, MalformedRequest, examine
from protocols import cbor
from schemas import events, progress
from schemas.decisions import DeadLetter
from schemas.envelope import Evidence, Numbering
from schemas.reasons import Reason

PAYLOAD_BYTES_MAX = 131_072
"""Of what a device says; doors let somewhat more in, so that it is told and kept."""
LETTER_BYTES_MAX = 524_288
NAME_CHARACTERS_MAX = 64
DETAIL_CHARACTERS_MAX = 1_000
WHERE_CHARACTERS_MAX = 200
OUTCOMES = frozenset({"accepted", "done", "failed", "refused"})
NUMBER_MAX = 2**62
CBOR = "application/cbor"
REPORTS = "events"
"""The kind of message that most are."""


@dataclass(frozen=True, slots=True)
class Said:
    """One message of a device: `kind` is `events` or `replies`, `name` a type or a command id."""

    kind: str
    name: str
    content_type: str
    payload: bytes


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

    def __init__(self, reason: Reason, detail: str, numbering: Numbering | None = None) -> None:
        super().__init__(detail)
        self.reason, self.detail, self.numbering = reason, detail, numbering


Number = Annotated[int, msgspec.Meta(ge=1, lt=NUMBER_MAX)]


class _Numbers(msgspec.Struct):
    """The fields of a report that a bridge reads; all others are skipped, but checked."""

    boot: Number | None = None
    sequence: Number | None = None
    at: Any = None


_numbers = msgspec.json.Decoder(_Numbers)


def event(said: Said, device_id: str, evidence: Evidence) -> Translated:
    """Return the event that a device said. Raises Refused, with the message's number if it has."""
    if len(said.payload) > PAYLOAD_BYTES_MAX:
        raise Refused(Reason.OVERSIZE, f"{len(said.payload)} bytes")
    fields = mapping(said.payload, said.content_type)
    numbering = _numbering(fields)
    try:
        record = _record(said, device_id, evidence, numbering, fields)
    except Refused as error:
        error.numbering = numbering
        raise
    return Translated(record, device_id.encode(), device_id, numbering)


def letter(error: Refused, device_id: str, origin: str, payload: bytes) -> Translated:
    """Return the dead letter of a refused message; `origin` is door and place."""
    kept = DeadLetter(
        reason=error.reason.value,
        detail=error.detail[:DETAIL_CHARACTERS_MAX],
        origin=origin,
        cause=None,
        key=device_id.encode(),
        payload=payload[:LETTER_BYTES_MAX],
        letter_id="",
    )
    return Translated(kept, device_id.encode(), device_id, error.numbering, error.reason)


def mapping(payload: bytes, content_type: str) -> dict[str, Any]:
    """Return the map that a payload is, CBOR or JSON. Raises Refused."""
    try:
        value = cbor.loads(payload) if content_type == CBOR else msgspec.json.decode(payload)
    except Exception as error:  # cbor2 raises many kinds on garbage; all mean the same
        raise Refused(Reason.MALFORMED, f"not {content_type or 'JSON'}") from error
    if not isinstance(value, dict):
        raise Refused(Reason.MALFORMED, "the payload is no map")
    return value


def is_name(text: str) -> bool:
    """Tell whether this can name an event type or a command: one level of a topic."""
    return 0 < len(text) <= NAME_CHARACTERS_MAX and "/" not in text


def report(payload: bytes, content_type: str) -> tuple[int, int, int]:
    """Return a report's boot, sequence and device's clock, zeros without. Raises Refused.

    All of it is seen to be a map; what else is in it is not taken apart.
    """
    if content_type == CBOR:
        fields = mapping(payload, content_type)
        found = _numbering(fields)
        boot, sequence = (found.boot, found.sequence) if found is not None else (0, 0)
        return boot, sequence, _said_at(fields.get("at"))
    try:
        if not payload.isascii():
            payload.decode()  # text that is skipped is not looked at otherwise
        read = _numbers.decode(payload)
    except Exception as error:  # as in mapping
        raise Refused(Reason.MALFORMED, f"not {content_type or 'JSON'}: {error}") from error
    if (read.boot is None) != (read.sequence is None):
        raise Refused(Reason.MALFORMED, "boot and sequence come together")
    return read.boot or 0, read.sequence or 0, _said_at(read.at) if read.at is not None else 0


def _said_at(at: object) -> int:
    """Return a device's clock as it names it, zero where it does not: it is data, never judged."""
    return at if type(at) is int and 0 < at < NUMBER_MAX else 0


def _record(
    said: Said,
    device_id: str,
    evidence: Evidence,
    numbering: Numbering | None,
    fields: dict[str, Any],
) -> events.Keyed:
    if not is_name(said.name):
        raise Refused(Reason.UNKNOWN_TYPE, f"{said.kind}/{said.name}"[:WHERE_CHARACTERS_MAX])
    if said.kind == REPORTS:
        return events.DeviceReported(
            device_id,
            evidence,
            numbering,
            said.name,
            said.content_type,
            said.payload,
            _said_at(fields.get("at")),
        )
    if said.kind == "replies":
        return _reply(device_id, evidence, numbering, said.name, fields)
    raise Refused(Reason.UNKNOWN_TYPE, f"{said.kind}/{said.name}"[:WHERE_CHARACTERS_MAX])


def _reply(
    device_id: str,
    evidence: Evidence,
    numbering: Numbering | None,
    command_id: str,
    fields: dict[str, Any],
) -> events.Keyed:
    signed = fields.get("signing_request")
    if signed is None:
        return _answer(device_id, evidence, numbering, command_id, fields)
    if not isinstance(signed, bytes):
        raise Refused(Reason.MALFORMED, "signing_request is a byte string")
    try:
        found = examine(signed, evidence.certificate_sha256)
    except MalformedRequest as error:
        raise Refused(Reason.MALFORMED, str(error)) from error
    return signing_requested(device_id, evidence, numbering, command_id, signed, found)


def signing_requested(
    device_id: str,
    evidence: Evidence,
    numbering: Numbering | None,
    command_id: str,
    signed: bytes,
    found: Examined,
) -> events.SigningRequested:
    """Return what the history is told of a signed request (CMS) and of what was found in it."""
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


def _answer(
    device_id: str,
    evidence: Evidence,
    numbering: Numbering | None,
    command_id: str,
    fields: dict[str, Any],
) -> events.CommandAnswered:
    outcome, detail = fields.get("outcome"), fields.get("detail", "")
    if not isinstance(outcome, str) or not isinstance(detail, str) or outcome not in OUTCOMES:
        raise Refused(Reason.MALFORMED, "outcome is accepted, done, failed or refused")
    said = fields.get("progress", "")
    wrong = progress.objection(outcome, said) if isinstance(said, str) else "progress is no text"
    if wrong:
        raise Refused(Reason.MALFORMED, wrong)
    return events.CommandAnswered(
        device_id, evidence, numbering, command_id, outcome, detail[:DETAIL_CHARACTERS_MAX], said
    )


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
