"""The revocation list of the device CA (RFC 5280 section 5): numbered, written whole."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from pki.authority import Signer

NEXT_UPDATE = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Revoked:
    """One entry; `serial` is hexadecimal, instants are milliseconds."""

    serial: str
    revoked_at: int
    not_after_at: int


def build(signer: Signer, entries: Iterable[Revoked], number: int, now: datetime) -> bytes:
    """Return the list (DER). Entries of expired certificates are left out."""
    issuer_ski = signer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(signer.certificate.subject)
        .last_update(now)
        .next_update(now + NEXT_UPDATE)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_ski.value),
            critical=False,
        )
    )
    for one in entries:
        if one.not_after_at > now.timestamp() * 1000:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(int(one.serial, 16))
                .revocation_date(datetime.fromtimestamp(one.revoked_at / 1000, UTC))
                .add_extension(x509.CRLReason(x509.ReasonFlags.superseded), critical=False)
                .build()
            )
    crl = builder.sign(signer.key, hashes.SHA256(), ecdsa_deterministic=True)
    return crl.public_bytes(serialization.Encoding.DER)


def serials(crl: bytes) -> set[str]:
    """Return the serials (hexadecimal) on a list. Raises ValueError."""
    return {f"{one.serial_number:x}" for one in x509.load_der_x509_crl(crl)}


def number(crl: bytes) -> int:
    """Return the list's number. Raises ValueError."""
    found = x509.load_der_x509_crl(crl).extensions.get_extension_for_class(x509.CRLNumber)
    return found.value.crl_number
