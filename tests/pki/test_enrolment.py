"""A device's first certificate, from its CSR."""

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from device import provision
from device.store import Store
from pki import authority, enrolment
from pki.profile import NotIssuable
from tests.pki.conftest import NOW

LIFETIME = timedelta(days=90)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> authority.Authority:
    """Return a fresh authority."""
    return authority.create(tmp_path_factory.mktemp("pki") / "pki", now=NOW)


def test_the_agents_request_is_signed_and_adopted(
    made: authority.Authority, tmp_path: Path
) -> None:
    """What `python -m device init` asks for comes back as what the device installs."""
    request = provision.write_request("pump-7", tmp_path).read_bytes()
    device_id, pem = enrolment.sign(made, request, NOW, LIFETIME)
    certificate = x509.load_pem_x509_certificate(pem)
    assert device_id == "pump-7"
    certificate.verify_directly_issued_by(made.device.certificate)
    assert provision.adopt("pump-7", tmp_path, certificate).fingerprint
    assert Store(tmp_path).identities()


def test_the_same_request_gives_the_same_certificate(
    made: authority.Authority, tmp_path: Path
) -> None:
    """Signing twice by mistake makes no second certificate."""
    request = provision.write_request("pump-7", tmp_path).read_bytes()
    assert enrolment.sign(made, request, NOW, LIFETIME) == enrolment.sign(
        made, request, NOW, LIFETIME
    )


def test_a_request_without_the_san_is_refused(made: authority.Authority) -> None:
    """A CN alone names no device."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pump-7")])
    csr = x509.CertificateSigningRequestBuilder(name).sign(key, hashes.SHA256())
    pem = csr.public_bytes(serialization.Encoding.PEM)
    with pytest.raises(NotIssuable, match="must name one device alike"):
        enrolment.sign(made, pem, NOW, LIFETIME)


def test_a_weak_key_is_refused(made: authority.Authority) -> None:
    """RSA of 1024 bits is named in the refusal."""
    key = rsa.generate_private_key(65537, 1024)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pump-7")])
    csr = x509.CertificateSigningRequestBuilder(name).sign(key, hashes.SHA256())
    with pytest.raises(NotIssuable, match="RSA-1024"):
        enrolment.sign(made, csr.public_bytes(serialization.Encoding.DER), NOW, LIFETIME)


@pytest.mark.parametrize("flip", [0, 10, 40, -1])
def test_a_damaged_request_is_refused(made: authority.Authority, tmp_path: Path, flip: int) -> None:
    """A byte changed anywhere, and there is no certificate."""
    csr = x509.load_pem_x509_csr(provision.write_request("pump-7", tmp_path).read_bytes())
    der = bytearray(csr.public_bytes(serialization.Encoding.DER))
    der[flip] ^= 0x01
    with pytest.raises(NotIssuable):
        enrolment.sign(made, bytes(der), NOW, LIFETIME)


def test_an_oversize_request_is_refused(made: authority.Authority) -> None:
    """Bytes beyond the limit are not even parsed."""
    with pytest.raises(NotIssuable, match="limit"):
        enrolment.sign(made, b"0" * (enrolment.CSR_BYTES_MAX + 1), NOW, LIFETIME)
