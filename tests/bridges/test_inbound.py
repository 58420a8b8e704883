"""MQTT messages to events: what each becomes, and that nothing makes the translation raise."""

import hashlib
import hmac
import json

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridges.mqtt.broker.stamp import PREFIX, SIGNED
from bridges.mqtt.inbound import PAYLOAD_BYTES_MAX, Received, translate
from schemas import codec, events
from schemas.decisions import DeadLetter
from schemas.envelope import Numbering
from schemas.reasons import Reason

SECRET = b"s" * 32
FINGERPRINT = "ab" * 32


def stamped(
    topic: str,
    payload: bytes,
    content_type: str = "application/json",
    *,
    client: str = "pump-1",
    secret: bytes = SECRET,
) -> Received:
    """Return a message as the broker's plugin hands it over."""
    values = {
        "certificate": FINGERPRINT,
        "client": client,
        "session": "0" * 32,
        "counter": "7",
        "address": "10.0.0.1",
        "topic": topic,
    }
    signed = [values[name] for name in SIGNED] + [hashlib.sha256(payload).hexdigest()]
    mac = hmac.new(secret, "\n".join(signed).encode(), hashlib.sha256).hexdigest()
    properties = [(PREFIX + name, value) for name, value in (*values.items(), ("mac", mac))]
    return Received(f"bucket/3/{topic}", payload, content_type, properties)


@pytest.mark.parametrize(
    ("content_type", "encode"),
    [("application/json", lambda one: json.dumps(one).encode()), ("application/cbor", cbor2.dumps)],
)
def test_a_report_carries_its_sessions_certificate(content_type: str, encode: object) -> None:
    """JSON or CBOR: the event has the fingerprint of the stamp and the device's own number."""
    payload = encode({"boot": 2, "sequence": 9, "body": 1})  # type: ignore[operator]
    found = translate(stamped("devices/pump-1/events/heat", payload, content_type), SECRET, 5)
    assert isinstance(found.record, events.DeviceReported)
    assert found.record.evidence.certificate_sha256.hex() == FINGERPRINT
    assert found.record.evidence.counter == 7
    assert found.numbering == Numbering(2, 9)
    assert found.key == b"pump-1"


def test_an_unsigned_message_is_a_dead_letter() -> None:
    """A will, a forgery, another secret: kept, counted by its reason, never an event."""
    forged = stamped("devices/pump-1/events/heat", b"{}", secret=b"x" * 32)
    found = translate(forged, SECRET, 5)
    assert isinstance(found.record, DeadLetter)
    assert found.refused == Reason.UNSIGNED_STAMP


@pytest.mark.parametrize(
    ("topic", "payload", "reason"),
    [
        ("devices/pump-2/events/heat", b"{}", Reason.FOREIGN_TOPIC),
        ("devices/pump-1/events/heat", b"not json", Reason.MALFORMED),
        ("devices/pump-1/events/heat", b"[]", Reason.MALFORMED),
        ("devices/pump-1/events/heat", b'{"boot": -1, "sequence": 1}', Reason.MALFORMED),
        ("devices/pump-1/events/heat", b"x" * (PAYLOAD_BYTES_MAX + 1), Reason.OVERSIZE),
        ("devices/pump-1/other/heat", b"{}", Reason.UNKNOWN_TYPE),
        ("devices/pump-1/events/a/b", b"{}", Reason.UNKNOWN_TYPE),
        ("devices/pump-1/replies/c", b'{"outcome": "perhaps"}', Reason.MALFORMED),
    ],
)
def test_each_refusal_has_its_reason(topic: str, payload: bytes, reason: Reason) -> None:
    """What is not accepted keeps its bytes in a dead letter that says why."""
    found = translate(stamped(topic, payload), SECRET, 5)
    assert found.refused == reason
    assert isinstance(found.record, DeadLetter)
    assert found.record.payload == payload[:PAYLOAD_BYTES_MAX]


def test_a_garbage_signing_request_is_malformed_and_its_device_is_told() -> None:
    """The refusal carries the number, so that the device lets the item go."""
    payload = cbor2.dumps({"boot": 1, "sequence": 3, "outcome": "done", "signing_request": b"no"})
    message = stamped("devices/pump-1/replies/rotate-1", payload, "application/cbor")
    found = translate(message, SECRET, 5)
    assert (found.refused, found.numbering) == (Reason.MALFORMED, Numbering(1, 3))


def test_half_a_surrogate_pair_cannot_stop_a_bucket() -> None:
    """JSON can say what UTF-8 cannot: the event is encoded all the same."""
    payload = b'{"boot": 1, "sequence": 1, "outcome": "failed", "detail": "\\ud800"}'
    found = translate(stamped("devices/pump-1/replies/rotate-1", payload), SECRET, 5)
    assert codec.decode(codec.encode(found.record)).detail == "?"


def test_the_plugins_words_become_session_events() -> None:
    """Opened, closed and refused sessions are events of their device."""
    kinds = {}
    for said in ("opened", "closed", "refused"):
        payload = json.dumps({"event": said, "reason": "refused-certificate"}).encode()
        found = translate(stamped("sessions/pump-1", payload), SECRET, 5)
        kinds[said] = type(found.record)
    assert kinds == {
        "opened": events.SessionOpened,
        "closed": events.SessionClosed,
        "refused": events.SessionRefused,
    }


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(
        ["devices/pump-1/events/x", "devices/pump-1/replies/x", "sessions/pump-1", "a", "devices"]
    ),
    st.one_of(
        st.binary(max_size=60),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.binary(max_size=5),
            lambda inner: st.dictionaries(
                st.sampled_from(["boot", "sequence", "outcome", "signing_request", "event"]), inner
            ),
            max_leaves=6,
        ).map(cbor2.dumps),
    ),
    st.sampled_from(["application/cbor", "application/json", ""]),
)
def test_nothing_makes_the_translation_raise(topic: str, payload: bytes, kind: str) -> None:
    """Whatever comes, signed, becomes a record that can be encoded, or a hint."""
    found = translate(stamped(topic, payload, kind), SECRET, 5)
    if found.record is not None:
        assert codec.decode(codec.encode(found.record)) == found.record
