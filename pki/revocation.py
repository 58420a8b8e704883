"""The revocation list of the device CA (RFC 5280 section 5): made, written, read.

Rules of this file: a list is a function of its entries, number and instants, byte for byte; one
number never names two lists, and a file is never replaced by a list with a lower number.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pki import private
from pki.authority import DeviceCA
from pki.facts import instant, milliseconds
from schemas.reasons import Reason

FILE = "device.crl"
"""The list's name in `device-ca/`: PEM, as mosquitto and OpenSSL read it."""
FILE_MODE = 0o644
"""The list is public."""

SERIAL_MAX = (1 << 160) - 1
"""RFC 5280 section 4.1.2.2: at most 20 octets."""

REASON_FLAGS: dict[str, x509.ReasonFlags] = {
    Reason.CERTIFICATE_RETIRED: x509.ReasonFlags.superseded,
    Reason.DEVICE_BLOCKED: x509.ReasonFlags.privilege_withdrawn,
    Reason.DEVICE_RETIRED: x509.ReasonFlags.cessation_of_operation,
}
"""RFC 5280 section 5.3.1; all others leave the extension out, as it wants for unspecified."""


class MalformedList(ValueError):
    """The bytes are no revocation list of the CA. The message says why."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """One certificate on the list; `number` is that of the first list that holds it."""

    serial: int
    fingerprint: bytes
    revoked_at: int
    not_after_at: int
    reason: str
    number: int


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A list as read: number, instants in milliseconds, and when each serial was revoked."""

    number: int
    this_update_at: int
    next_update_at: int
    revoked: dict[int, int]


def build(
    ca: DeviceCA,
    entries: Iterable[Revocation],
    number: int,
    this_update_at: int,
    next_update_at: int,
) -> bytes:
    """Return the list in PEM, numbered and signed by the device CA (RFC 5280 section 5.1)."""
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key())
    builder = (
        x509.CertificateRevocationListBuilder(
            # the public way copies the list per entry: quadratic
            revoked_certificates=[_entry(one) for one in entries]
        )
        .issuer_name(ca.certificate.subject)
        .last_update(instant(this_update_at))
        .next_update(instant(next_update_at))
        .add_extension(issuer, critical=False)
        .add_extension(x509.CRLNumber(number), critical=False)
    )
    signed = builder.sign(ca.key, hashes.SHA256(), ecdsa_deterministic=True)
    return signed.public_bytes(serialization.Encoding.PEM)


def parse(pem: bytes, issuer: x509.Certificate) -> RevocationList:
    """Return what a list of this issuer says. Raises MalformedList, also for a foreign one."""
    try:
        read = x509.load_pem_x509_crl(pem)
        number = read.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        until = read.next_update_utc
        revoked = {one.serial_number: milliseconds(one.revocation_date_utc) for one in read}
        key = issuer.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        ours = read.issuer == issuer.subject and read.is_signature_valid(key)
    except (ValueError, TypeError, x509.ExtensionNotFound) as error:
        raise MalformedList(f"{type(error).__name__}: {error}"[:200]) from error
    if not ours:
        raise MalformedList("the list is not signed by this CA")
    if until is None:
        raise MalformedList("the list has no nextUpdate")
    return RevocationList(number, milliseconds(read.last_update_utc), milliseconds(until), revoked)


def write(folder: Path, pem: bytes, issuer: x509.Certificate) -> bool:
    """Write the list as `device.crl`, atomically; tell whether it replaced what was there.

    A file whose number is as high or higher stays: it was written by an issuer further on.
    """
    number = parse(pem, issuer).number
    path = folder / FILE
    try:
        if parse(path.read_bytes(), issuer).number >= number:
            return False
    except (FileNotFoundError, MalformedList):
        pass
    private.write(path, pem, FILE_MODE)
    return True


@dataclass(frozen=True, slots=True)
class Mark:
    """Which file stands under the list's name: it changes with every replacement."""

    inode: int
    changed_ns: int
    size: int


def mark(folder: Path) -> Mark | None:
    """Return the mark of the list's file, None where there is none."""
    try:
        found = (folder / FILE).stat()
    except FileNotFoundError:
        return None
    return Mark(found.st_ino, found.st_mtime_ns, found.st_size)


def serial_number(text: str) -> int | None:
    """Return the serial that the language writes as hexadecimal, None where it is none."""
    try:
        serial = int(text, 16)
    except ValueError:
        return None
    return serial if 0 < serial <= SERIAL_MAX else None


def _entry(revocation: Revocation) -> x509.RevokedCertificate:
    builder = (
        x509.RevokedCertificateBuilder()
        .serial_number(revocation.serial)
        .revocation_date(instant(revocation.revoked_at))
    )
    flag = REASON_FLAGS.get(revocation.reason)
    if flag is not None:
        builder = builder.add_extension(x509.CRLReason(flag), critical=False)
    return builder.build()
