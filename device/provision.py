"""First identities: key and CSR on the device, and certificates for simulated fleets.

Rules of this file: keys are made on the device. `issue` is for demonstrations, simulators and
tests with a device CA at hand; the fleet's own certificates come from the issuer (pki).
"""

import datetime
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from device import durable
from device.door import HttpsDoor
from device.store import Identity, Store
from pki.authority import key_usage
from schemas.envelope import URN_PREFIX, is_device_id

ENROLMENT = "enrolment"
"""The pending key of a device that has no certificate yet waits under this name."""

BACKDATE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class DeviceCa:
    """A certificate authority for devices, key in memory."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def load_ca(certificate_file: Path, key_file: Path) -> DeviceCa:
    """Load an authority from two PEM files, the elliptic-curve key unencrypted."""
    key = serialization.load_pem_private_key(key_file.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{key_file} holds no elliptic-curve key")
    return DeviceCa(x509.load_pem_x509_certificate(certificate_file.read_bytes()), key)


def enrolment_request(device_id: str, store: Store) -> bytes:
    """Return the CSR (PEM) of a device without certificate; its key is made once and kept.

    Raises ValueError when the id cannot name a device.
    """
    if not is_device_id(device_id):
        raise ValueError(f"device id {device_id!r}: letters, digits, '.', '_', '-', at most 64")
    key = store.pending_key(ENROLMENT)
    builder = x509.CertificateSigningRequestBuilder().subject_name(_name(device_id))
    builder = builder.add_extension(_san(device_id), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def enrol(device_id: str, directory: Path, door: HttpsDoor, token: str) -> Identity:
    """Get an invited device's first certificate from a door of EST and make it current.

    Its key is made once, so that a lost answer is asked for again; a device that holds a
    certificate is left as it is. Raises Later, Denied, InstallRefused.
    """
    store = Store(directory)
    if store.identities():
        return store.current()
    request = x509.load_pem_x509_csr(enrolment_request(device_id, store))
    der = door.enrol(device_id, token, request.public_bytes(serialization.Encoding.DER))
    return adopt(device_id, directory, x509.load_der_x509_certificate(der))


def write_request(device_id: str, directory: Path) -> Path:
    """Write the enrolment CSR into a device's directory and return the file."""
    request = enrolment_request(device_id, Store(directory))
    path = directory / "device.csr"
    durable.write(path, request)
    return path


def adopt(
    device_id: str, directory: Path, certificate: x509.Certificate, *, provisioning: bool = False
) -> Identity:
    """Install the first certificate of a device and make it current. Raises InstallRefused.

    With `provisioning` it is the maker's: the device enrols with it, and does nothing else.
    """
    store = Store(directory)
    der = certificate.public_bytes(serialization.Encoding.DER)
    identity = store.install(der, device_id, provisioning=provisioning)
    store.settle(identity.fingerprint)
    return identity


def issue(
    ca: DeviceCa, device_id: str, public_key: CertificatePublicKeyTypes, seconds: int
) -> x509.Certificate:
    """Issue a device certificate that is valid for `seconds` from now."""
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(_name(device_id))
        .issuer_name(ca.certificate.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(seconds=BACKDATE_SECONDS))
        .not_valid_after(now + datetime.timedelta(seconds=seconds))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(issuer_key, critical=False)
        .add_extension(key_usage(digital_signature=True), critical=True)
        .add_extension(_san(device_id), critical=False)
        .add_extension(usage, critical=False)
        .sign(ca.key, hashes.SHA256())
    )


def provision(ca: DeviceCa, device_id: str, directory: Path, seconds: int) -> Identity:
    """Give a simulated device its first identity, unless it has one."""
    store = Store(directory)
    held = store.identities()
    if held:
        return held[0]
    key = store.pending_key(ENROLMENT)
    return adopt(device_id, directory, issue(ca, device_id, key.public_key(), seconds))


def _name(device_id: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device_id)])


def _san(device_id: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(URN_PREFIX + device_id)])
