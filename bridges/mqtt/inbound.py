"""MQTT messages to events: pure. Every message becomes an event, a dead letter, or a hint.

Identity comes from the stamp of the broker's plugin, never from topic or payload. What cannot be
understood keeps its bytes in a dead letter, and its device is told. A report, the message that
comes most, goes the short way: its numbers are read, its bytes are not taken apart.

A newcomer came with a provisioning certificate and is good for enrolment alone: the plugin tells
its certificate whole, our own validator judges it here, and nothing but answers is taken from it.
What it is refused is no event under the name that it gave itself: it is counted, and told.
"""

import base64
import binascii
import datetime
import functools
import hashlib
from collections.abc import Sequence

import msgspec
from cryptography import x509

from bridges import inbound
from bridges.inbound import (
    NAME_CHARACTERS_MAX,
    PAYLOAD_BYTES_MAX,
    REPORTS,
    WHERE_CHARACTERS_MAX,
    Refused,
    Said,
)
from bridges.mqtt.broker.stamp import Stamp, Verifier, own_topic
from bridges.reported import Reports
from pki import path
from pki.facts import facts
from schemas import codec, events
from schemas.envelope import Evidence, Numbering, is_device_id
from schemas.reasons import Reason
from schemas.topics import DEAD_LETTERS, DEVICE_EVENTS

PROTOCOL = "mqtt"
REPLIES = "replies"
DEVICES, NEWCOMERS = "devices", "newcomers"
"""The trees of topics: of those with a certificate of ours, and of those who enrol."""
CONTENT_TYPE_CHARACTERS_MAX = 128
"""What is written once per content type is remembered: a long one would fill the memory."""
TOPIC_CHARACTERS_MAX, TOPICS_MAX = 256, 50_000
"""Topics that are remembered, and how long one may be for that."""
JSON = "application/json"


class Taken(msgspec.Struct, gc=False):
    """A message and what it became: `value` under `key` for `topic`; None: a hint, not recorded.

    `device_id` and `number` (boot, sequence) say whom to tell of what; `refused` is the Reason of
    a dead letter or of the broker, `counter` the number that the session gave the message, `hint`
    what kind of hint it was. `tree` is where the device listens, `presented` the fingerprint of a
    newcomer whose coming is to be told back to it.
    `packet_id` and `done` follow it on its way to Kafka.
    """

    topic: str
    key: bytes
    value: bytes | None
    device_id: str = ""
    number: tuple[int, int] | None = None
    refused: Reason | None = None
    counter: int = 0
    hint: str = ""
    tree: str = DEVICES
    presented: str = ""
    packet_id: int | None = None
    done: bool = False
    """Kafka has it, or need not."""

    @property
    def whom(self) -> str:
        """What the topics begin with that its device listens to."""
        return f"{self.tree}/{self.device_id}"


class Where(msgspec.Struct, frozen=True, gc=False):
    """A topic, `own` as the device wrote it; `reporter` (empty: none) reports what is `named`."""

    own: str
    reporter: str = ""
    named: str = ""


class Translator:
    """Translates the messages of many sessions under one secret.

    Whom none of the CAs of `provisioning` names is no newcomer.
    """

    def __init__(self, secret: bytes, provisioning: Sequence[x509.Certificate] = ()) -> None:
        self._verifier, self._reports = Verifier(secret), Reports(PROTOCOL)
        self._provisioning = tuple(provisioning)

    def translate(
        self,
        topic: str,
        payload: bytes,
        content_type: str,
        properties: list[tuple[str, str]],
        received_at: int,
    ) -> Taken:
        """Translate one message. Never raises: what is refused becomes a dead letter."""
        where = _remembered(topic) if len(topic) <= TOPIC_CHARACTERS_MAX else _where(topic)
        stamp = self._verifier.verify(properties, where.own, payload)
        if stamp is None:
            return _letter(topic, payload, Refused(Reason.UNSIGNED_STAMP, "no valid stamp"))
        sender = stamp.sender
        try:
            if len(content_type) > CONTENT_TYPE_CHARACTERS_MAX:
                raise Refused(Reason.OVERSIZE, f"a content type of {len(content_type)} characters")
            if where.reporter == sender.client and len(payload) <= PAYLOAD_BYTES_MAX:
                numbers = inbound.report(payload, content_type)
                value = self._reports.encode(
                    sender.beginning,
                    stamp.counter,
                    received_at,
                    numbers,
                    where.named,
                    content_type,
                    payload,
                )
                taken = Taken(DEVICE_EVENTS, sender.key, value, sender.client)
                taken.number = numbers[:2] if numbers[1] else None
                return taken
            parts = where.own.split("/")
            if parts[0] == "sessions" and len(parts) == 2:  # said by the plugin itself
                evidence = _evidence(stamp, received_at)
                return _session(parts[1], payload, evidence, self._provisioning)
            return _other(parts, payload, content_type, stamp, received_at)
        except Refused as error:
            taken = _letter(topic, payload, error, stamp)
            taken.tree = DEVICES if where.own.split("/", 1)[0] == DEVICES else NEWCOMERS
            return taken


def _where(topic: str) -> Where:
    """Take a topic apart."""
    own = own_topic(topic)
    match own.split("/"):
        case [tree, reporter, kind, named] if tree == DEVICES and kind == REPORTS:
            if 0 < len(named) <= NAME_CHARACTERS_MAX:
                return Where(own, reporter, named)
    return Where(own)


_remembered = functools.lru_cache(TOPICS_MAX)(_where)


def _other(
    parts: list[str], payload: bytes, content_type: str, stamp: Stamp, received_at: int
) -> Taken:
    """Translate whatever is no report. Raises Refused."""
    client = stamp.sender.client
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise Refused(Reason.OVERSIZE, f"{len(payload)} bytes")
    if len(parts) < 3 or parts[0] not in (DEVICES, NEWCOMERS) or parts[1] != client:
        raise Refused(Reason.FOREIGN_TOPIC, "/".join(parts)[:WHERE_CHARACTERS_MAX])
    if parts[0] == NEWCOMERS and parts[2] != REPLIES:
        raise Refused(Reason.PROVISIONING_ONLY, "/".join(parts[2:])[:WHERE_CHARACTERS_MAX])
    if parts[2:] == ["status"]:
        return Taken("", b"", None, hint="birth")
    said = Said(parts[2], "/".join(parts[3:]), content_type, payload)
    event = inbound.event(said, client, _evidence(stamp, received_at))
    taken = Taken(DEVICE_EVENTS, event.key, codec.encode(event.record), client, tree=parts[0])
    taken.number = _number(event.numbering)
    return taken


def _number(numbering: Numbering | None) -> tuple[int, int] | None:
    return None if numbering is None else (numbering.boot, numbering.sequence)


def _evidence(stamp: Stamp, received_at: int) -> Evidence:
    """Return what the broker saw of the session."""
    sender = stamp.sender
    return Evidence(
        sender.certificate, sender.address, sender.session, stamp.counter, PROTOCOL, received_at
    )


def _session(
    device_id: str, payload: bytes, evidence: Evidence, provisioning: Sequence[x509.Certificate]
) -> Taken:
    """Translate what the plugin itself says of a session. Raises Refused."""
    said = inbound.mapping(payload, JSON)
    kind, reason = said.get("event"), str(said.get("reason", ""))
    if not is_device_id(device_id):  # the broker's start, or a peer without a name to believe
        return Taken("", b"", None, hint="unnamed")
    newcomer = said.get("newcomer") is True
    if newcomer and kind == "presented":
        return _presented(device_id, said.get("certificate_der"), evidence, provisioning)
    if newcomer and kind != "closed":
        hears = device_id if kind != "refused" else ""
        taken = Taken("", b"", None, hears, tree=NEWCOMERS)
        taken.refused, taken.counter = DOOR_REASONS.get(reason), evidence.counter
        taken.hint = "" if taken.refused else "unnamed"
        return taken
    record: events.Keyed
    if kind == "opened":
        record = events.SessionOpened(device_id, evidence)
    elif kind == "closed":
        code = said.get("reason_code", 0)
        record = events.SessionClosed(device_id, evidence, code if isinstance(code, int) else 0)
    else:
        why = DOOR_REASONS.get(reason)
        record = events.SessionRefused(device_id, evidence, why or reason, str(kind))
        # of a refused message its device is told; a refused connection hears nothing
        hears = device_id if kind != "refused" else ""
        taken = Taken(DEVICE_EVENTS, device_id.encode(), codec.encode(record), hears)
        taken.refused, taken.counter = why, evidence.counter
        return taken
    return Taken(DEVICE_EVENTS, device_id.encode(), codec.encode(record))


def _presented(
    device_id: str, shown: object, evidence: Evidence, provisioning: Sequence[x509.Certificate]
) -> Taken:
    """Translate the coming of a newcomer, where the certificate holds. Raises Refused."""
    try:
        der = base64.b64decode(shown, validate=True) if isinstance(shown, str) else b""
    except binascii.Error:
        der = b""
    if hashlib.sha256(der).digest() != evidence.certificate_sha256:
        raise Refused(Reason.MALFORMED, "the certificate is not the session's")
    if not provisioning:
        raise Refused(Reason.JUST_IN_TIME_OFF, "this bridge knows no iot.security.provisioning.ca")
    at = datetime.datetime.fromtimestamp(evidence.received_at / 1_000, datetime.UTC)
    verdict = path.validate_device(der, provisioning, at)
    if not verdict.accepted:
        raise Refused(verdict.reason, verdict.detail)
    if verdict.device_id != device_id:
        raise Refused(Reason.WRONG_SUBJECT, "the certificate names another device")
    record = events.CertificatePresented(device_id, evidence, facts(der))
    taken = Taken(DEVICE_EVENTS, device_id.encode(), codec.encode(record), device_id)
    taken.tree, taken.presented = NEWCOMERS, evidence.certificate_sha256.hex()
    return taken


DOOR_REASONS = {
    "refused-certificate": Reason.CERTIFICATE_RETIRED,
    "refused-device": Reason.DEVICE_BLOCKED,
    "foreign-topic": Reason.FOREIGN_TOPIC,
    "unknown-topic": Reason.UNKNOWN_TYPE,
    "rate-exceeded": Reason.RATE_EXCEEDED,
    "topic-too-long": Reason.OVERSIZE,
    "too-many-properties": Reason.OVERSIZE,
    "uri-mismatch": Reason.WRONG_SUBJECT,
    "client-id-mismatch": Reason.WRONG_SUBJECT,
    "invalid-name": Reason.WRONG_SUBJECT,
    "unknown-issuer": Reason.FINGERPRINT_UNKNOWN,
    "no-certificate": Reason.FINGERPRINT_UNKNOWN,
    "certificate-too-long": Reason.OVERSIZE,
    "provisioning-only": Reason.PROVISIONING_ONLY,
    "too-many-newcomers": Reason.TOO_MANY_NEWCOMERS,
}
"""The plugin's words for a refusal, in ours."""


def _letter(topic: str, payload: bytes, error: Refused, stamp: Stamp | None = None) -> Taken:
    """Set a message aside, under the key of who sent it: nobody's without a stamp."""
    client, counter = (stamp.sender.client, stamp.counter) if stamp is not None else ("", 0)
    origin = f"mqtt:{topic[:WHERE_CHARACTERS_MAX]}"
    kept = inbound.letter(error, client, origin, payload)
    return Taken(
        DEAD_LETTERS,
        kept.key,
        codec.encode(kept.record),
        client if is_device_id(client) else "",
        _number(error.numbering),
        error.reason,
        counter,
    )
