"""Is this a certificate of a device of ours, now? A layer over cryptography's ClientVerifier.

Rules of this file: a device certificate is issued directly by an anchor (the device CA has path
length 0). The library checks signature, validity, criticality and name constraints (RFC 5280
section 6); it knows no revocation list, and accepts a leaf without EKU and weak keys: we add those
and the SAN rule. A refusal is a Verdict, never an exception.
"""

import datetime
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from pki import facts, keys
from schemas.reasons import Reason

T = TypeVar("T", bound=x509.ExtensionType)
Objection = tuple[Reason, str] | None

REGISTRATION_AUTHORITY = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.28")
"""id-kp-cmcRA: RFC 6402 section 2.10; RFC 7030 section 3.6.1 knows EST servers by it."""
REGISTRAR = x509.ObjectIdentifier("2.25.204559886141998983018034291657984669374")
"""Ours: who orders first certificates. UUIDv5 of the URL namespace and urn:fleetcert:registrar,
as an OID without registration (ITU-T X.667)."""
NO_GRACE = datetime.timedelta(0)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a certificate: `reason` is NONE where it is accepted, else why not."""

    reason: Reason
    detail: str
    device_id: str

    @property
    def accepted(self) -> bool:
        """Tell whether the certificate is a valid one of a device of ours."""
        return self.reason is Reason.NONE


def validate_device(
    der: bytes,
    anchors: bytes | Sequence[x509.Certificate],
    now: datetime.datetime,
    refused_serials: Container[int] = frozenset(),
    grace: datetime.timedelta = NO_GRACE,
) -> Verdict:
    """Judge a device certificate at the instant `now`.

    `anchors` are the device CA certificates, parsed or as one PEM text; `refused_serials` those on
    their revocation lists; `grace` is how long after its end a certificate still counts (the
    renewal door). Raises ValueError only for anchors that are no PEM.
    """
    if isinstance(anchors, bytes):
        anchors = x509.load_pem_x509_certificates(anchors)
    try:
        leaf = facts.load_certificate(der)
    except facts.MalformedCertificate as error:
        return Verdict(Reason.MALFORMED, str(error), "")
    named = facts.device_id(leaf.subject, leaf.extensions)
    usable = [one for one in anchors if _covers(one, now)]
    checks: tuple[Callable[[], Objection], ...] = (
        lambda: _key(leaf),
        lambda: _time(leaf, now, grace),
        lambda: _path(leaf, usable, min(now, leaf.not_valid_after_utc)),
        lambda: _usage(leaf),
        lambda: None if named else (Reason.WRONG_SUBJECT, "CN and SAN do not name one device"),
        lambda: _revoked(leaf, refused_serials),
    )
    for check in checks:
        objection = check()
        if objection is not None:
            return Verdict(*objection, named)
    return Verdict(Reason.NONE, "", named)


def is_registration_authority(
    leaf: x509.Certificate, anchors: Sequence[x509.Certificate], now: datetime.datetime
) -> bool:
    """Tell whether this is a door whose word about a device's session is taken (EST).

    Marked as a registration authority: id-kp-cmcRA of RFC 6402 section 2.10.
    """
    return is_service(leaf, REGISTRATION_AUTHORITY, anchors, now)


def is_service(
    leaf: x509.Certificate,
    mark: x509.ObjectIdentifier,
    anchors: Sequence[x509.Certificate],
    now: datetime.datetime,
) -> bool:
    """Tell whether this is a service with the mark, an extended key usage.

    Issued directly by an anchor (the service CA), valid now, for signatures, and no CA.
    """
    usage, extended = _extension(leaf, x509.KeyUsage), _extension(leaf, x509.ExtendedKeyUsage)
    constraints = _extension(leaf, x509.BasicConstraints)
    if usage is None or not usage.digital_signature or usage.key_cert_sign:
        return False
    if extended is None or mark not in extended:
        return False
    if constraints is not None and constraints.ca:
        return False
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        return False
    return any(_covers(one, now) and _issued_by(leaf, one) for one in anchors)


def _issued_by(leaf: x509.Certificate, anchor: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(anchor)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _key(leaf: x509.Certificate) -> Objection:
    key = leaf.public_key()
    return None if keys.accepted(key) else (Reason.WEAK_KEY, f"the key is {keys.name(key)}")


def _time(leaf: x509.Certificate, now: datetime.datetime, grace: datetime.timedelta) -> Objection:
    if now < leaf.not_valid_before_utc:
        return Reason.CLOCK_OFF, f"not valid before {leaf.not_valid_before_utc.isoformat()}"
    if now - leaf.not_valid_after_utc > grace:
        return Reason.EXPIRED, f"valid until {leaf.not_valid_after_utc.isoformat()}"
    return None


def _path(
    leaf: x509.Certificate, anchors: list[x509.Certificate], at: datetime.datetime
) -> Objection:
    if not anchors:
        return Reason.FINGERPRINT_UNKNOWN, "no device CA is valid at this instant"
    verifier = (
        verification.PolicyBuilder()
        .store(verification.Store(anchors))
        .time(at)
        .max_chain_depth(0)
        .build_client_verifier()
    )
    try:
        verifier.verify(leaf, [])
    except verification.VerificationError as error:
        return Reason.FINGERPRINT_UNKNOWN, str(error)[:200]
    return None


def _usage(leaf: x509.Certificate) -> Objection:
    """RFC 5280 sections 4.2.1.12, 4.2.1.3 and 4.2.1.9: a client, a signer, and no CA."""
    extended = _extension(leaf, x509.ExtendedKeyUsage)
    if extended is None or list(extended) != [ExtendedKeyUsageOID.CLIENT_AUTH]:
        return Reason.FINGERPRINT_UNKNOWN, "the extended key usage is not clientAuth alone"
    usage = _extension(leaf, x509.KeyUsage)
    if usage is None or not usage.digital_signature or usage.key_cert_sign or usage.crl_sign:
        return Reason.FINGERPRINT_UNKNOWN, "the key usage is not digitalSignature"
    constraints = _extension(leaf, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        return Reason.FINGERPRINT_UNKNOWN, "a CA is not a device"
    return None


def _revoked(leaf: x509.Certificate, refused: Container[int]) -> Objection:
    if leaf.serial_number in refused:
        return Reason.CERTIFICATE_RETIRED, "the certificate is on the revocation list"
    return None


def _covers(anchor: x509.Certificate, now: datetime.datetime) -> bool:
    return anchor.not_valid_before_utc <= now <= anchor.not_valid_after_utc


def _extension(leaf: x509.Certificate, kind: type[T]) -> T | None:
    try:
        return leaf.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
