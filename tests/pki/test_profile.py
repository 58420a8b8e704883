"""The device certificate: its content, and that it comes out the same each time."""

import datetime
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from pki import facts, profile
from pki.authority import Authority
from tests.pki.conftest import LIFETIME, NOW

Make = Callable[..., Authority]
KEY = ec.generate_private_key(ec.SECP256R1())
KEYS: dict[str, Any] = {
    "P-256": KEY,
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
    "RSA-2048": rsa.generate_private_key(65537, 2048),
}


def _issue(made: Authority, device_id: str = "pump-17", key: Any = KEY, **changes: Any) -> bytes:
    options = {"request_id": "r1", "not_before": NOW, "lifetime": LIFETIME} | changes
    return profile.issue_device(made, device_id, key.public_key(), **options)


def test_the_same_request_gives_the_same_bytes(made: Authority) -> None:
    """Signing twice is signing once: the two certificates are identical."""
    assert _issue(made) == _issue(made)


def test_another_request_gives_another_serial(made: Authority) -> None:
    """The serial follows the request id, and whatever else the certificate says."""
    serials = {
        facts.facts(der).serial
        for der in (
            _issue(made),
            _issue(made, request_id="r2"),
            _issue(made, "pump-18"),
            _issue(made, key=KEYS["P-384"]),
            _issue(made, not_before=NOW + datetime.timedelta(seconds=1)),
        )
    }
    assert len(serials) == 5


@given(st.binary(min_size=32, max_size=32), st.text(max_size=80), st.binary(max_size=80))
def test_a_serial_is_positive_and_fits(secret: bytes, request_id: str, content: bytes) -> None:
    """Every serial is within 1 and 2^159 - 1 (RFC 5280 section 4.1.2.2)."""
    assert 0 < profile.serial(secret, request_id, content) < 1 << 159


def test_a_request_id_and_its_content_are_kept_apart(made: Authority) -> None:
    """Moving a character from the id to the content changes the serial."""
    secret = made.device.secret
    assert profile.serial(secret, "ab", b"c") != profile.serial(secret, "a", b"bc")


@pytest.mark.parametrize("name", KEYS)
def test_the_certificate_says_what_the_profile_says(made: Authority, name: str) -> None:
    """CN, SAN, usages and validity are the profile's, for every key type."""
    certificate = x509.load_der_x509_certificate(_issue(made, key=KEYS[name]))
    certificate.verify_directly_issued_by(made.device.certificate)
    assert facts.device_id(certificate.subject, certificate.extensions) == "pump-17"
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    key_usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert key_usage.critical
    assert key_usage.value.digital_signature
    assert not key_usage.value.key_cert_sign
    san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert not san.critical
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == LIFETIME


def test_the_facts_are_the_certificate_s(made: Authority) -> None:
    """Facts give fingerprint, serial and instants in milliseconds, from DER and from PEM."""
    der = _issue(made)
    read = facts.facts(der)
    certificate = x509.load_der_x509_certificate(der)
    assert int(read.serial, 16) == certificate.serial_number
    assert read.not_before_at == int(NOW.timestamp()) * 1000
    assert read.not_after_at - read.not_before_at == LIFETIME.total_seconds() * 1000
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    assert facts.facts(pem) == read


@given(st.binary(max_size=300))
def test_garbage_has_no_facts(data: bytes) -> None:
    """Bytes that are no certificate raise MalformedCertificate and nothing else."""
    with pytest.raises(facts.MalformedCertificate):
        facts.facts(data)


def test_no_certificate_outlives_its_ca(made: Authority) -> None:
    """NotAfter ends with the CA's own."""
    end = made.device.certificate.not_valid_after_utc
    der = _issue(made, not_before=end - datetime.timedelta(days=1))
    assert x509.load_der_x509_certificate(der).not_valid_after_utc == end


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device_id": ""}, "no device id"),
        ({"device_id": "a/b"}, "no device id"),
        ({"device_id": "x" * 65}, "no device id"),
        ({"key": rsa.generate_private_key(65537, 1024)}, "RSA-1024"),
        ({"key": ec.generate_private_key(ec.SECP521R1())}, "P-521"),
        ({"lifetime": datetime.timedelta(0)}, "lifetime"),
        ({"lifetime": datetime.timedelta(days=-1)}, "lifetime"),
    ],
)
def test_what_the_profile_cannot_say_is_refused(
    made: Authority, changes: dict[str, Any], message: str
) -> None:
    """Bad ids, weak keys and empty lifetimes are not issued."""
    with pytest.raises(profile.NotIssuable, match=message):
        _issue(made, **changes)


def _openssl_verifies(
    made: Authority, folder: Path, leaf: x509.Certificate, purpose: str = "sslclient"
) -> subprocess.CompletedProcess[str]:
    (folder / "leaf.pem").write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    return subprocess.run(
        ["openssl", "verify", "-attime", str(int(NOW.timestamp()) + 60), "-purpose", purpose,
         "-CAfile", str(made.directory / "device-ca" / "bundle.pem"), str(folder / "leaf.pem")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


AWKWARD_IDS = [
    "pump-17", "a_b", "pump.17", "plant.example.com", "10.0.0.1", "a..b", "0.-_", "x" * 64,
    "a." * 32,
]  # fmt: skip


@pytest.mark.parametrize("device_id", AWKWARD_IDS)
def test_openssl_accepts_every_device_id(made: Authority, tmp_path: Path, device_id: str) -> None:
    """Whatever id can be registered can be issued, and OpenSSL verifies its chain."""
    leaf = x509.load_der_x509_certificate(_issue(made, device_id))
    ran = _openssl_verifies(made, tmp_path, leaf)
    assert ran.returncode == 0, ran.stderr


def test_under_dns_exclusion_openssl_reads_a_dotted_id_as_a_dns_name(
    new_authority: Make, tmp_path: Path
) -> None:
    """Why `exclude_dns` is no default: OpenSSL refuses such a certificate, so it is not issued."""
    made = new_authority(exclude_dns=True)
    with pytest.raises(profile.NotIssuable, match="has a dot"):
        _issue(made, "pump.17")
    unconstrained = replace(made.device, certificate=new_authority("other").device.certificate)
    leaf = x509.load_der_x509_certificate(
        profile.issue_device(unconstrained, "pump.17", KEY.public_key(), "r", NOW, LIFETIME)
    )
    ran = _openssl_verifies(made, tmp_path, leaf)
    assert "excluded subtree violation" in ran.stderr + ran.stdout
    assert _openssl_verifies(
        made, tmp_path, x509.load_der_x509_certificate(_issue(made, "pump-17"))
    ).returncode == 0  # fmt: skip


def test_openssl_refuses_a_server_under_the_device_ca(made: Authority, tmp_path: Path) -> None:
    """Even the device CA's own key makes no server certificate that OpenSSL accepts."""
    honest = x509.load_der_x509_certificate(_issue(made))
    builder = (
        x509.CertificateBuilder(issuer_name=made.device.certificate.subject)
        .subject_name(x509.Name([]))
        .public_key(KEY.public_key())
        .serial_number(7)
        .not_valid_before(honest.not_valid_before_utc)
        .not_valid_after(honest.not_valid_after_utc)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("broker.test")]), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
    ran = _openssl_verifies(
        made, tmp_path, builder.sign(made.device.key, hashes.SHA256()), "sslserver"
    )
    assert ran.returncode != 0
    assert "purpose" in ran.stderr + ran.stdout
