"""MQTT messages to events: what each becomes, and that nothing makes the translation raise."""

import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridges import inbound
from bridges.inbound import CBOR, PAYLOAD_BYTES_MAX, Said
from bridges.mqtt.broker.stamp import NAME, Sender
from bridges.mqtt.inbound import PROTOCOL, Taken, Translator
from bridges.reported import Reports
from schemas import codec, events
from schemas.decisions import DeadLetter
from schemas.envelope import Evidence, Numbering
from schemas.progress import OUTCOMES, Progress
from schemas.reasons import Reason

SECRET = b"s" * 32
FINGERPRINT = "ab" * 32


WRONG_PROGRESS = [
    {"outcome": "accepted", "progress": "flying"},
    {"outcome": "accepted", "progress": "done"},
    {"outcome": "done", "progress": "rolled-back"},
    {"outcome": "refused", "progress": "failed"},
    {"progress": "downloading"},
    *[{"outcome": "accepted", "progress": one} for one in (None, 7, ["verified"], {}, True)],
]
"""Answers whose progress is no word of the list, or stands beside another outcome than its own."""


@dataclass
class Received:
    """A message as the broker hands it over."""

    topic: str
    payload: bytes
    content_type: str
    properties: list[tuple[str, str]]


def stamped(
    topic: str,
    payload: bytes,
    content_type: str = "application/json",
    *,
    client: str = "pump-1",
    secret: bytes = SECRET,
    fingerprint: str = FINGERPRINT,
) -> Received:
    """Return a message as the broker's plugin hands it over."""
    head = f"{fingerprint} {client} {'0' * 32} 10.0.0.1 7"
    signed = f"{head} {len(payload)}\n{topic}\n".encode() + payload
    mac = hmac.new(secret, signed, hashlib.sha256).hexdigest()
    return Received(f"bucket/3/{topic}", payload, content_type, [(NAME, f"{head} {mac}")])


def translate(message: Received, secret: bytes = SECRET) -> Taken:
    """Translate one message that came at 5."""
    return Translator(secret).translate(
        message.topic, message.payload, message.content_type, message.properties, 5
    )


def record(found: Taken) -> Any:
    """Return the record that a message became."""
    assert found.value is not None
    return codec.decode(found.value)


@pytest.mark.parametrize(
    ("content_type", "encode"),
    [("application/json", lambda one: json.dumps(one).encode()), ("application/cbor", cbor2.dumps)],
)
def test_a_report_carries_its_sessions_certificate(content_type: str, encode: object) -> None:
    """JSON or CBOR: the event has the fingerprint of the stamp and the device's own number."""
    payload = encode({"boot": 2, "sequence": 9, "body": 1})  # type: ignore[operator]
    found = translate(stamped("devices/pump-1/events/heat", payload, content_type))
    reported = record(found)
    assert isinstance(reported, events.DeviceReported)
    assert reported.evidence.certificate_sha256.hex() == FINGERPRINT
    assert reported.evidence.counter == 7
    assert found.number == (2, 9)
    assert found.key == b"pump-1"


@pytest.mark.parametrize("topic", ["events/heat", "replies/c-1"])
def test_a_long_content_type_is_refused(topic: str) -> None:
    """A device that named a new one of 64 KiB in each report filled gigabytes of its bridge."""
    found = translate(stamped(f"devices/pump-1/{topic}", b"{}", "x" * 129))
    assert isinstance(record(found), DeadLetter)
    assert (found.refused, found.device_id) == (Reason.OVERSIZE, "pump-1")


def test_a_topic_that_is_remembered_is_still_one_devices_own() -> None:
    """Another session that writes to it is refused as ever; its name may be as long as it likes."""
    for topic in ("devices/pump-1/events/heat", f"devices/{'p' * 300}/events/heat"):
        owner = topic.split("/")[1]
        for _ in range(2):
            assert translate(stamped(topic, b"{}", client=owner)).refused is None
            refused = translate(stamped(topic, b"{}", client="pump-2")).refused
            assert refused is Reason.FOREIGN_TOPIC


def test_an_unsigned_message_is_a_dead_letter() -> None:
    """A will, a forgery, another secret: kept, counted by its reason, never an event."""
    forged = stamped("devices/pump-1/events/heat", b"{}", secret=b"x" * 32)
    found = translate(forged)
    assert isinstance(record(found), DeadLetter)
    assert (found.refused, found.device_id) == (Reason.UNSIGNED_STAMP, "")


@pytest.mark.parametrize("change", ["topic", "payload", "counter", "twice"])
def test_a_stamp_holds_for_one_message_only(change: str) -> None:
    """Moved to another topic or payload, renumbered, or there twice, it does not verify."""
    message = stamped("devices/pump-1/events/heat", b"{}")
    ((name, value),) = message.properties
    if change == "topic":
        message.topic = "bucket/3/devices/pump-1/events/cold"
    elif change == "payload":
        message.payload = b"[]"
    elif change == "counter":
        message.properties = [(name, value.replace(" 7 ", " 8 "))]
    else:
        message.properties *= 2
    assert translate(message).refused == Reason.UNSIGNED_STAMP


@pytest.mark.parametrize(
    ("topic", "payload", "reason"),
    [
        ("devices/pump-2/events/heat", b"{}", Reason.FOREIGN_TOPIC),
        ("sessions", b"{}", Reason.FOREIGN_TOPIC),
        ("devices/pump-1/events/heat", b'{"body": NaN}', Reason.MALFORMED),
        ("devices/pump-1/events/heat", b'{"body": "\xff"}', Reason.MALFORMED),
        ("devices/pump-1/events/heat", b'{"body": 1}{}', Reason.MALFORMED),
        ("devices/pump-1/events/heat", b"[" * 100_000, Reason.MALFORMED),
        ("devices/pump-1/events/heat", b'{"boot": true, "sequence": 1}', Reason.MALFORMED),
        ("devices/pump-1/events/heat", b'{"boot": 1}', Reason.MALFORMED),
        ("devices/pump-1/events/heat", b'{"boot": 1, "sequence": 1e400}', Reason.MALFORMED),
        ("devices/pump-1/events/heat", b"not json", Reason.MALFORMED),
        ("devices/pump-1/events/heat", b"[]", Reason.MALFORMED),
        ("devices/pump-1/events/heat", b'{"boot": -1, "sequence": 1}', Reason.MALFORMED),
        ("devices/pump-1/events/heat", b"x" * (PAYLOAD_BYTES_MAX + 1), Reason.OVERSIZE),
        ("devices/pump-1/other/heat", b"{}", Reason.UNKNOWN_TYPE),
        ("devices/pump-1/events/a/b", b"{}", Reason.UNKNOWN_TYPE),
        ("devices/pump-1/replies/c", b'{"outcome": "perhaps"}', Reason.MALFORMED),
        *[
            ("devices/pump-1/replies/c", json.dumps(one).encode(), Reason.MALFORMED)
            for one in WRONG_PROGRESS
        ],
    ],
)
def test_each_refusal_has_its_reason(topic: str, payload: bytes, reason: Reason) -> None:
    """What is not accepted keeps its bytes in a dead letter that says why."""
    found = translate(stamped(topic, payload))
    assert found.refused == reason
    letter = record(found)
    assert isinstance(letter, DeadLetter)
    assert (letter.payload, letter.key, found.device_id) == (payload, b"pump-1", "pump-1")


@pytest.mark.parametrize("word", [*Progress, ""])
def test_an_answer_says_how_far_an_update_is(word: str) -> None:
    """Each word beside its outcome; none is as good as before."""
    outcome = OUTCOMES[Progress(word)] if word else "accepted"
    payload = cbor2.dumps({"boot": 1, "sequence": 3, "outcome": outcome, "progress": word})
    found = translate(stamped("devices/pump-1/replies/u-1", payload, "application/cbor"))
    answer = record(found)
    assert isinstance(answer, events.CommandAnswered)
    assert (answer.command_id, answer.outcome, answer.progress) == ("u-1", outcome, word)


def test_a_garbage_signing_request_is_malformed_and_its_device_is_told() -> None:
    """The refusal carries the number, so that the device lets the item go."""
    payload = cbor2.dumps({"boot": 1, "sequence": 3, "outcome": "done", "signing_request": b"no"})
    message = stamped("devices/pump-1/replies/rotate-1", payload, "application/cbor")
    found = translate(message)
    assert (found.refused, found.number) == (Reason.MALFORMED, (1, 3))


def test_half_a_surrogate_pair_cannot_stop_a_bucket() -> None:
    """JSON can say what UTF-8 cannot: such a message is malformed, and its device is told."""
    payload = b'{"boot": 1, "sequence": 1, "outcome": "failed", "detail": "\\ud800"}'
    found = translate(stamped("devices/pump-1/replies/rotate-1", payload))
    assert (found.refused, found.device_id) == (Reason.MALFORMED, "pump-1")


def test_the_plugins_words_become_session_events() -> None:
    """Opened, closed and refused sessions are events of their device."""
    kinds = {}
    for said in ("opened", "closed", "refused"):
        payload = json.dumps({"event": said, "reason": "refused-certificate"}).encode()
        found = translate(stamped("sessions/pump-1", payload))
        kinds[said] = type(record(found))
    assert kinds == {
        "opened": events.SessionOpened,
        "closed": events.SessionClosed,
        "refused": events.SessionRefused,
    }


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(
        [
            *("devices/pump-1/events/x", "devices/pump-1/replies/x", "sessions/pump-1"),
            *("newcomers/pump-1/events/x", "newcomers/pump-1/replies/x"),
            *("a", "devices", "newcomers"),
        ]
    ),
    st.one_of(
        st.binary(max_size=60),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.binary(max_size=5),
            lambda inner: st.dictionaries(
                st.sampled_from(
                    [
                        *("boot", "sequence", "outcome", "progress", "signing_request"),
                        *("event", "newcomer", "certificate_der", "reason"),
                    ]
                ),
                inner,
            ),
            max_leaves=6,
        ).map(cbor2.dumps),
    ),
    st.sampled_from(["application/cbor", "application/json", ""]),
)
def test_nothing_makes_the_translation_raise(topic: str, payload: bytes, kind: str) -> None:
    """Whatever comes, signed, becomes a record that can be encoded, or a hint, or is counted."""
    found = translate(stamped(topic, payload, kind))
    assert found.value is not None or bool(found.hint) != bool(found.refused)
    if found.value is not None:
        codec.decode(found.value)


@given(
    counter=st.integers(0, 2**62),
    received_at=st.integers(0, 2**62),
    numbering=st.none() | st.builds(Numbering, st.integers(1, 2**61), st.integers(1, 2**61)),
    texts=st.tuples(*[st.text(max_size=300)] * 5),
    payload=st.binary(max_size=20_000),
    said_at=st.integers(0, 2**62),
)
def test_a_report_is_written_as_the_codec_writes_it(
    counter: int,
    received_at: int,
    numbering: Numbering | None,
    texts: tuple[str, str, str, str, str],
    payload: bytes,
    said_at: int,
) -> None:
    """The short way gives the codec's bytes, whatever the parts, the second time too."""
    device_id, session, address, event_type, content_type = texts
    sender, reports = Sender(b"c" * 32, device_id, session, address), Reports(PROTOCOL)
    evidence = Evidence(b"c" * 32, address, session, counter, PROTOCOL, received_at)
    wanted = codec.encode(
        events.DeviceReported(
            device_id, evidence, numbering, event_type, content_type, payload, said_at
        )
    )
    boot, sequence = (numbering.boot, numbering.sequence) if numbering is not None else (0, 0)
    numbers = (boot, sequence, said_at)
    for _ in range(2):
        assert wanted == reports.encode(
            sender.beginning, counter, received_at, numbers, event_type, content_type, payload
        )


NUMBERS = st.none() | st.booleans() | st.integers(-1, 2**63) | st.floats(allow_infinity=False)


@given(
    st.dictionaries(st.sampled_from(["boot", "sequence", "at", "body"]), NUMBERS)
    | st.lists(NUMBERS)
    | st.text(),
    st.sampled_from([(json.dumps, "application/json"), (json.dumps, ""), (cbor2.dumps, CBOR)]),
)
def test_the_short_way_judges_a_report_as_the_long_way_does(
    value: object, form: tuple[Callable[[object], str | bytes], str]
) -> None:
    """The same is refused, and what is not has the same numbers."""
    dumps, content_type = form
    written = dumps(value)
    payload = written.encode() if isinstance(written, str) else written

    def long_way() -> tuple[int, int, int]:
        evidence = Evidence(b"c" * 32, "", "s", 1, PROTOCOL, 5)
        said = Said("events", "x", content_type, payload)
        found = inbound.event(said, "pump-1", evidence).record
        assert isinstance(found, events.DeviceReported)
        numbering = found.numbering or Numbering(0, 0)
        return numbering.boot, numbering.sequence, found.said_at

    assert verdict(lambda: inbound.report(payload, content_type)) == verdict(long_way)


def verdict(judge: Callable[[], tuple[int, int, int]]) -> tuple[int, int, int] | Reason:
    """Return the numbers that a way of reading found, or why it refused."""
    try:
        return judge()
    except inbound.Refused as refused:
        return refused.reason


@pytest.mark.parametrize(("at", "said_at"), [(7, 7), (10**17, 10**17), (-1, 0), ("7", 0), ([], 0)])
@pytest.mark.parametrize("content_type", ["application/json", "application/cbor"])
def test_a_devices_clock_is_data(at: object, said_at: int, content_type: str) -> None:
    """However far off it is, it is kept beside the time of the door, and refuses nothing."""
    write = cbor2.dumps if content_type.endswith("cbor") else lambda one: json.dumps(one).encode()
    message = stamped("devices/pump-1/events/heat", write({"at": at}), content_type)
    reported = record(translate(message))
    assert (reported.said_at, reported.evidence.received_at) == (said_at, 5)
