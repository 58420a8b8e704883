"""The issuer's judgement: it trusts no one who passed a request on, and checks everything itself.

Rules of this file: `judge` is a function of the request, the CA, the policy, the revoked serials
and the record's broker time; it reads no clock and keeps nothing. The same request gives the same
certificate, byte for byte. A refusal is a Refusal with a Reason.
"""

import datetime
import hashlib
from collections.abc import Container
from dataclasses import dataclass

from cryptography import x509

from pki import facts, path, profile, requests
from pki.authority import DeviceCA
from schemas.commands import SignCertificate
from schemas.reasons import Reason

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Policy:
    """What the issuer goes by.

    `grace` is for how long after its end the current certificate may still ask; `backdate_max`
    how far notBefore may lie before the request; `lag_max` and `lead_max` how far the machine's
    time may lie behind and before the broker's. `door_anchors` are the CAs whose registration
    authorities (doors of EST) may vouch for a device: without any, none may. A device that holds a
    certificate of `provisioning_anchors` may ask for its first one of ours with it.
    """

    lifetime: datetime.timedelta = 90 * DAY
    grace: datetime.timedelta = 30 * DAY
    backdate_max: datetime.timedelta = datetime.timedelta(hours=1)
    lag_max: datetime.timedelta = DAY
    lead_max: datetime.timedelta = datetime.timedelta(minutes=5)
    door_anchors: tuple[x509.Certificate, ...] = ()
    provisioning_anchors: tuple[x509.Certificate, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the issuer does not sign."""

    reason: Reason
    detail: str


def judge(
    request: SignCertificate,
    ca: DeviceCA,
    policy: Policy,
    revoked: Container[int],
    at: int,
) -> bytes | Refusal:
    """Return the new certificate in DER, or why there is none.

    `revoked` are the serials on the revocation list, `at` is the broker's time of the record in
    milliseconds. Never raises on account of the request.
    """
    late = _instants(request, policy, at)
    if late is not None:
        return late
    try:
        examined = _examined(request, policy)
    except requests.MalformedRequest as error:
        return Refusal(Reason.MALFORMED, str(error))
    refusal = _request(request, examined) or _current(request, ca, policy, revoked)
    if refusal is not None:
        return refusal
    current = facts.facts(request.current_certificate)
    if current.spki_sha256 == examined.spki_sha256:
        return Refusal(Reason.KEY_REUSED, "the new key is the current one")
    return _sign(request, ca, policy)


def _examined(request: SignCertificate, policy: Policy) -> requests.Examined:
    """Return the verdicts on the signed request, by the device's own word or a door's."""
    fingerprint = hashlib.sha256(request.current_certificate).digest()
    if not requests.is_vouched(request.signed_request):
        return requests.examine(request.signed_request, fingerprint)
    at = facts.instant(request.requested_at)
    return requests.examine_vouched(
        request.signed_request,
        fingerprint,
        lambda door: path.is_registration_authority(door, policy.door_anchors, at),
    )


def _instants(request: SignCertificate, policy: Policy, at: int) -> Refusal | None:
    """The request's own instants, against the time that no producer can forge."""
    behind, before = _ms(policy.lag_max), _ms(policy.lead_max)
    if not at - behind <= request.requested_at <= at + before:
        return Refusal(Reason.CLOCK_OFF, "requested_at lies too far from the record's broker time")
    earliest = request.requested_at - _ms(policy.backdate_max)
    if not earliest <= request.not_before_at <= request.requested_at:
        return Refusal(Reason.CLOCK_OFF, "not_before_at lies too far from requested_at")
    return None


def _request(request: SignCertificate, examined: requests.Examined) -> Refusal | None:
    """The signed request against the record around it; the first violation counts."""
    checks = (
        (examined.csr == request.csr, Reason.MALFORMED, "csr is not the signed one"),
        (
            bool(request.nonce) and examined.nonce == request.nonce,
            Reason.WRONG_NONCE,
            "the signed nonce is another",
        ),
        (
            examined.subject == request.device_id,
            Reason.WRONG_SUBJECT,
            "the CSR does not name the device",
        ),
        (examined.key_accepted, Reason.WEAK_KEY, f"the new key is {examined.key}"),
        (
            examined.request_signature_valid,
            Reason.WRONG_SIGNATURE,
            "neither the current certificate's key nor a door of ours signed the request",
        ),
        (
            examined.csr_signature_valid,
            Reason.WRONG_SIGNATURE,
            "the new key did not sign the CSR",
        ),
    )
    return next((Refusal(reason, why) for holds, reason, why in checks if not holds), None)


def _current(
    request: SignCertificate, ca: DeviceCA, policy: Policy, revoked: Container[int]
) -> Refusal | None:
    """The current certificate: of this device, at the instant of the request; ours or its maker's.

    Of its maker's certificate the grace and our list say nothing.
    """
    der, at = request.current_certificate, facts.instant(request.requested_at)
    verdict = path.validate_device(der, ca.anchors, at, revoked, policy.grace)
    if verdict.reason is Reason.FINGERPRINT_UNKNOWN and policy.provisioning_anchors:
        verdict = path.validate_device(der, policy.provisioning_anchors, at)
    if not verdict.accepted:
        return Refusal(verdict.reason, f"current certificate: {verdict.detail}")
    if verdict.device_id != request.device_id:
        return Refusal(Reason.WRONG_SUBJECT, "the current certificate names another device")
    return None


def _sign(request: SignCertificate, ca: DeviceCA, policy: Policy) -> bytes | Refusal:
    try:
        return profile.issue_device(
            ca,
            request.device_id,
            x509.load_der_x509_csr(request.csr).public_key(),
            request.request_id,
            facts.instant(request.not_before_at),
            policy.lifetime,
        )
    except profile.NotIssuable as error:
        return Refusal(Reason.ISSUER_REFUSED, str(error))


def _ms(span: datetime.timedelta) -> int:
    return span // datetime.timedelta(milliseconds=1)
