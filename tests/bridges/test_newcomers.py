"""Newcomers over MQTT: the record that the CoAP door makes, and nothing beside their answers."""

import base64
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from bridges.coap.sessions import Sessions
from bridges.door import Door
from bridges.mqtt import outbound
from bridges.mqtt.inbound import DEVICES, NEWCOMERS, Taken, Translator
from pki import authority
from pki.authority import Authority
from pki.profile import issue_device
from schemas import codec, events
from schemas.commands import (
    Command,
    DropCertificate,
    InstallCertificate,
    InstallUpdate,
    RefuseCertificate,
    RefuseRenewal,
    RotateCertificate,
)
from schemas.decisions import DeadLetter
from schemas.envelope import Evidence
from schemas.reasons import Reason
from tests.bridges.test_inbound import SECRET, record, stamped

NAME, NOW = "pump-1", datetime.now(UTC).replace(microsecond=0)
NOW_MS = int(NOW.timestamp() * 1_000)
HOUR_MS = 3_600_000
LATE = 2**60
COMMANDS: list[Command] = [
    RotateCertificate("c-1", NAME, 1, 0, LATE, b"nonce"),
    InstallCertificate("c-2", NAME, 2, 0, LATE, b"der"),
    DropCertificate("c-3", NAME, 3, 0, LATE, b"f" * 32),
    InstallUpdate("c-4", NAME, 4, 0, LATE, "firmware", "f", "1", "https://x/", 1, b"", b"", ""),
    RefuseCertificate("c-5", NAME, 5, 0, b"f" * 32),
    RefuseRenewal("c-6", NAME, 6, 0, b"f" * 32, "expired", ""),
]


def certificate(maker: Authority, device_id: str = NAME) -> x509.Certificate:
    """Return what a maker gives its devices: valid from an hour ago for two hours."""
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    began, lifetime = NOW - timedelta(hours=1), timedelta(hours=2)
    der = issue_device(maker, device_id, key, f"made-{device_id}", began, lifetime)
    return x509.load_der_x509_certificate(der)


def der(one: x509.Certificate) -> bytes:
    """Return a certificate's DER."""
    return one.public_bytes(serialization.Encoding.DER)


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Somebody else's authority."""
    return authority.create(tmp_path_factory.mktemp("maker") / "pki", now=NOW - timedelta(days=2))


@pytest.fixture(scope="module")
def shown(maker: Authority) -> x509.Certificate:
    """The certificate of this file's newcomer."""
    return certificate(maker)


def said(
    data: bytes | str,
    *,
    event: str = "presented",
    fingerprint: str = "",
    name: str = NAME,
    at: int = NOW_MS,
    trusted: Sequence[x509.Certificate] = (),
    **more: Any,
) -> Taken:
    """Translate what the plugin says of a newcomer's session; `data` is a certificate."""
    text = data if isinstance(data, str) else base64.b64encode(data).decode()
    if not fingerprint and isinstance(data, bytes):
        digest = hashes.Hash(hashes.SHA256())
        digest.update(data)
        fingerprint = digest.finalize().hex()
    body = {"event": event, "newcomer": True, "certificate_der": text, **more}
    message = stamped(
        f"sessions/{name}", json.dumps(body).encode(), client=name, fingerprint=fingerprint
    )
    return Translator(SECRET, trusted).translate(
        message.topic, message.payload, message.content_type, message.properties, at
    )


def test_both_doors_tell_the_same(maker: Authority, shown: x509.Certificate, tmp_path: Any) -> None:
    """The record is the CoAP door's, but for its evidence: who came where, and when."""
    ca = tmp_path / "ca.pem"
    ca.write_bytes(maker.device.certificate.public_bytes(serialization.Encoding.PEM))
    ours = authority.create(tmp_path / "ours", now=NOW - timedelta(days=2)).device.certificate
    own = tmp_path / "own.pem"
    own.write_bytes(ours.public_bytes(serialization.Encoding.PEM))
    told: list[events.Keyed] = []
    sessions = Sessions(
        Door(own, provisioning_ca=ca), lambda _, one: told.append(one), lambda _: None
    )
    assert sessions.admit(der(shown), "10.0.0.1", lambda _: None) is not None
    (there,) = told
    found = said(der(shown), trusted=(maker.device.certificate,))
    here = record(found)
    assert isinstance(there, events.CertificatePresented)
    assert replace(here, evidence=there.evidence) == there
    fingerprint = shown.fingerprint(hashes.SHA256())
    assert here.evidence == Evidence(fingerprint, "10.0.0.1", "0" * 32, 7, "mqtt", NOW_MS)
    assert (found.key, found.tree, found.presented) == (NAME.encode(), NEWCOMERS, fingerprint.hex())


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("another name", Reason.WRONG_SUBJECT),
        ("a stranger's CA", Reason.FINGERPRINT_UNKNOWN),
        ("no CA here", Reason.JUST_IN_TIME_OFF),
        ("too late", Reason.EXPIRED),
        ("too early", Reason.CLOCK_OFF),
        ("for servers too", Reason.FINGERPRINT_UNKNOWN),
        ("not the session's", Reason.MALFORMED),
        ("no base64", Reason.MALFORMED),
        ("nothing", Reason.MALFORMED),
    ],
)
def test_each_refusal_has_its_reason(
    case: str, reason: Reason, maker: Authority, shown: x509.Certificate, tmp_path: Any
) -> None:
    """It is kept in a dead letter, counted, told to the newcomer; no event names the device."""
    options: dict[str, Any] = {"trusted": (maker.device.certificate,)}
    data: bytes | str = der(shown)
    match case:
        case "another name":
            options["name"] = "pump-2"
        case "a stranger's CA":
            other = authority.create(tmp_path / "other", now=NOW - timedelta(days=2))
            options["trusted"] = (other.device.certificate,)
        case "no CA here":
            options["trusted"] = ()
        case "too late":
            options["at"] = NOW_MS + 2 * HOUR_MS
        case "too early":
            options["at"] = NOW_MS - 2 * HOUR_MS
        case "for servers too":
            data = _for_servers_too(maker, shown)
        case "not the session's":
            options["fingerprint"] = "ab" * 32
        case "no base64":
            data, options["fingerprint"] = "?", "ab" * 32
        case "nothing":
            data, options["fingerprint"] = "", "ab" * 32
    found = said(data, **options)
    assert found.refused == reason
    assert isinstance(record(found), DeadLetter)
    assert (found.tree, found.device_id) == (NEWCOMERS, options.get("name", NAME))
    assert json.loads(outbound.refused(found)) == {"refused": reason.value, "message": 7}


def _for_servers_too(maker: Authority, like: x509.Certificate) -> bytes:
    """Return the certificate once more, good for servers as well: broader than it may be."""
    usage = x509.oid.ExtendedKeyUsageOID
    builder = x509.CertificateBuilder().subject_name(like.subject).issuer_name(like.issuer)
    builder = builder.public_key(like.public_key()).serial_number(7)
    builder = builder.not_valid_before(like.not_valid_before_utc)
    builder = builder.not_valid_after(like.not_valid_after_utc)
    for one in like.extensions:
        value: x509.ExtensionType = one.value
        if isinstance(value, x509.ExtendedKeyUsage):
            value = x509.ExtendedKeyUsage([usage.CLIENT_AUTH, usage.SERVER_AUTH])
        builder = builder.add_extension(value, one.critical)
    key: Any = maker.device.key
    return der(builder.sign(key, hashes.SHA256()))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_certificate_presents_nobody(
    data: st.DataObject, shown: x509.Certificate, maker: Authority
) -> None:
    """Whatever byte is changed, and even told as the session's own, no record comes of it."""
    whole = bytearray(der(shown))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    found = said(bytes(whole), trusted=(maker.device.certificate,))
    assert isinstance(record(found), DeadLetter)


@settings(max_examples=200, deadline=None)
@given(
    tail=st.lists(
        st.sampled_from(["events", "replies", "status", "commands", "x", "", "#"]), max_size=4
    ),
    payload=st.sampled_from(
        [b"{}", b'{"outcome": "done"}', b'{"boot": 1, "sequence": 2}', b"\xff"]
    ),
)
def test_a_newcomer_is_heard_of_nothing_but_answers(tail: list[str], payload: bytes) -> None:
    """Denied by default: an answer to a command, or a dead letter; and it is told of apart."""
    found = Translator(SECRET).translate(
        *_parts(stamped("/".join([NEWCOMERS, NAME, *tail]), payload))
    )
    made = record(found)
    assert isinstance(made, events.CommandAnswered | DeadLetter)
    assert isinstance(made, DeadLetter) or tail[:1] == ["replies"]
    assert (found.tree, found.device_id) == (NEWCOMERS, NAME)
    if tail[:1] not in (["replies"], []):
        assert found.refused == Reason.PROVISIONING_ONLY


def _parts(message: Any) -> tuple[str, bytes, str, list[tuple[str, str]], int]:
    return message.topic, message.payload, message.content_type, message.properties, 5


@pytest.mark.parametrize(
    ("event", "word", "reason", "hears"),
    [
        ("refused", "refused-certificate", Reason.CERTIFICATE_RETIRED, ""),
        ("refused", "too-many-newcomers", Reason.TOO_MANY_NEWCOMERS, ""),
        ("refused-message", "provisioning-only", Reason.PROVISIONING_ONLY, NAME),
        ("refused-message", "certificate-too-long", Reason.OVERSIZE, NAME),
        ("foreign-topic", "foreign-topic", Reason.FOREIGN_TOPIC, NAME),
    ],
)
def test_what_the_broker_refused_is_counted_and_no_event(
    event: str, word: str, reason: Reason, hears: str
) -> None:
    """The name in a maker's certificate is worth nothing, not even in a refusal."""
    found = said("", event=event, fingerprint="ab" * 32, reason=word)
    assert (found.value, found.refused, found.hint) == (None, reason, "")
    assert (found.device_id, found.tree) == (hears, NEWCOMERS)


def test_the_end_of_a_newcomers_session_is_an_event() -> None:
    """Who is away when it is approved is asked when it comes back."""
    found = said("", event="closed", fingerprint="ab" * 32, reason_code=0)
    assert isinstance(record(found), events.SessionClosed)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("newcomers", [False, True])
def test_only_an_enrolments_commands_go_down_to_newcomers(
    command: Command, newcomers: bool
) -> None:
    """The same words in both forms; nothing where nobody is let in."""
    made = outbound.messages(command, 1, newcomers=newcomers)
    apart = [one for one in made if one.topic.startswith(f"{NEWCOMERS}/")]
    usual = [one for one in made if one not in apart]
    assert [
        dataclasses.replace(one, topic=one.topic.replace(NEWCOMERS, DEVICES)) for one in apart
    ] == (
        usual if newcomers and isinstance(command, RotateCertificate | InstallCertificate) else []
    )
    assert usual == outbound.messages(command, 1)


def test_every_command_is_thought_of() -> None:
    """A new command is for devices alone, until somebody says otherwise here."""
    assert {type(one) for one in COMMANDS} == set(get_args(Command))


def test_a_newcomer_is_told_that_it_is_known(shown: x509.Certificate, maker: Authority) -> None:
    """By its certificate: it waits for its own."""
    found = said(der(shown), trusted=(maker.device.certificate,))
    assert found.value is not None
    codec.decode(found.value)
    assert json.loads(outbound.presented(found.presented)) == {
        "presented": shown.fingerprint(hashes.SHA256()).hex()
    }
