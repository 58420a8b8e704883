"""The issuer's judgement: it trusts no one, checks everything itself, and signs once per request.

Policies in order, first violation wins. The same request always gives the same certificate, so
that a crash between signing and publishing is repaired by doing it again.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509

from pki.authority import Signer
from pki.facts import facts, spki_sha256, subject_of
from pki.path import objection
from pki.profile import issue_device
from pki.requests import Examined, MalformedRequest, examine
from schemas.commands import SignCertificate
from schemas.events import CertificateIssued, SigningRefused
from schemas.reasons import Reason

LIFETIME_DEFAULT = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Terms:
    """What the issuer goes by: the lifetime it gives, and the grace after expiry."""

    lifetime: timedelta = LIFETIME_DEFAULT
    grace: timedelta = timedelta(0)


def judge(
    request: SignCertificate, signer: Signer, revoked_serials: Collection[str], terms: Terms
) -> CertificateIssued | SigningRefused:
    """Sign the request, or refuse it with a Reason."""

    def refused(reason: Reason, detail: str = "") -> SigningRefused:
        return SigningRefused(request.device_id, request.request_id, reason.value, detail)

    try:
        examined = examine(request.signed_request, None)
        current = x509.load_der_x509_certificate(examined.current_certificate)
    except (MalformedRequest, ValueError) as error:
        return refused(Reason.MALFORMED, str(error))
    requested = datetime.fromtimestamp(request.requested_at / 1000, UTC)
    violated = objection(
        examined.current_certificate,
        [signer.certificate],
        requested - terms.grace,
        revoked_serials,
    )
    if violated is not None:
        return refused(violated, "the current certificate")
    reason = _objection(request, examined, current)
    if reason is not None:
        return refused(reason)
    public_key = x509.load_der_x509_csr(examined.csr).public_key()
    not_before = datetime.fromtimestamp(request.not_before_at // 1000, UTC)
    der = issue_device(
        signer, request.device_id, public_key, request.request_id, not_before, terms.lifetime
    )
    return CertificateIssued(request.device_id, request.request_id, facts(der))


def _objection(
    request: SignCertificate, examined: Examined, current: x509.Certificate
) -> Reason | None:
    checks = (
        (examined.current_certificate == request.current_certificate, Reason.FINGERPRINT_UNKNOWN),
        (subject_of(current) == request.device_id, Reason.WRONG_SUBJECT),
        (examined.nonce == request.nonce, Reason.WRONG_NONCE),
        (examined.csr == request.csr, Reason.WRONG_SIGNATURE),
        (examined.subject == request.device_id, Reason.WRONG_SUBJECT),
        (examined.request_signature_valid, Reason.WRONG_SIGNATURE),
        (examined.csr_signature_valid, Reason.WRONG_SIGNATURE),
        (examined.key_accepted, Reason.WEAK_KEY),
        (examined.spki_sha256 != spki_sha256(current.public_key()), Reason.KEY_REUSED),
    )
    return next((reason for holds, reason in checks if not holds), None)
