"""What a certificate or key says, as plain data for the history."""

import hashlib

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from schemas.envelope import URN_PREFIX
from schemas.events import CertificateFacts

RSA_BITS_MIN = 2048
CURVES = ("P-256", "P-384")
_CURVE_NAMES = {"secp256r1": "P-256", "secp384r1": "P-384"}


def certificate_from(data: bytes) -> x509.Certificate:
    """Return the certificate that PEM or DER bytes hold. Raises ValueError."""
    if data.lstrip().startswith(b"-----BEGIN"):
        return x509.load_pem_x509_certificate(data)
    return x509.load_der_x509_certificate(data)


def facts(data: bytes) -> CertificateFacts:
    """Return what a PEM or DER certificate says. Raises ValueError for anything else."""
    one = certificate_from(data)
    der = one.public_bytes(serialization.Encoding.DER)
    return CertificateFacts(
        fingerprint=hashlib.sha256(der).digest(),
        spki_sha256=spki_sha256(one.public_key()),
        serial=f"{one.serial_number:x}",
        not_before_at=int(one.not_valid_before_utc.timestamp() * 1000),
        not_after_at=int(one.not_valid_after_utc.timestamp() * 1000),
        der=der,
    )


def spki_sha256(key: object) -> bytes:
    """Return the SHA-256 of a public key's SubjectPublicKeyInfo."""
    spki = key.public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).digest()


def key_name(key: object) -> str:
    """Name a public key: `P-256`, `Ed25519`, `RSA-2048`."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return _CURVE_NAMES.get(key.curve.name, key.curve.name)
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "Ed25519"
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA-{key.key_size}"
    return type(key).__name__


def key_accepted(key: object) -> bool:
    """Tell whether the key policy accepts it: P-256, P-384, Ed25519, RSA of 2048 bits and more."""
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size >= RSA_BITS_MIN
    return key_name(key) in (*CURVES, "Ed25519")


def subject_of(one: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """Return the device id that both the CN and the SAN URI name; empty where they do not agree.

    A request may leave the SAN away; a certificate may not.
    """
    names = one.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1:
        return ""
    common_name = str(names[0].value)
    try:
        san = one.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return common_name if isinstance(one, x509.CertificateSigningRequest) else ""
    expected = [x509.UniformResourceIdentifier(URN_PREFIX + common_name)]
    return common_name if list(san) == expected else ""
