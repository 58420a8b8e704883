"""Is this a device certificate of ours, now? cryptography's verifier and what it leaves to us.

Its ClientVerifier builds the path and checks validity, EKU, criticality and basic constraints; it
checks no revocation, accepts a leaf without EKU and weak keys, and knows no URI name constraints:
those are checked here.
"""

from collections.abc import Collection
from datetime import datetime

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from pki.facts import key_accepted, subject_of
from schemas.envelope import is_device_id
from schemas.reasons import Reason


def objection(
    der: bytes,
    authorities: Collection[x509.Certificate],
    now: datetime,
    revoked_serials: Collection[str] = (),
) -> Reason | None:
    """Return why the certificate is not accepted at `now`, None where it is."""
    try:
        leaf = x509.load_der_x509_certificate(der)
        subject, key = subject_of(leaf), leaf.public_key()
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return Reason.MALFORMED
    if not now < leaf.not_valid_after_utc:
        return Reason.EXPIRED
    if list(usage) != [ExtendedKeyUsageOID.CLIENT_AUTH]:
        return Reason.WRONG_SIGNATURE
    if not is_device_id(subject):
        return Reason.WRONG_SUBJECT
    if not key_accepted(key):
        return Reason.WEAK_KEY
    if f"{leaf.serial_number:x}" in revoked_serials:
        return Reason.CERTIFICATE_RETIRED
    verifier = PolicyBuilder().store(Store(list(authorities))).time(now).build_client_verifier()
    try:
        verifier.verify(leaf, [])
    except VerificationError:
        return Reason.WRONG_SIGNATURE
    return None
