"""The signing request: round trip, verdicts, and garbage."""

import hashlib
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pki import cose, profile, requests
from tests.pki.conftest import LIFETIME, NOW, World

KEYS: dict[str, Any] = {
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
    "RSA-2048": rsa.generate_private_key(65537, 2048),
}
SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)


def _fingerprint(world: World) -> bytes:
    return hashlib.sha256(world.current).digest()


@pytest.mark.parametrize("current", KEYS)
@pytest.mark.parametrize("new", KEYS)
def test_an_honest_request_passes(world: World, current: str, new: str) -> None:
    """Every key type can sign for every other, and the verdicts name the new one."""
    der = profile.issue_device(
        world.authority, "pump-17", KEYS[current].public_key(), "c", NOW, LIFETIME
    )
    signed = requests.make_signing_request("pump-17", KEYS[new], KEYS[current], der, b"nonce")
    examined = requests.examine(signed, hashlib.sha256(der).digest())
    assert (examined.subject, examined.key, examined.nonce) == ("pump-17", new, b"nonce")
    assert examined.key_accepted
    assert examined.csr_signature_valid
    assert examined.request_signature_valid
    assert examined.current_certificate == der


def test_a_session_under_another_certificate_does_not_count(world: World) -> None:
    """The request's certificate must be the session's; an empty fingerprint is none."""
    for fingerprint in (bytes(32), b""):
        examined = requests.examine(world.request.signed_request, fingerprint)
        assert not examined.request_signature_valid
    assert requests.examine(world.request.signed_request, None).request_signature_valid


def test_a_signature_of_another_key_does_not_count(world: World) -> None:
    """Only the key of the certificate in the header can have signed."""
    signed = requests.make_signing_request(
        "pump-17", world.new_key, KEYS["P-256"], world.current, b"n"
    )
    assert not requests.examine(signed, _fingerprint(world)).request_signature_valid


def test_a_weak_new_key_is_told(world: World) -> None:
    """RSA of 1024 bits and P-521 are named, and not accepted."""
    for key, name in (
        (rsa.generate_private_key(65537, 1024), "RSA-1024"),
        (rsa.generate_private_key(3, 2048), "RSA-2048"),
        (ec.generate_private_key(ec.SECP521R1()), "P-521"),
    ):
        request = requests.make_signing_request(
            "pump-17", key, world.current_key, world.current, b"n"
        )
        examined = requests.examine(request, _fingerprint(world))
        assert (examined.key, examined.key_accepted) == (name, False)


def _repacked(world: World, **changes: Any) -> bytes:
    """The honest message with parts replaced, signed anew by the current key."""
    parsed = cose.parse(world.request.signed_request)
    headers = changes.get("headers", {cose.ALG: cose.ES256, cose.X5CHAIN: world.current})
    protected = changes.get("protected", cbor2.dumps(headers))
    payload = changes.get("payload", parsed.payload)
    structure = cbor2.dumps(["Signature1", protected, b"", payload])
    signature = changes.get("signature", cose._sign(cose.ES256, world.current_key, structure))
    body = [protected, changes.get("unprotected", {}), payload, signature]
    return cbor2.dumps(cbor2.CBORTag(changes.get("tag", 18), body)) + changes.get("after", b"")


def test_the_repacked_message_is_the_honest_one(world: World) -> None:
    """The helper of the next test changes nothing by itself."""
    assert requests.examine(_repacked(world), _fingerprint(world)).request_signature_valid


@pytest.mark.parametrize(
    "changes",
    [
        {"tag": 98},
        {"after": b"\x00"},
        {"unprotected": {1: -7}},
        {"headers": {}},
        {"headers": {1: -7}},
        {"headers": {1: -257, 33: b"x"}},
        {"headers": {1: True, 33: b"x"}},
        {"headers": {1: -7, 33: b"x", 2: [33]}},
        {"headers": {1: -7, 33: []}},
        {"headers": {1: -7, 33: [b"x"] * 5}},
        {"headers": {1: -7, 33: b"not DER"}},
        {"protected": bytes.fromhex("a2012601183321")},
        {"payload": b""},
        {"payload": cbor2.dumps({1: b"x"})},
        {"payload": cbor2.dumps({1: b"x", 2: b"n" * 65})},
        {"payload": cbor2.dumps({1: b"no CSR", 2: b"n"})},
        {"payload": cbor2.dumps({1: cbor2.CBORTag(35, "(a*)*b"), 2: b"n"})},
        {"payload": bytes.fromhex("bf01410002410 0ff".replace(" ", ""))},
        {"payload": b"\x81" * 1000 + b"\x00"},
    ],
)
def test_what_is_no_request_is_malformed(world: World, changes: dict[str, Any]) -> None:
    """Other tags, headers, labels, lengths and nestings raise MalformedRequest."""
    with pytest.raises(requests.MalformedRequest):
        requests.examine(_repacked(world, **changes), _fingerprint(world))


@pytest.mark.parametrize("crafted", [{1: {(-1, -2): 0}}, {1: [{"a": 0}]}, dict.fromkeys(range(24))])
def test_no_map_is_built_whose_keys_could_collide(crafted: Any) -> None:
    """Two thousand arrays as keys took 0.15 s, before any signature was looked at."""
    with pytest.raises(cose.Malformed):
        cose.decode(cbor2.dumps(crafted))


def test_a_signature_of_wrong_length_is_invalid_not_malformed(world: World) -> None:
    """ECDSA signatures have a fixed length (RFC 9053 section 2.1); others do not verify."""
    examined = requests.examine(_repacked(world, signature=b"\x01" * 63), _fingerprint(world))
    assert not examined.request_signature_valid


@SHARED
@given(st.binary(max_size=2000))
def test_random_bytes_are_malformed(data: bytes) -> None:
    """Random bytes raise MalformedRequest and nothing else."""
    with pytest.raises(requests.MalformedRequest):
        requests.examine(data, None)


@SHARED
@given(data=st.data())
def test_no_mutation_passes_or_breaks(world: World, data: st.DataObject) -> None:
    """A changed request is malformed or fails a verdict; nothing else is raised."""
    honest = world.request.signed_request
    changed = bytearray(honest)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert"])):
            case "flip":
                changed[at] ^= data.draw(st.integers(1, 255))
            case "cut":
                del changed[at]
            case _:
                changed.insert(at, data.draw(st.integers(0, 255)))
    if bytes(changed) == honest:
        return
    try:
        examined = requests.examine(bytes(changed), _fingerprint(world))
    except requests.MalformedRequest:
        return
    assert not (examined.request_signature_valid and examined.csr_signature_valid)
