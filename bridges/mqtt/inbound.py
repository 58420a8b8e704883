"""MQTT messages to events: pure. Every message becomes an event, a dead letter, or a hint.

Identity comes from the stamp of the broker's plugin, never from topic or payload. What cannot be
understood keeps its bytes in a dead letter, and its device is told. A report, the message that
comes most, goes the short way: its numbers are read, its bytes are not taken apart.
"""

from dataclasses import dataclass

from bridges import inbound
from bridges.inbound import (
    NAME_CHARACTERS_MAX,
    PAYLOAD_BYTES_MAX,
    REPORTS,
    WHERE_CHARACTERS_MAX,
    Refused,
    Said,
)
from bridges.mqtt.broker.stamp import Stamp, Verifier
from bridges.reported import Reports
from schemas import codec, events
from schemas.envelope import Evidence, Numbering, is_device_id
from schemas.reasons import Reason
from schemas.topics import DEAD_LETTERS, DEVICE_EVENTS

PROTOCOL = "mqtt"
CONTENT_TYPE_CHARACTERS_MAX = 128
"""What is written once per content type is remembered: a long one would fill the memory."""
JSON = "application/json"


@dataclass(slots=True)
class Taken:
    """A message and what it became: `value` under `key` for `topic`; None: a hint, not recorded.

    `device_id` and `number` (boot, sequence) say whom to tell of what; `refused` is the Reason of
    a dead letter or of the broker, `counter` the number that the session gave the message, `hint`
    what kind of hint it was.
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
    packet_id: int | None = None
    done: bool = False

    def finish(self) -> None:
        """Kafka has it, or need not."""
        self.done = True


class Translator:
    """Translates the messages of many sessions under one secret."""

    def __init__(self, secret: bytes) -> None:
        self._verifier, self._reports = Verifier(secret), Reports(PROTOCOL)

    def translate(
        self,
        topic: str,
        payload: bytes,
        content_type: str,
        properties: list[tuple[str, str]],
        received_at: int,
    ) -> Taken:
        """Translate one message. Never raises: what is refused becomes a dead letter."""
        own = topic.split("/", 2)[-1] if topic.startswith("bucket/") else topic
        parts = own.split("/")
        stamp = self._verifier.verify(properties, own, payload)
        if stamp is None:
            return _letter(topic, payload, Refused(Reason.UNSIGNED_STAMP, "no valid stamp"))
        sender = stamp.sender
        try:
            if len(content_type) > CONTENT_TYPE_CHARACTERS_MAX:
                raise Refused(Reason.OVERSIZE, f"a content type of {len(content_type)} characters")
            if (
                len(parts) == 4
                and parts[2] == REPORTS
                and parts[1] == sender.client
                and parts[0] == "devices"
                and 0 < len(parts[3]) <= NAME_CHARACTERS_MAX
                and len(payload) <= PAYLOAD_BYTES_MAX
            ):
                numbers = inbound.report(payload, content_type)
                value = self._reports.encode(
                    sender.beginning,
                    stamp.counter,
                    received_at,
                    numbers,
                    parts[3],
                    content_type,
                    payload,
                )
                taken = Taken(DEVICE_EVENTS, sender.key, value, sender.client)
                taken.number = numbers[:2] if numbers[1] else None
                return taken
            return _other(parts, payload, content_type, stamp, received_at)
        except Refused as error:
            return _letter(topic, payload, error, stamp)


def _other(
    parts: list[str], payload: bytes, content_type: str, stamp: Stamp, received_at: int
) -> Taken:
    """Translate whatever is no report. Raises Refused."""
    client = stamp.sender.client
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise Refused(Reason.OVERSIZE, f"{len(payload)} bytes")
    evidence = _evidence(stamp, received_at)
    if parts[0] == "sessions" and len(parts) == 2:  # said by the plugin itself
        return _session(parts[1], payload, evidence)
    if len(parts) < 3 or parts[0] != "devices" or parts[1] != client:
        raise Refused(Reason.FOREIGN_TOPIC, "/".join(parts)[:WHERE_CHARACTERS_MAX])
    if parts[2:] == ["status"]:
        return Taken("", b"", None, hint="birth")
    said = Said(parts[2], "/".join(parts[3:]), content_type, payload)
    event = inbound.event(said, client, evidence)
    taken = Taken(DEVICE_EVENTS, event.key, codec.encode(event.record), client)
    taken.number = _number(event.numbering)
    return taken


def _number(numbering: Numbering | None) -> tuple[int, int] | None:
    return None if numbering is None else (numbering.boot, numbering.sequence)


def _evidence(stamp: Stamp, received_at: int) -> Evidence:
    """Return what the broker saw of the session."""
    sender, counter = stamp
    return Evidence(
        sender.certificate, sender.address, sender.session, counter, PROTOCOL, received_at
    )


def _session(device_id: str, payload: bytes, evidence: Evidence) -> Taken:
    """Translate what the plugin itself says of a session."""
    said = inbound.mapping(payload, JSON)
    kind, reason = said.get("event"), str(said.get("reason", ""))
    if not is_device_id(device_id):  # the broker's start, or a peer without a name to believe
        return Taken("", b"", None, hint="unnamed")
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
