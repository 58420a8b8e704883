"""What a certificate says, as plain data for the language.

Rules of this file: instants are milliseconds since 1970-01-01T00:00:00Z; a serial is lower-case
hexadecimal without leading zeros; the device id is named by CN and SAN alike or not at all.
"""

import datetime
import hashlib

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from pki import keys
from schemas.envelope import URN_PREFIX, is_device_id
from schemas.events import CertificateFacts

CERTIFICATE_BYTES_MAX = 16_384
"""The largest certificate read, in bytes; a device certificate of ours has about 600."""

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class MalformedCertificate(ValueError):
    """The bytes are no X.509 certificate that we can read. The message says why."""


def load_certificate(data: bytes) -> x509.Certificate:
    """Return the certificate, DER or PEM, with its key and extensions proven readable.

    Raises MalformedCertificate for anything else, oversize and unsupported keys included.
    """
    if len(data) > CERTIFICATE_BYTES_MAX:
        raise MalformedCertificate(f"{len(data)} bytes, the limit is {CERTIFICATE_BYTES_MAX}")
    pem = data.lstrip().startswith(b"-----BEGIN")
    try:
        load = x509.load_pem_x509_certificate if pem else x509.load_der_x509_certificate
        certificate = load(data)
        _touch(certificate)
    except Exception as error:  # the parser raises many kinds on garbage; all mean the same
        raise MalformedCertificate(f"{type(error).__name__}: {error}"[:200]) from error
    # Of a signature that ends in a zero bit the last bit may be called unused: it verifies all the
    # same, and the certificate would have a second fingerprint.
    der = certificate.public_bytes(serialization.Encoding.DER)
    if not der.endswith(b"\0" + certificate.signature):
        raise MalformedCertificate("the signature is not of whole bytes")
    return certificate


def _touch(certificate: x509.Certificate) -> None:
    """Read every lazily parsed part, so that nothing raises later."""
    _ = (certificate.version, certificate.serial_number, certificate.extensions)
    _ = (certificate.subject, certificate.issuer, certificate.signature_algorithm_oid)
    _ = (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
    keys.spki_sha256(certificate.public_key())


def facts(data: bytes) -> CertificateFacts:
    """Return what the certificate, DER or PEM, says. Raises MalformedCertificate (a ValueError)."""
    return facts_of(load_certificate(data))


def facts_of(certificate: x509.Certificate) -> CertificateFacts:
    """Return what a certificate that was loaded says."""
    der = certificate.public_bytes(serialization.Encoding.DER)
    return CertificateFacts(
        fingerprint=hashlib.sha256(der).digest(),
        spki_sha256=keys.spki_sha256(certificate.public_key()),
        serial=serial_text(certificate.serial_number),
        not_before_at=milliseconds(certificate.not_valid_before_utc),
        not_after_at=milliseconds(certificate.not_valid_after_utc),
        der=der,
    )


def device_id(subject: x509.Name, extensions: x509.Extensions) -> str:
    """Return the device that CN and SAN name alike, or "" where they do not.

    The SAN must hold exactly one name, the URI `urn:fleetcert:device:<id>`, and the subject
    exactly one attribute, CN=<id>: a second name of any kind would be a second identity.
    """
    attributes = list(subject)
    if len(attributes) != 1 or attributes[0].oid != NameOID.COMMON_NAME:
        return ""
    try:
        names = list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return ""
    named = str(attributes[0].value)
    if not is_device_id(named):
        return ""
    return named if names == [x509.UniformResourceIdentifier(URN_PREFIX + named)] else ""


def serial_text(serial: int) -> str:
    """Return the serial as the language writes it."""
    return format(serial, "x")


def milliseconds(instant: datetime.datetime) -> int:
    """Return an aware instant as milliseconds since the epoch."""
    return (instant - EPOCH) // datetime.timedelta(milliseconds=1)


def instant(at: int) -> datetime.datetime:
    """Return milliseconds since the epoch as an aware instant, cut to the whole second.

    RFC 5280 section 4.1.2.5: certificates carry no fractions. Raises OverflowError beyond 9999.
    """
    return EPOCH + datetime.timedelta(seconds=at // 1000)
