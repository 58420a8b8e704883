"""Certificates of one device: which it holds, what each may still do, when one nears its end.

Statuses: candidate (issued, not yet used), active, under-retired (replaced, within grace),
retired. Exactly one is active. The order of a row's certificates is the order of their issue.
"""

import hashlib
from dataclasses import replace

from schemas.events import CertificateFacts
from schemas.states import DeviceRow, HeldCertificate, Policy

CANDIDATE = "candidate"
ACTIVE = "active"
UNDER_RETIRED = "under-retired"
RETIRED = "retired"

RETIRED_KEPT_MAX = 4
"""Retired certificates that a row remembers; an older one counts as unknown."""
DAY_MS = 86_400_000


def held(facts: CertificateFacts, status: str) -> HeldCertificate:
    """Return a certificate as a row holds it."""
    return HeldCertificate(
        fingerprint=facts.fingerprint,
        spki_sha256=facts.spki_sha256,
        serial=facts.serial,
        not_before_at=facts.not_before_at,
        not_after_at=facts.not_after_at,
        status=status,
        grace_until_at=0,
        first_used_offset=-1,
        closed_offset=-1,
        crl_number=0,
        der=facts.der,
    )


def find(row: DeviceRow, fingerprint: bytes) -> HeldCertificate | None:
    """Return the certificate of this SHA-256, if the row knows it."""
    for one in row.certificates:
        if one.fingerprint == fingerprint:
            return one
    return None


def active(row: DeviceRow) -> HeldCertificate:
    """Return the certificate in use."""
    return next(one for one in row.certificates if one.status == ACTIVE)


def with_certificate(row: DeviceRow, changed: HeldCertificate) -> DeviceRow:
    """Replace the certificate of the same fingerprint, or add it."""
    if find(row, changed.fingerprint) is None:
        return replace(row, certificates=(*row.certificates, changed))
    return replace(
        row,
        certificates=tuple(
            changed if one.fingerprint == changed.fingerprint else one for one in row.certificates
        ),
    )


def end_graces(row: DeviceRow, now: int, offset: int) -> tuple[DeviceRow, list[HeldCertificate]]:
    """Retire what is past its grace; return the row and what was retired now."""
    ended = [
        replace(one, status=RETIRED, closed_offset=offset, der=b"")
        for one in row.certificates
        if one.status == UNDER_RETIRED and one.grace_until_at <= now
    ]
    for one in ended:
        row = with_certificate(row, one)
    retired = [one for one in row.certificates if one.status == RETIRED]
    dropped = {one.fingerprint for one in retired[:-RETIRED_KEPT_MAX]}
    if dropped:
        kept = tuple(one for one in row.certificates if one.fingerprint not in dropped)
        row = replace(row, certificates=kept)
    return row, ended


def renew_at(row: DeviceRow, policy: Policy) -> int:
    """Return when the active certificate wants to be renewed.

    At `days_before_expiry` or two thirds of the lifetime, whichever is first, and then a slot
    that the device id gives within `stagger_ms`, which never reaches past the last tenth of the
    lifetime. A device that comes registered so late gets its slot from the registration on.
    """
    one = active(row)
    lifetime = one.not_after_at - one.not_before_at
    near_at = max(
        row.registered_at,
        min(
            one.not_after_at - policy.days_before_expiry * DAY_MS,
            one.not_before_at + lifetime * 2 // 3,
        ),
    )
    latest_at = one.not_after_at - lifetime // 10
    return min(near_at + slot(row.device_id, policy.stagger_ms), max(near_at, latest_at))


def slot(device_id: str, span_ms: int) -> int:
    """Return this device's place within the span: the same for ever, evenly spread over ids."""
    if span_ms <= 0:
        return 0
    digest = hashlib.sha256(device_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") % span_ms


def due_at(row: DeviceRow) -> int:
    """Return the end of the earliest grace, or of the active certificate, zero for never."""
    instants = [one.grace_until_at for one in row.certificates if one.status == UNDER_RETIRED]
    if not row.expiry_told:
        instants.append(active(row).not_after_at)
    return min(instants, default=0)
