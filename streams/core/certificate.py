"""Certificates of one device: which it holds, what each may still do, when one nears its end.

Statuses: candidate (issued, not yet used), active, under-retired (replaced, within grace),
retired. Exactly one is active. The order of a row's certificates is the order of their issue.
"""

import functools
import hashlib

from schemas.decisions import DecisionName
from schemas.events import CertificateFacts
from schemas.reasons import Reason
from schemas.records import changed
from schemas.states import DeviceRow, HeldCertificate, Policy
from streams.core.turn import Turn

CANDIDATE = "candidate"
ACTIVE = "active"
UNDER_RETIRED = "under-retired"
RETIRED = "retired"

RETIRED_KEPT_MAX = 4
"""Retired certificates that a row remembers; an older one counts as unknown."""
DAY_MS = 86_400_000
NOT_BEFORE_LEEWAY_MS = 300_000
"""How far a certificate's notBefore lies in the past, for devices whose clock is slow."""
RENEWALS_REMEMBERED_MAX = 200_000
"""Renewal instants kept in memory: one is asked for with every event of its device."""


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
    """Return the certificate in use. Every row has exactly one."""
    for one in row.certificates:
        if one.status == ACTIVE:
            return one
    raise LookupError(f"{row.device_id} has no active certificate")


def put(row: DeviceRow, one: HeldCertificate) -> None:
    """Take the certificate in the place of the one of the same fingerprint, or add it."""
    if find(row, one.fingerprint) is None:
        row.certificates = (*row.certificates, one)
        return
    row.certificates = tuple(
        one if before.fingerprint == one.fingerprint else before for before in row.certificates
    )


def revoked(row: DeviceRow, fingerprint: bytes, crl_number: int) -> None:
    """Note that a certificate is on the revocation list; the first word of it counts."""
    known = find(row, fingerprint)
    if known is not None and not known.crl_number:
        put(row, changed(known, crl_number=crl_number))


def end_graces(row: DeviceRow, now: int, offset: int) -> list[HeldCertificate]:
    """Retire what is past its grace, and forget the oldest retired; return what was retired now."""
    ended = [
        changed(one, status=RETIRED, closed_offset=offset, der=b"")
        for one in row.certificates
        if one.status == UNDER_RETIRED and one.grace_until_at <= now
    ]
    for one in ended:
        put(row, one)
    retired = [one for one in row.certificates if one.status == RETIRED]
    dropped = {one.fingerprint for one in retired[:-RETIRED_KEPT_MAX]}
    if dropped:
        row.certificates = tuple(one for one in row.certificates if one.fingerprint not in dropped)
    return ended


def near_at(row: DeviceRow, days_before_expiry: int) -> int:
    """Return when the active certificate nears its end, without any stagger."""
    one = active(row)
    return _renew_at(
        one.not_before_at,
        one.not_after_at,
        row.registered_at,
        row.device_id,
        days_before_expiry,
        0,
    )


def nears_at(not_before_at: int, not_after_at: int, days_before_expiry: int) -> int:
    """Return when a certificate nears its end: by days or at two thirds, whichever is first.

    One that lives no longer than so many days would near it at its birth, and so would the next
    one: it goes by two thirds.
    """
    lifetime, days_ms = not_after_at - not_before_at, days_before_expiry * DAY_MS
    by_thirds = not_before_at + lifetime * 2 // 3
    return min(not_after_at - days_ms, by_thirds) if days_ms < lifetime else by_thirds


def tell_near(turn: Turn, row: DeviceRow) -> None:
    """Say that the active certificate nears its end."""
    current = active(row)
    turn.decide(
        DecisionName.CERTIFICATE_NEARED_EXPIRY,
        Reason.NEAR_EXPIRY,
        f"device:{row.device_id}",
        values={
            "fingerprint": current.fingerprint.hex(),
            "not_after_at": current.not_after_at,
            "days": (current.not_after_at - turn.now) // DAY_MS,
        },
    )


def renew_at(row: DeviceRow, policy: Policy) -> int:
    """Return when the active certificate wants to be renewed.

    When it nears its end (`nears_at`), and then at a slot that the device id gives within
    `stagger_ms`, which never reaches past the last tenth of the lifetime. A device that comes
    registered so late gets its slot from the registration on.
    """
    one = active(row)
    return _renew_at(
        one.not_before_at,
        one.not_after_at,
        row.registered_at,
        row.device_id,
        policy.days_before_expiry,
        policy.stagger_ms,
    )


@functools.lru_cache(maxsize=RENEWALS_REMEMBERED_MAX)
def _renew_at(
    not_before_at: int,
    not_after_at: int,
    registered_at: int,
    device_id: str,
    days_before_expiry: int,
    stagger_ms: int,
) -> int:
    lifetime = not_after_at - not_before_at
    near_at = max(registered_at, nears_at(not_before_at, not_after_at, days_before_expiry))
    latest_at = not_after_at - lifetime // 10
    return min(near_at + slot(device_id, stagger_ms), max(near_at, latest_at))


def slot(device_id: str, span_ms: int) -> int:
    """Return this device's place within the span: the same for ever, evenly spread over ids."""
    if span_ms <= 0:
        return 0
    digest = hashlib.sha256(device_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") % span_ms


def due_at(row: DeviceRow) -> int:
    """Return the end of the earliest grace, or of the active certificate, zero for never."""
    due = 0
    for one in row.certificates:
        at = 0
        if one.status == UNDER_RETIRED:
            at = one.grace_until_at
        elif one.status == ACTIVE and not row.expiry_told:
            at = one.not_after_at
        if at and (not due or at < due):
            due = at
    return due
