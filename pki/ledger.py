"""What the issuer remembers: a fold over `certificate.requests`, and nothing else.

Rules of this file: the state after record n is a function of the records up to n and their broker
times, so that a standby that reads the topic from its start stands where the first one stood; no
file but the topic is the truth. `note` folds one record; `answer` judges one that was noted.
Limits are refused with a Reason. The revocation list is a function of the state and the hour.
"""

import datetime
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from pki import facts, invitation, issuer, registrar, requests, revocation
from pki.authority import DeviceCA
from pki.revocation import Revocation
from schemas import codec
from schemas.commands import (
    AnswerInvited,
    ForIssuer,
    RevokeCertificate,
    SignCertificate,
    SignFirstCertificate,
    SignInvited,
)
from schemas.events import (
    CertificateIssued,
    CertificateRevoked,
    DeviceRegistered,
    SigningRefused,
)
from schemas.reasons import Reason

REQUESTS_MAX = 100_000
"""How many request ids are remembered, to know a repeat from a second use of the id."""
ORDER_REMEMBERED = datetime.timedelta(days=1)
"""How long an order of a first certificate is known when it comes again, and gives the same one."""
SPENT_REMEMBERED = invitation.LIFETIME_MAX + datetime.timedelta(days=1)
"""How long a used invitation is known: longer than any is good for."""
SPENT_MAX = 100_000
"""How many used invitations are known; beyond, nobody enrols by one until some are over."""
BUCKETS_MAX = 100_000
"""How many devices' rates are remembered at once; full buckets are forgotten first."""
NUMBER_SHIFT = 32
"""A list's number is (offset of the last revocation + 1) · 2^32 + seconds since that record."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A token bucket: `burst` at once, `per_second` over time."""

    burst: float
    per_second: float


@dataclass(frozen=True, slots=True)
class Limits:
    """The issuer's own limits, whatever the machine asks for, and the lives of the list."""

    fleet: Rate = Rate(10_000, 100.0)
    device: Rate = Rate(60, 1 / 60)
    crl_refresh: datetime.timedelta = datetime.timedelta(hours=1)
    crl_validity: datetime.timedelta = datetime.timedelta(days=7)
    crl_keep: datetime.timedelta = datetime.timedelta(days=60)


@dataclass(slots=True)
class Bucket:
    """The tokens left, and when they were counted (milliseconds)."""

    tokens: float
    at: int

    def take(self, rate: Rate, at: int) -> bool:
        """Take a token at the instant, where there is one."""
        elapsed = max(0, at - self.at) / 1000
        self.tokens = min(rate.burst, self.tokens + elapsed * rate.per_second)
        self.at = max(self.at, at)
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@dataclass(frozen=True, slots=True)
class Spent:
    """By which key an invitation was used, and when first (milliseconds)."""

    spki_sha256: bytes
    first_at: int


@dataclass(slots=True)
class State:
    """All that the issuer knows after the record before `next_offset`."""

    limits: Limits = field(default_factory=Limits)
    next_offset: int = 0
    revoked: dict[int, Revocation] = field(default_factory=dict)
    revoked_offset: int = -1
    revoked_record_at: int = 0
    requests: dict[str, bytes] = field(default_factory=dict)
    ordered: dict[bytes, int] = field(default_factory=dict)
    spent: dict[bytes, Spent] = field(default_factory=dict)
    fleet: Bucket | None = None
    devices: dict[str, Bucket] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unfit:
    """A record that no answer fits: it goes to the dead letters."""

    reason: Reason
    detail: str


Answer = CertificateIssued | DeviceRegistered | SigningRefused | CertificateRevoked | Unfit


def note(state: State, record: ForIssuer, offset: int, at: int) -> issuer.Refusal | Unfit | None:
    """Fold one record into the state; return why it is not to be judged, None where it is."""
    state.next_offset = offset + 1
    if isinstance(record, RevokeCertificate):
        return _revoke(state, record, offset, at)
    if isinstance(record, SignFirstCertificate):
        return _order(state, record, at)
    if isinstance(record, SignInvited):
        return _spend(state, record, at)
    return _admit(state, record, at)


def answer(
    state: State,
    record: ForIssuer,
    noted: issuer.Refusal | Unfit | None,
    at: int,
    ca: DeviceCA,
    policy: issuer.Policy,
) -> Answer:
    """Return the event that answers a record just noted."""
    if isinstance(noted, Unfit):
        return noted
    if isinstance(record, RevokeCertificate):
        serial = revocation.serial_number(record.serial)
        assert serial is not None, "note lets only serials pass"
        number = state.revoked[serial].number
        return CertificateRevoked(record.device_id, record.fingerprint, record.serial, number)
    judged: bytes | DeviceRegistered | issuer.Refusal
    if noted is not None:
        judged = noted
    elif isinstance(record, SignFirstCertificate):
        first_at = state.ordered[registrar.key_of(record)]
        judged = registrar.judge(record, ca, policy, first_at, at)
    elif isinstance(record, SignInvited):
        judged = invitation.judge(record, ca, policy, _first_at(state, record, at), at)
    else:
        judged = issuer.judge(record, ca, policy, state.revoked, at)
    if isinstance(judged, issuer.Refusal):
        return SigningRefused(
            record.device_id, record.request_id, judged.reason.value, judged.detail
        )
    if isinstance(judged, DeviceRegistered):
        return judged
    return CertificateIssued(record.device_id, record.request_id, facts.facts(judged))


def told(record: ForIssuer, given: Answer) -> AnswerInvited | None:
    """Return what doors of EST are told of an answer: that to an invited device's request."""
    if not isinstance(record, SignInvited) or isinstance(given, Unfit | CertificateRevoked):
        return None
    try:
        asked = invitation.read(record.signed_order)
        known = (asked.invited.verifier, asked.spki)
    except requests.MalformedRequest:
        known = (b"", b"")
    certificate, reason, detail = b"", Reason.NONE.value, ""
    if isinstance(given, SigningRefused):
        reason, detail = given.reason, given.detail
    else:
        certificate = given.certificate.der
    return AnswerInvited(record.request_id, record.device_id, *known, certificate, reason, detail)


def crl(state: State, ca: DeviceCA, now: int) -> bytes:
    """Return the revocation list for the instant `now`, in PEM.

    It is numbered by the last revocation and the time since, in steps of `crl_refresh`: issuers
    with the same state make the same list. Entries leave `crl_keep` after their certificate's end
    (RFC 5280 section 3.3 wants one list after it).
    """
    base = state.revoked_record_at or facts.milliseconds(ca.certificate.not_valid_before_utc)
    step = _ms(state.limits.crl_refresh)
    this_update = base + max(0, now - base) // step * step
    number = list_number(state.revoked_offset) + (this_update - base) // 1000
    entries = list(_listed(state, this_update))
    return revocation.build(
        ca, entries, number, this_update, this_update + _ms(state.limits.crl_validity)
    )


def list_number(offset: int) -> int:
    """Return the number of the first list after the revocation at `offset`."""
    return (offset + 1) << NUMBER_SHIFT


def _listed(state: State, this_update: int) -> Iterator[Revocation]:
    oldest = this_update - _ms(state.limits.crl_keep)
    return (one for one in state.revoked.values() if one.not_after_at >= oldest)


def _revoke(state: State, record: RevokeCertificate, offset: int, at: int) -> Unfit | None:
    serial = revocation.serial_number(record.serial)
    if serial is None:
        return Unfit(Reason.MALFORMED, "the serial is no hexadecimal number of 1 to 20 octets")
    if not 0 <= record.revoked_at <= at + _ms(issuer.Policy().lead_max):
        return Unfit(Reason.CLOCK_OFF, "revoked_at lies behind the record's broker time")
    if serial not in state.revoked:
        state.revoked[serial] = Revocation(
            serial,
            record.fingerprint,
            record.revoked_at,
            record.not_after_at,
            record.reason,
            list_number(offset),
        )
        state.revoked_offset, state.revoked_record_at = offset, at
    return None


def _admit(state: State, record: SignCertificate, at: int) -> issuer.Refusal | None:
    digest = hashlib.sha256(codec.encode(record)).digest()
    known = state.requests.get(record.request_id)
    if known == digest:
        return None
    if known is not None:
        return issuer.Refusal(Reason.REPEATED, "the request id was used for another request")
    if not _within_limits(state, record.device_id, at):
        return issuer.Refusal(Reason.MESSAGE_RATE, "the issuer's own rate limit")
    state.requests[record.request_id] = digest
    if len(state.requests) > REQUESTS_MAX:
        del state.requests[next(iter(state.requests))]
    return None


def _order(state: State, record: SignFirstCertificate, at: int) -> issuer.Refusal | None:
    """Note when an order came first: repeated within a day, it gives the same certificate."""
    while state.ordered:
        oldest = next(iter(state.ordered))
        if at - state.ordered[oldest] <= _ms(ORDER_REMEMBERED):
            break
        del state.ordered[oldest]
    key = registrar.key_of(record)
    if key in state.ordered:
        return None
    if not _within_limits(state, record.device_id, at):
        return issuer.Refusal(Reason.MESSAGE_RATE, "the issuer's own rate limit")
    state.ordered[key] = at
    return None


def _spend(state: State, record: SignInvited, at: int) -> issuer.Refusal | None:
    """Note by which key an invitation is used: the first one that came with its token, for good.

    What is not proven spends nothing, and is refused when it is judged.
    """
    while state.spent:
        oldest = next(iter(state.spent))
        if at - state.spent[oldest].first_at <= _ms(SPENT_REMEMBERED):
            break
        del state.spent[oldest]
    try:
        asked = invitation.read(record.signed_order)
        spki = asked.spki
    except requests.MalformedRequest:
        return None
    if not asked.proven:
        return None
    spent = state.spent.get(asked.invited.verifier)
    if spent is not None:
        if spent.spki_sha256 == spki:
            return None
        return issuer.Refusal(Reason.INVITATION_SPENT, "one key came with this token before")
    if len(state.spent) >= SPENT_MAX:
        return issuer.Refusal(Reason.MESSAGE_RATE, "too many invitations were used of late")
    if not _within_limits(state, record.device_id, at):
        return issuer.Refusal(Reason.MESSAGE_RATE, "the issuer's own rate limit")
    state.spent[asked.invited.verifier] = Spent(spki, at)
    return None


def _first_at(state: State, record: SignInvited, at: int) -> int:
    """Return when the invitation was used first, `at` where it was not."""
    try:
        spent = state.spent.get(invitation.read(record.signed_order).invited.verifier)
    except requests.MalformedRequest:
        return at
    return spent.first_at if spent is not None else at


def _within_limits(state: State, device_id: str, at: int) -> bool:
    """Take a token of the device and, where it has one, of the fleet."""
    limits = state.limits
    if state.fleet is None:
        state.fleet = Bucket(limits.fleet.burst, at)
    if len(state.devices) >= BUCKETS_MAX and device_id not in state.devices:
        _forget(state, at)
    bucket = state.devices.setdefault(device_id, Bucket(limits.device.burst, at))
    return bucket.take(limits.device, at) and state.fleet.take(limits.fleet, at)


def _forget(state: State, at: int) -> None:
    """Drop the buckets that are full again, and the oldest where none is."""
    rate = state.limits.device
    kept = {
        device: bucket
        for device, bucket in state.devices.items()
        if bucket.tokens + (at - bucket.at) / 1000 * rate.per_second < rate.burst
    }
    if len(kept) >= BUCKETS_MAX:
        del kept[next(iter(kept))]
    state.devices = kept


def _ms(span: datetime.timedelta) -> int:
    return span // datetime.timedelta(milliseconds=1)
