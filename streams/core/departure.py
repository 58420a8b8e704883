"""The end of a device: retired for good, by itself or with another that takes its place.

Rules: a retired device is let in nowhere. Its certificates are refused at the doors and revoked
without grace; the last one stays its row's active one, which every row has. It leaves its fleet;
nothing of it has a deadline any more. Its id is never used again: what comes under it is refused.
Who takes its place gets its tags, beside what it has itself, and its place in the fleet.
"""

from schemas import events
from schemas import fleet_events as fleets
from schemas.decisions import DecisionName, Severity
from schemas.envelope import Cause, is_device_id
from schemas.reasons import Reason
from schemas.states import NO_ODDITIES, NOBODYS, DeviceRow, HeldCertificate, Idle
from schemas.topics import DEVICE_EVENTS, FLEET_EVENTS
from streams.core import belonging, certificate, presence, renewal, retirement
from streams.core.turn import Turn


def retire(turn: Turn, row: DeviceRow, event: events.RetirementOrdered) -> None:
    """Retire a device: shut its certificates out, leave its fleet, stop what is in work."""
    heir = event.replaced_by
    if heir and (heir == row.device_id or not is_device_id(heir)):
        _refuse(turn, row, Reason.MALFORMED, "RetirementOrdered")
        return
    row.retired_at, row.replaced_by = max(1, turn.now), event.replaced_by
    turn.decide(
        DecisionName.DEVICE_RETIRED,
        Reason.REPLACED if event.replaced_by else Reason.ORDERED,
        f"device:{row.device_id}",
        values={"actor": event.actor, "replaced_by": event.replaced_by, "tags": " ".join(row.tags)},
    )
    for one in row.certificates:
        if one.status in (certificate.ACTIVE, certificate.CANDIDATE):
            _shut_out(turn, row, one)
    if event.replaced_by:
        _hand_over(turn, row, event)
    if row.belongs.fleet_id:
        _leave(turn, row, event)
    row.rotation, row.watches, row.oddities = Idle(), (), NO_ODDITIES


def answer(turn: Turn, row: DeviceRow, event: events.Keyed) -> None:
    """Answer an event of a device that is retired."""
    match event:
        case events.SessionClosed():
            presence.closed(row, event)
        case events.CertificateRevoked():
            certificate.revoked(row, event.fingerprint, event.crl_number)
        case events.CertificateIssued():
            _issued_late(turn, row, event)
        case events.FleetAssigned():
            belonging.refuse_fleet(turn, event, Reason.DEVICE_RETIRED)
        case events.RetirementOrdered() if event.replaced_by in ("", row.replaced_by):
            pass
        case _:
            _refuse(turn, row, Reason.DEVICE_RETIRED, type(event).__name__)
            renewal.turned_away(turn, event, Reason.DEVICE_RETIRED)


def _issued_late(turn: Turn, row: DeviceRow, event: events.CertificateIssued) -> None:
    """The issuer signed what was asked for before: nobody is sent it, and it opens no door."""
    if certificate.find(row, event.certificate.fingerprint) is not None:
        return
    late = certificate.held(event.certificate, certificate.RETIRED)
    certificate.put(row, late)
    _shut_out(turn, row, late)
    _refuse(turn, row, Reason.DEVICE_RETIRED, type(event).__name__)


def _refuse(turn: Turn, row: DeviceRow, reason: Reason, what: str) -> None:
    turn.decide(
        DecisionName.EVENT_REFUSED,
        reason,
        f"device:{row.device_id}",
        severity=Severity.WARNING,
        values={"what": what},
    )


def _shut_out(turn: Turn, row: DeviceRow, one: HeldCertificate) -> None:
    retirement.refuse(turn, row, one.fingerprint)
    retirement.revoke(turn, row.device_id, one, Reason.DEVICE_RETIRED)


def _hand_over(turn: Turn, row: DeviceRow, event: events.RetirementOrdered) -> None:
    if not row.tags:
        return
    cause = Cause(turn.position, len(turn.outputs), 1)
    tags = events.DeviceTagged(event.replaced_by, row.tags, (), event.actor, cause)
    turn.send(DEVICE_EVENTS, event.replaced_by.encode(), tags)


def _leave(turn: Turn, row: DeviceRow, event: events.RetirementOrdered) -> None:
    """Leave the fleet, and then let the other one in: a full fleet has room again by then."""
    fleet_id = row.belongs.fleet_id
    cause = Cause(turn.position, len(turn.outputs), 1)
    reason = Reason.REPLACED if event.replaced_by else Reason.DEVICE_RETIRED
    left = fleets.DeviceRemoved(fleet_id, row.device_id, reason.value, event.actor, cause)
    turn.send(FLEET_EVENTS, fleet_id.encode(), left)
    if event.replaced_by:
        cause = Cause(turn.position, len(turn.outputs), 1)
        joins = fleets.DeviceAdded(fleet_id, event.replaced_by, "operator", event.actor, cause)
        turn.send(FLEET_EVENTS, fleet_id.encode(), joins)
    row.belongs = NOBODYS
