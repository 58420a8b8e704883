"""Admission: who is not registered and becomes a device, waits for a person, or stays outside.

Rules of this file: an operator or the issuer registers (DeviceRegistered); or, just in time, the
policy lets in whom a provisioning CA names: `automatic` at once, `approval` when an operator says
so, for the certificate that he saw and no other. Of two certificates that name one device the
first waits, and the second is refused and told of. Who waits in vain for the policy's term, or
until its certificate ends, lapses: it waits anew when it comes again. A provisioning certificate is
the active one until the device has its own: it orders that rotation by coming, and nothing else is
heard under it.
"""

from schemas import events
from schemas.decisions import DecisionName, Severity
from schemas.envelope import Evidence
from schemas.pending import AUTOMATIC, OFF, PendingRow
from schemas.reasons import Reason
from schemas.records import changed
from schemas.states import (
    NO_ODDITIES,
    DeviceRow,
    HeldCertificate,
    Idle,
    Past,
    Totals,
    Window,
)
from streams.core import belonging, certificate, description, renewal, retirement, rotation
from streams.core.turn import Turn

PENDING_MAX = 10_000
"""Devices that wait for approval in one partition; one more is refused."""
PENDING = "pending"
"""The status of a certificate that waits for approval."""

_WAITS, _OVER = Totals(pending=1), Totals()
AT_THE_FIRST_TICK = 1
"""The deadline of who came before the machine had a time."""
Answer = DeviceRow | PendingRow | None


def answer(turn: Turn, before: PendingRow | None, event: events.Keyed) -> Answer:
    """Answer an event of a device that is not registered; `before` where nothing changed."""
    match event:
        case events.DeviceRegistered():
            return _registered(turn, before, event) or before
        case events.CertificatePresented():
            return _presented(turn, before, event)
        case events.RegistrationApproved():
            return _approved(turn, before, event) or before
        case events.RegistrationRejected():
            return _rejected(turn, before, event)
        case events.SessionClosed() if before is not None:
            open_one = before.session == event.evidence.session
            return changed(before, session="") if open_one else before
        case events.SigningRefused():
            return before  # a first certificate: whoever ordered it reads the refusal in the log
        case events.FleetAssigned():
            belonging.refuse_fleet(turn, event, Reason.UNKNOWN_DEVICE)
    reason = Reason.UNKNOWN_DEVICE
    if before is not None:
        reason = Reason.REJECTED if before.rejected_at else Reason.APPROVAL_AWAITED
        reason = Reason.NOT_APPROVED if before.lapsed_at else reason
    _refuse(turn, event, reason)
    renewal.turned_away(turn, event, reason)
    return before


def count(row: PendingRow) -> Totals:
    """Return the row's part of the partition's totals: who was rejected or lapsed is in none."""
    return _WAITS if _waits(row) else _OVER


def due(turn: Turn, before: PendingRow) -> PendingRow:
    """End a wait whose term is over, as it stands by now."""
    row = before
    if not row.first_seen_at:
        row = changed(row, first_seen_at=turn.now, last_seen_at=turn.now)
    row = _termed(turn, row)
    if not _waits(row) or turn.now < row.next_due_at:
        return row
    ended = row.certificate.not_after_at <= turn.now
    turn.decide(
        DecisionName.REGISTRATION_LAPSED,
        Reason.EXPIRED if ended else Reason.NOT_APPROVED,
        f"device:{row.device_id}",
        severity=Severity.WARNING,
        values={"fingerprint": row.certificate.fingerprint.hex()},
    )
    return changed(row, lapsed_at=turn.now, next_due_at=0)


def _waits(row: PendingRow) -> bool:
    return not (row.rejected_at or row.lapsed_at)


def _termed(turn: Turn, row: PendingRow) -> PendingRow:
    """Return the row with the end of its wait as its deadline, zero where it does not wait."""
    at = min(row.first_seen_at + turn.policy.pending_ms, row.certificate.not_after_at)
    at = max(at, AT_THE_FIRST_TICK) if row.first_seen_at else AT_THE_FIRST_TICK
    return changed(row, next_due_at=at if _waits(row) else 0)


def presented(
    turn: Turn, row: DeviceRow, known: HeldCertificate, event: events.CertificatePresented
) -> None:
    """A registered device came with its provisioning certificate: let it go on with its own."""
    if event.certificate.fingerprint != event.evidence.certificate_sha256:
        rotation.refuse(turn, row, Reason.MALFORMED, "CertificatePresented")
        return
    if not known.provisioning:  # registered beforehand, by the certificate that its maker gave it
        certificate.put(row, changed(known, provisioning=True))
    if isinstance(row.rotation, Idle):
        rotation.start(turn, row, Reason.PROVISIONED)
    else:
        rotation.resend(turn, row)


def shut_out(turn: Turn, row: DeviceRow, event: events.Keyed) -> None:
    """Let the doors refuse a provisioning certificate that is not, or no more, the device's.

    It stands on no revocation list, and doors forget what they were told long ago.
    """
    if isinstance(event, events.CertificatePresented):
        retirement.refuse(turn, row, event.evidence.certificate_sha256)


def judged(
    turn: Turn, row: DeviceRow, event: events.RegistrationApproved | events.RegistrationRejected
) -> None:
    """An operator judges a device that is registered: a repeat, or too late."""
    approved = isinstance(event, events.RegistrationApproved)
    if not approved or certificate.find(row, event.fingerprint) is None:
        rotation.refuse(turn, row, Reason.ALREADY_REGISTERED, type(event).__name__)


def _registered(
    turn: Turn, before: PendingRow | None, event: events.DeviceRegistered
) -> DeviceRow | None:
    """Register a device by an operator's word, None where it is refused."""
    spoken = (event.device_type, event.protocols, event.tags, event.attributes)
    field, wrong = description.objection(*spoken)
    if wrong:
        _refuse(turn, event, Reason.MALFORMED, f"{field}: {wrong}")
        return None
    turn.decide(
        DecisionName.DEVICE_ACCEPTED,
        Reason.REGISTERED,
        f"device:{event.device_id}",
        values={"fingerprint": event.certificate.fingerprint.hex(), "actor": event.actor},
    )
    held = certificate.held(event.certificate, certificate.ACTIVE)
    waiting = before if before and before.certificate.fingerprint == held.fingerprint else None
    held = changed(held, provisioning=waiting is not None)
    row = _row(turn, event.device_id, event.device_type, event.protocols, held)
    row.tags = description.merged((), event.tags)
    row.attributes = description.ordered(event.attributes)
    if waiting is not None:
        _enrol(turn, row, waiting)
    return row


def _presented(turn: Turn, before: PendingRow | None, event: events.CertificatePresented) -> Answer:
    """Somebody came whom a provisioning CA names."""
    shown, evidence = event.certificate, event.evidence
    if shown.fingerprint != evidence.certificate_sha256:
        _refuse(turn, event, Reason.MALFORMED, "the certificate is not the session's")
        return before
    mode = turn.policy.just_in_time
    if before is not None and before.certificate.fingerprint == shown.fingerprint:
        if before.session_counter >= evidence.counter and before.session == evidence.session:
            return before
        if before.rejected_at:
            _refuse(turn, event, Reason.REJECTED, _detail(shown))
            return _seen(turn, before, evidence)
        if not before.lapsed_at:
            again = _seen(turn, before, evidence)
            return _admit(turn, again) if mode == AUTOMATIC else _termed(turn, again)
    reason = _objection(turn, before, mode)
    if reason is not None:
        _refuse(turn, event, reason, _detail(shown))
        return before
    held = changed(certificate.held(shown, PENDING), provisioning=True)
    first = PendingRow(-1, 0, event.device_id, held, evidence.protocol, "", "", 0, turn.now, 0)
    pending = _seen(turn, first, evidence)
    if mode == AUTOMATIC:
        return _admit(turn, pending)
    turn.decide(
        DecisionName.REGISTRATION_AWAITED,
        Reason.APPROVAL_AWAITED,
        f"device:{event.device_id}",
        values={"fingerprint": shown.fingerprint.hex()},
    )
    return _termed(turn, pending)


def _objection(turn: Turn, before: PendingRow | None, mode: str) -> Reason | None:
    """Return why a certificate that has not come before is turned away, None where it is not."""
    if mode == OFF:
        return Reason.JUST_IN_TIME_OFF
    if mode == AUTOMATIC:
        return None
    if before is None or not _waits(before):
        return Reason.TOO_MANY_PENDING if turn.totals.pending >= PENDING_MAX else None
    return Reason.ANOTHER_PENDING if before.certificate.not_after_at > turn.now else None


def _approved(
    turn: Turn, before: PendingRow | None, event: events.RegistrationApproved
) -> DeviceRow | None:
    """An operator lets a device in, None where nobody of this certificate waits."""
    if before is None or before.certificate.fingerprint != event.fingerprint:
        _refuse(turn, event, Reason.NOT_PENDING, f"certificate {event.fingerprint.hex()}")
        return None
    field, wrong = description.objection(event.device_type, (), event.tags, {})
    if wrong:
        _refuse(turn, event, Reason.MALFORMED, f"{field}: {wrong}")
        return None
    if before.certificate.not_after_at <= turn.now:
        _refuse(turn, event, Reason.EXPIRED, "the device needs another provisioning certificate")
        return None
    return _admit(turn, before, event)


def _rejected(
    turn: Turn, before: PendingRow | None, event: events.RegistrationRejected
) -> PendingRow | None:
    """An operator keeps a device out: this certificate of it, as long as nobody approves it."""
    if before is None or before.certificate.fingerprint != event.fingerprint:
        _refuse(turn, event, Reason.NOT_PENDING, f"certificate {event.fingerprint.hex()}")
        return before
    if before.rejected_at:
        return before
    turn.decide(
        DecisionName.DEVICE_REJECTED,
        Reason.REJECTED,
        f"device:{event.device_id}",
        values={"fingerprint": event.fingerprint.hex(), "actor": event.actor},
    )
    no = changed(before, rejected_at=max(1, turn.now), rejected_by=event.actor)
    return changed(no, lapsed_at=0, next_due_at=0)


def _admit(
    turn: Turn, pending: PendingRow, by: events.RegistrationApproved | None = None
) -> DeviceRow:
    """Register a device by its provisioning certificate, and let it get its own."""
    held = changed(pending.certificate, status=certificate.ACTIVE)
    values = {"fingerprint": held.fingerprint.hex(), "actor": by.actor if by else AUTOMATIC}
    turn.decide(
        DecisionName.DEVICE_ACCEPTED,
        Reason.APPROVED if by else Reason.PROVISIONED,
        f"device:{pending.device_id}",
        values=values,
    )
    kind = by.device_type if by else description.UNNAMED_TYPE
    row = _row(turn, pending.device_id, kind, (pending.protocol,), held)
    row.tags = description.merged((), by.tags) if by else ()
    _enrol(turn, row, pending)
    return row


def _enrol(turn: Turn, row: DeviceRow, pending: PendingRow) -> None:
    """Give the row what the pending one knew; who is there is asked for its key at once.

    Who is away is asked when it comes back: it spends no attempts until then.
    """
    row.last_seen_at, row.door = pending.last_seen_at, pending.protocol
    row.peer_address = pending.peer_address
    row.session, row.session_counter = pending.session, pending.session_counter
    row.connected = bool(pending.session)
    if row.connected:
        rotation.start(turn, row, Reason.PROVISIONED)


def _row(
    turn: Turn, device_id: str, device_type: str, protocols: tuple[str, ...], held: HeldCertificate
) -> DeviceRow:
    return DeviceRow(
        applied_offset=-1,
        next_due_at=0,
        last_seen_at=0,
        session_counter=0,
        sequence=0,
        window=Window(),
        certificates=(held,),
        device_id=device_id,
        device_type=device_type,
        protocols=protocols,
        registered_at=turn.now,
        connected=False,
        session="",
        boot=0,
        peer_address="",
        command_counter=0,
        rotation=Idle(),
        journey=(),
        rotations=0,
        expiry_told=False,
        past=Past(),
        watches=(),
        oddities=NO_ODDITIES,
    )


def _seen(turn: Turn, row: PendingRow, evidence: Evidence) -> PendingRow:
    return changed(
        row,
        peer_address=evidence.peer_address,
        session=evidence.session,
        session_counter=evidence.counter,
        last_seen_at=turn.now,
    )


def _refuse(turn: Turn, event: events.Keyed, reason: Reason, detail: str = "") -> None:
    turn.decide(
        DecisionName.EVENT_REFUSED,
        reason,
        f"device:{event.device_id}",
        severity=Severity.WARNING,
        values={"what": type(event).__name__} | ({"detail": detail} if detail else {}),
    )


def _detail(shown: events.CertificateFacts) -> str:
    return f"certificate {shown.fingerprint.hex()}"
