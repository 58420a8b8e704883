"""The device machine: composed of presence, certificate, rotation and anomaly.

Rules: identity comes from the session's certificate, never from the payload. An event of an
unregistered device changes nothing. An event under a retired or unknown certificate changes no
certificate state: it is refused, counted and raises an alert. A repeat changes nothing.
"""

from dataclasses import replace
from typing import assert_never

from schemas import events
from schemas.decisions import DecisionName, Severity
from schemas.envelope import Evidence, Numbering
from schemas.reasons import Reason
from schemas.records import changed
from schemas.states import DeviceRow, Idle, Past, Totals, Window
from schemas.topics import DEVICE_EVENTS
from streams.core import anomaly, certificate, presence, rotation
from streams.core.machine import Machine
from streams.core.turn import Turn

CORE_VERSION = 1
"""Raised with every change of what a fold gives; an older worker refuses a newer history."""

ERROR_EVENT = "error"
"""The event type that counts towards the error rate."""


def step(turn: Turn, row: DeviceRow | None, event: events.Keyed) -> DeviceRow | None:
    """Answer one event; return the row as it is then."""
    if isinstance(event, events.DeviceRegistered):
        after = _register(turn, row, event)
    elif row is None:
        turn.decide(
            DecisionName.EVENT_REFUSED,
            Reason.UNKNOWN_DEVICE,
            f"device:{event.device_id}",
            severity=Severity.WARNING,
            values={"what": type(event).__name__},
        )
        return None
    else:
        after = _answer(turn, row, event)
    return after if after is row or after is None else _with_due(turn, after)


def _answer(turn: Turn, row: DeviceRow, event: events.Keyed) -> DeviceRow:
    """Answer one event of a registered device."""
    match event:
        case events.CertificateIssued():
            return rotation.issued(turn, row, event)
        case events.SigningRefused():
            return rotation.refused(turn, row, event)
        case events.CertificateRevoked():
            return _revoked(row, event)
        case events.RotationOrdered():
            return _ordered(turn, row, event)
        case events.SessionRefused():
            return _door_refused(turn, row, event)
        case events.SessionClosed():
            return presence.closed(row, event)
        case events.DeviceRegistered():
            return row
        case _:
            return _said(turn, row, event)


def due(turn: Turn, row: DeviceRow) -> DeviceRow:
    """Do what is due at the machine's time."""
    row, ended = certificate.end_graces(row, turn.now, turn.offset)
    for one in ended:
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
        row = replace(row, expiry_told=True)
    row = rotation.due(turn, row)
    row = anomaly.close_window(turn, row)
    row = anomaly.reopened(turn, row)
    row = anomaly.silence(turn, row)
    return _with_due(turn, row)


def count(row: DeviceRow) -> Totals:
    """Return the row's part of the partition's totals."""
    return Totals(
        registered=1,
        connected=int(row.connected),
        rotations=row.rotations,
        rotating=int(not isinstance(row.rotation, Idle)),
        alerts_open=anomaly.open_alerts(row),
    )


def _said(
    turn: Turn,
    row: DeviceRow,
    event: events.SessionOpened
    | events.DeviceReported
    | events.CommandAnswered
    | events.SigningRequested,
) -> DeviceRow:
    """Answer what a device said over its session."""
    evidence = event.evidence
    numbering = None if isinstance(event, events.SessionOpened) else event.numbering
    if presence.is_repeat(row, evidence, numbering):
        return row
    known = certificate.find(row, evidence.certificate_sha256)
    if known is None or known.status == certificate.RETIRED:
        return _misused(turn, row, evidence, type(event).__name__)
    if known.status == certificate.UNDER_RETIRED:
        return _under_retired(turn, row, event, evidence, numbering)
    if known.status == certificate.CANDIDATE:
        row = rotation.prove(turn, row, known)
    row = anomaly.heard(turn, anomaly.close_window(turn, presence.seen(turn, row, evidence)))
    row = _dispatch(turn, row, event, evidence, numbering)
    return anomaly.at_once(turn, row)


def _dispatch(
    turn: Turn,
    row: DeviceRow,
    event: events.SessionOpened
    | events.DeviceReported
    | events.CommandAnswered
    | events.SigningRequested,
    evidence: Evidence,
    numbering: Numbering | None,
) -> DeviceRow:
    if isinstance(event, events.SessionOpened):
        return rotation.resend(turn, presence.opened(turn, row, event))
    row = presence.numbered(turn, row, evidence, numbering)
    if isinstance(event, events.DeviceReported):
        return presence.reported(turn, row, len(event.payload), event.event_type == ERROR_EVENT)
    if isinstance(event, events.CommandAnswered):
        return rotation.answered(turn, row, event)
    if isinstance(event, events.SigningRequested):
        return rotation.requested(turn, row, event)
    assert_never(event)


def _register(
    turn: Turn, row: DeviceRow | None, event: events.DeviceRegistered
) -> DeviceRow | None:
    if row is not None:
        same = certificate.find(row, event.certificate.fingerprint) is not None
        if not same:
            rotation.refuse(turn, row, Reason.ALREADY_REGISTERED, event.device_type)
        return row
    turn.decide(
        DecisionName.DEVICE_ACCEPTED,
        Reason.REGISTERED,
        f"device:{event.device_id}",
        values={"fingerprint": event.certificate.fingerprint.hex(), "actor": event.actor},
    )
    return DeviceRow(
        device_id=event.device_id,
        device_type=event.device_type,
        protocols=event.protocols,
        applied_offset=-1,
        next_due_at=0,
        registered_at=turn.now,
        connected=False,
        session="",
        session_counter=0,
        peer_address="",
        last_seen_at=0,
        boot=0,
        sequence=0,
        command_counter=0,
        certificates=(certificate.held(event.certificate, certificate.ACTIVE),),
        rotation=Idle(),
        journey=(),
        rotations=0,
        expiry_told=False,
        window=Window(),
        past=Past(),
        watches=(),
    )


def _ordered(turn: Turn, row: DeviceRow, event: events.RotationOrdered) -> DeviceRow:
    if rotation.name(row.rotation) not in ("idle", "failed", "abandoned"):
        rotation.refuse(turn, row, Reason.REPEATED, event.order_id)
        return row
    return rotation.start(turn, row, Reason.ORDERED)


def _revoked(row: DeviceRow, event: events.CertificateRevoked) -> DeviceRow:
    known = certificate.find(row, event.fingerprint)
    if known is None or known.crl_number:
        return row
    return certificate.with_certificate(row, replace(known, crl_number=event.crl_number))


def _door_refused(turn: Turn, row: DeviceRow, event: events.SessionRefused) -> DeviceRow:
    """A door refused: count it where the certificate is one that this device must not use."""
    rotation.refuse(turn, row, _reason(event.reason), event.detail)
    known = certificate.find(row, event.evidence.certificate_sha256)
    if known is None or known.status in (certificate.RETIRED, certificate.UNDER_RETIRED):
        row = presence.misused(turn, row, unknown=known is None, retired=known is not None)
    return anomaly.at_once(turn, anomaly.close_window(turn, row))


def _misused(turn: Turn, row: DeviceRow, evidence: Evidence, what: str) -> DeviceRow:
    known = certificate.find(row, evidence.certificate_sha256)
    reason = Reason.CERTIFICATE_RETIRED if known else Reason.FINGERPRINT_UNKNOWN
    turn.decide(
        DecisionName.EVENT_REFUSED,
        reason,
        f"device:{row.device_id}",
        severity=Severity.WARNING,
        values={"what": what, "fingerprint": evidence.certificate_sha256.hex()},
    )
    row = presence.misused(turn, row, unknown=known is None, retired=known is not None)
    return anomaly.at_once(turn, anomaly.close_window(turn, row))


def _under_retired(
    turn: Turn,
    row: DeviceRow,
    event: events.SessionOpened
    | events.DeviceReported
    | events.CommandAnswered
    | events.SigningRequested,
    evidence: Evidence,
    numbering: Numbering | None,
) -> DeviceRow:
    """Record what a replaced certificate's session had sent; it changes no certificate state."""
    rotation.refuse(turn, row, Reason.UNDER_RETIRED, type(event).__name__)
    if isinstance(event, events.SessionOpened):
        return row
    row = presence.numbered(turn, row, evidence, numbering)
    if isinstance(event, events.DeviceReported):
        row = presence.reported(turn, row, len(event.payload), event.event_type == ERROR_EVENT)
    return row


def _with_due(turn: Turn, row: DeviceRow) -> DeviceRow:
    """Set when the row wants to be woken: the earliest of all its deadlines."""
    instants = [
        certificate.due_at(row),
        rotation.deadline_at(row.rotation),
        anomaly.due_at(turn, row),
    ]
    if isinstance(row.rotation, Idle):
        instants.append(certificate.renew_at(row, turn.policy))
    at = min((one for one in instants if one), default=0)
    return changed(row, next_due_at=at, applied_offset=turn.offset)


def _stamp(row: DeviceRow, offset: int) -> DeviceRow:
    return row if row.applied_offset == offset else changed(row, applied_offset=offset)


def _park(row: DeviceRow) -> DeviceRow:
    return changed(row, next_due_at=0)


def _reason(text: str) -> Reason:
    try:
        return Reason(text)
    except ValueError:
        return Reason.UNKNOWN_TYPE


MACHINE: Machine[DeviceRow] = Machine(
    topic=DEVICE_EVENTS,
    version=CORE_VERSION,
    step=step,
    due=due,
    stamp=_stamp,
    park=_park,
    count=count,
)
