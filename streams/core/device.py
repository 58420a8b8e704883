"""The device machine: composed of presence, certificate, rotation and anomaly.

Rules: identity comes from the session's certificate, never from the payload. Who is not registered
is admission's affair. An event under a retired or unknown certificate changes no
certificate state: it is refused, counted and raises an alert. A repeat changes nothing.

`step` and `due` change a copy of the row in place, and set its deadline last: one copy per event.
"""

import functools
from typing import Any, assert_never

from schemas import events
from schemas.decisions import DecisionName, Severity
from schemas.envelope import Evidence
from schemas.fleet_queries import FleetQueriesRow
from schemas.pending import PendingRow
from schemas.reasons import Reason
from schemas.records import changed, copied
from schemas.states import NOBODYS, DeviceRow, FleetSumsRow, Idle, Totals
from schemas.topics import DEVICE_EVENTS
from streams.core import (
    admission,
    anomaly,
    belonging,
    certificate,
    departure,
    matching,
    presence,
    registry,
    renewal,
    rotation,
    tally,
)
from streams.core.machine import Machine
from streams.core.turn import Turn

CORE_VERSION = 1
"""Raised with every change of what a fold gives; an older worker refuses a newer history."""

NEXT_TICK = 1
"""A deadline of long ago: the row is woken by the next tick."""

ERROR_EVENT = "error"
"""The event type that counts towards the error rate."""

Said = (
    events.SessionOpened
    | events.CertificatePresented
    | events.DeviceReported
    | events.CommandAnswered
    | events.SigningRequested
)
"""What a device says over its session."""


def step(
    turn: Turn, before: DeviceRow | PendingRow | None, event: events.Keyed
) -> DeviceRow | PendingRow | None:
    """Answer one event; return the row as it is then, `before` itself where nothing changed."""
    if before is None or isinstance(before, PendingRow):
        return _first(turn, before, event)
    if _is_repeat(before, event):
        return before
    row = copied(before)
    if before.retired_at:
        departure.answer(turn, row, event)
        admission.shut_out(turn, row, event)
        return before if row == before else row
    anomaly.close_window(turn, row)
    _answer(turn, row, event)
    anomaly.at_once(turn, row)
    belonging.follow(turn, before, row)
    if type(event) is not events.DeviceReported and row == before:
        return before
    _set_due(turn, row)
    if row.belongs is not NOBODYS or before.belongs is not NOBODYS:
        tally.count(turn, before, row, event)
    return row


def due(turn: Turn, before: Any) -> Any:
    """Do what is due at the machine's time, on a device's row or on a fleet's sums."""
    if isinstance(before, FleetSumsRow):
        return tally.report(turn, before)
    if isinstance(before, FleetQueriesRow):
        return matching.visit(turn, before)
    if isinstance(before, PendingRow):
        return admission.due(turn, before)
    return _due(turn, before)


def _due(turn: Turn, before: DeviceRow) -> DeviceRow:
    row = copied(before)
    if not row.registered_at:  # registered before the log's first tick: the machine had no time
        row.registered_at = turn.now
    for one in certificate.end_graces(row, turn.now, turn.offset):
        turn.decide(
            DecisionName.CERTIFICATE_RETIRED,
            Reason.CERTIFICATE_RETIRED,
            f"device:{row.device_id}",
            values={"fingerprint": one.fingerprint.hex(), "closed_offset": one.closed_offset},
        )
    current = certificate.active(row)
    if not row.expiry_told and turn.now >= current.not_after_at:
        turn.decide(
            DecisionName.CERTIFICATE_EXPIRED,
            Reason.EXPIRED,
            f"device:{row.device_id}",
            severity=Severity.CRITICAL,
            values={"fingerprint": current.fingerprint.hex()},
        )
        row.expiry_told = True
    rotation.due(turn, row)
    if row.belongs.fleet_id:
        belonging.nearing(turn, row)
        belonging.begin_late(turn, row)
        belonging.follow(turn, before, row)
    anomaly.close_window(turn, row)
    anomaly.reopened(turn, row)
    anomaly.silence(turn, row)
    _set_due(turn, row)
    if row.belongs.fleet_id:
        tally.count(turn, before, row, None)
    return row


def count(row: Any) -> Totals:
    """Return the row's part of the partition's totals."""
    if isinstance(row, DeviceRow):
        if row.retired_at:
            return _NO_PART
        saga, alerts_open = rotation.name(row.rotation), anomaly.open_alerts(row)
        return _part(row.connected, row.rotations, saga, alerts_open)
    return admission.count(row) if isinstance(row, PendingRow) else _NO_PART


_NO_PART = Totals()


@functools.lru_cache(maxsize=10_000)
def _part(connected: bool, rotations: int, saga: str, alerts_open: int) -> Totals:
    """Return the same object for the same part: most events change no total."""
    part = Totals(1, int(connected), rotations, 0, alerts_open)
    if saga == rotation.IDLE:
        return part
    return changed(part, rotating=1, **{saga.replace("-", "_"): 1})


def _first(turn: Turn, before: PendingRow | None, event: events.Keyed) -> admission.Answer:
    """Answer an event of a device that is not registered."""
    after = admission.answer(turn, before, event)
    if isinstance(after, DeviceRow):
        _set_due(turn, after)
        matching.ask(turn, after)
    return after


def _is_repeat(row: DeviceRow, event: events.Keyed) -> bool:
    """Tell whether a device, or a door for it, said this before."""
    match event:
        case events.DeviceReported() | events.CommandAnswered() | events.SigningRequested():
            repeat = presence.is_repeat(row, event.evidence, event.numbering)
        case events.SessionOpened() | events.CertificatePresented():
            repeat = presence.is_repeat(row, event.evidence, None)
        case events.SessionRefused():
            repeat = False
        case _:
            return False
    return repeat or (bool(row.refused) and presence.is_refused_repeat(row, event.evidence))


def _answer(turn: Turn, row: DeviceRow, event: events.Keyed) -> None:
    """Answer one event of a registered device."""
    match event:
        case (
            events.DeviceReported()
            | events.SessionOpened()
            | events.CertificatePresented()
            | events.CommandAnswered()
            | events.SigningRequested()
        ):
            _said(turn, row, event)
        case events.SessionClosed():
            presence.closed(row, event)
        case events.SessionRefused():
            _door_refused(turn, row, event)
        case events.RotationOrdered():
            belonging.rotation_ordered(row, event)
            rotation.ordered(turn, row, event)
        case events.FleetAssigned() | events.FleetUnassigned() | events.UpdateOrdered():
            belonging.asked(turn, row, event)
        case events.CertificateIssued():
            rotation.issued(turn, row, event)
        case events.SigningRefused():
            rotation.refused(turn, row, event)
        case events.CertificateRevoked():
            certificate.revoked(row, event.fingerprint, event.crl_number)
        case events.DeviceRegistered() | events.DeviceTagged() | events.RetirementOrdered():
            registry.answer(turn, row, event)
        case events.RegistrationApproved() | events.RegistrationRejected():
            admission.judged(turn, row, event)
        case _:
            assert_never(event)


def _said(turn: Turn, row: DeviceRow, event: Said) -> None:
    """Answer what a device said over its session, by the standing of the session's certificate."""
    evidence = event.evidence
    known = certificate.find(row, evidence.certificate_sha256)
    if known is None or known.status == certificate.RETIRED:
        _misused(turn, row, evidence, type(event).__name__)
        admission.shut_out(turn, row, event)
        renewal.turned_away(turn, event, Reason.FINGERPRINT_UNKNOWN)
        return
    if known.status == certificate.UNDER_RETIRED:
        _under_retired(turn, row, event)
        renewal.turned_away(turn, event, Reason.CERTIFICATE_RETIRED)
        return
    if known.provisioning and isinstance(event, events.DeviceReported):
        rotation.refuse(turn, row, Reason.PROVISIONING_ONLY, type(event).__name__)
        presence.refused(row, evidence)
        return
    if known.status == certificate.CANDIDATE:
        rotation.prove(turn, row, known)
        known = certificate.active(row)
    presence.seen(turn, row, evidence)
    anomaly.heard(turn, row)
    if isinstance(event, events.SessionOpened):
        presence.opened(turn, row, evidence)
        rotation.resend(turn, row)
        belonging.resend(turn, row)
        return
    if isinstance(event, events.CertificatePresented):
        presence.opened(turn, row, evidence)
        admission.presented(turn, row, known, event)
        return
    presence.numbered(turn, row, evidence, None if known.provisioning else event.numbering)
    if isinstance(event, events.DeviceReported):
        _reported(turn, row, event)
    elif isinstance(event, events.CommandAnswered):
        rotation.answered(turn, row, event)
        belonging.answered(turn, row, event)
    elif renewal.is_one(event):
        renewal.asked(turn, row, event)
    else:
        rotation.requested(turn, row, event)


def _reported(turn: Turn, row: DeviceRow, event: events.DeviceReported) -> None:
    presence.reported(turn, row, len(event.payload), is_error=event.event_type == ERROR_EVENT)
    ahead_ms = event.said_at - event.evidence.received_at if event.said_at else 0
    if ahead_ms and ahead_ms > max(presence.CLOCK_AHEAD_MIN_MS, row.oddities.clock_ahead_ms):
        presence.clock_ahead(row, ahead_ms)


def _door_refused(turn: Turn, row: DeviceRow, event: events.SessionRefused) -> None:
    """A door refused: count it where the certificate is one that this device must not use."""
    rotation.refuse(turn, row, _reason(event.reason), event.detail)
    presence.refused(row, event.evidence)
    known = certificate.find(row, event.evidence.certificate_sha256)
    if known is None:
        presence.odd(turn, row, unknown=1)
    elif known.status in (certificate.RETIRED, certificate.UNDER_RETIRED):
        presence.odd(turn, row, retired=1)


def _misused(turn: Turn, row: DeviceRow, evidence: Evidence, what: str) -> None:
    """Refuse what was said under a certificate that the device must not use, and count it."""
    known = certificate.find(row, evidence.certificate_sha256)
    turn.decide(
        DecisionName.EVENT_REFUSED,
        Reason.CERTIFICATE_RETIRED if known else Reason.FINGERPRINT_UNKNOWN,
        f"device:{row.device_id}",
        severity=Severity.WARNING,
        values={"what": what, "fingerprint": evidence.certificate_sha256.hex()},
    )
    presence.refused(row, evidence)
    if known is None:
        presence.odd(turn, row, unknown=1)
    else:
        presence.odd(turn, row, retired=1)


def _under_retired(turn: Turn, row: DeviceRow, event: Said) -> None:
    """Record what a replaced certificate's session had sent; it changes no certificate state."""
    rotation.refuse(turn, row, Reason.UNDER_RETIRED, type(event).__name__)
    presence.refused(row, event.evidence)
    if isinstance(event, events.SessionOpened | events.CertificatePresented):
        return
    presence.numbered(turn, row, event.evidence, event.numbering)
    if isinstance(event, events.DeviceReported):
        _reported(turn, row, event)


def _set_due(turn: Turn, row: DeviceRow) -> None:
    """Set when the row wants to be woken: the earliest of all its deadlines."""
    row.applied_offset = turn.offset
    if row.retired_at:
        row.next_due_at = 0
        return
    instants = [certificate.due_at(row), anomaly.due_at(turn, row)]
    if not isinstance(row.rotation, Idle):
        instants.append(row.rotation.deadline_at)
    elif not row.belongs.fleet_id:
        instants.append(certificate.renew_at(row, turn.policy))
    if row.belongs.fleet_id:
        instants += belonging.near_at(turn, row), belonging.judge_health(turn, row)
    if not row.registered_at or belonging.waits(row):  # the first tick tells when it was
        instants.append(NEXT_TICK)
    row.next_due_at = min(filter(None, instants), default=0)


def _stamp(row: DeviceRow, offset: int) -> DeviceRow:
    return row if row.applied_offset == offset else changed(row, applied_offset=offset)


def _park(row: DeviceRow) -> DeviceRow:
    return changed(row, next_due_at=0)


def _reason(text: str) -> Reason:
    try:
        return Reason(text)
    except ValueError:
        return Reason.UNKNOWN_TYPE


MACHINE: Machine[Any] = Machine(
    topic=DEVICE_EVENTS,
    version=CORE_VERSION,
    step=step,
    due=due,
    stamp=_stamp,
    park=_park,
    count=count,
)
