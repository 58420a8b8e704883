"""The other certificate that a signature makes."""

import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from pki import facts, path, twins
from pki.authority import Authority
from pki.profile import issue_device
from tests.pki.conftest import LIFETIME, NOW, World


def _twin(der: bytes, ca: x509.Certificate) -> bytes:
    key = ca.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return twins.twin(facts.load_certificate(der), key)


def test_the_twin_is_as_good_and_has_another_fingerprint(made: Authority, world: World) -> None:
    """That is why both are refused: it is accepted wherever the certificate itself is."""
    der, (anchor,) = world.current, made.device.anchors
    other = _twin(der, anchor)
    assert other != der
    assert path.validate_device(other, made.device.anchors, NOW).accepted
    both = {hashlib.sha256(one).digest() for one in (der, other)}
    assert twins.fingerprints(der, made.device.anchors) == both
    assert twins.fingerprints(other, made.device.anchors) == both


def test_the_twins_twin_is_the_certificate(made: Authority) -> None:
    """Signatures differ in length: s and n - s are written in as few bytes as they take."""
    (anchor,) = made.device.anchors
    lengths = set()
    for number in range(30):
        key = ec.generate_private_key(ec.SECP256R1()).public_key()
        der = issue_device(made, "pump-17", key, f"request-{number}", NOW, LIFETIME)
        other = _twin(der, anchor)
        lengths.add(len(other) - len(der))
        assert _twin(other, anchor) == der
    assert len(lengths) > 1


def test_a_signature_of_another_kind_has_no_twin() -> None:
    """Ed25519 (RFC 8032) takes s below the order only."""
    key = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "pump-17")])
    one = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW)
        .sign(key, None)
    )
    der = facts.facts_of(one).der
    assert twins.fingerprints(der, [one]) == {one.fingerprint(hashes.SHA256())}


@given(st.binary(max_size=400))
def test_garbage_is_malformed(data: bytes) -> None:
    """As everywhere."""
    with pytest.raises(facts.MalformedCertificate):
        twins.fingerprints(data, [])
