"""The device's part in its fleet: whose member it is, its order in work, what the fleet is told.

Rules: a device is in one fleet, and this machine is the judge: a fleet asks, and is answered. A
member's certificate that nears its end is told to the fleet, once, and the fleet's campaign orders
the rotation; a device without a fleet rotates by itself. An order ends when its work does: the
first event under a new certificate, a device's `done`, or the last failure. A newer order of the
fleet takes the place of an older one: the older one's end would come too late for it anyway.
"""

from typing import Any, assert_never

from schemas import commands, events
from schemas import fleet_events as fleets
from schemas.decisions import DecisionName, Severity
from schemas.envelope import HOPS_MAX, Cause
from schemas.progress import Progress, is_further
from schemas.reasons import Reason
from schemas.records import changed
from schemas.states import (
    FLEET_KEY_PREFIX,
    NOBODYS,
    Abandoned,
    DeviceRow,
    FleetPolicyRow,
    Idle,
    Proven,
    UpdateInWork,
)
from schemas.topics import DEVICE_COMMANDS, FLEET_EVENTS
from streams.core import certificate, health, matching, rotation
from streams.core.turn import Turn

ROTATION, UPDATE = "rotation", "update"
SUCCEEDED, FAILED = "succeeded", "failed"


def asked(
    turn: Turn,
    row: DeviceRow,
    event: events.FleetAssigned | events.FleetUnassigned | events.UpdateOrdered,
) -> None:
    """Answer what a fleet asks."""
    match event:
        case events.FleetAssigned():
            assigned(turn, row, event)
        case events.FleetUnassigned():
            unassigned(turn, row, event)
        case events.UpdateOrdered():
            update_ordered(turn, row, event)
        case _:
            assert_never(event)


def assigned(turn: Turn, row: DeviceRow, event: events.FleetAssigned) -> None:
    """A fleet asks for the device: agree, or say that it is another's."""
    held = row.belongs.fleet_id
    if held not in ("", event.fleet_id, event.from_fleet_id):
        _answer(turn, event.device_id, event.fleet_id, Reason.IN_ANOTHER_FLEET, event.cause)
        return
    if held not in ("", event.fleet_id):
        cause = _cause(turn, event.cause)
        if cause is not None:
            moved = fleets.DeviceRemoved(held, row.device_id, Reason.MOVED.value, "", cause)
            _tell(turn, held, moved)
    if held != event.fleet_id:
        row.belongs = changed(NOBODYS, fleet_id=event.fleet_id)
    _report(turn, row, event.cause)
    matching.ask(turn, row)  # its tags may have changed since it was asked for


def refuse_fleet(turn: Turn, event: events.FleetAssigned, reason: Reason) -> None:
    """A fleet asks for a device that is not registered, or retired."""
    _answer(turn, event.device_id, event.fleet_id, reason, event.cause)


def unassigned(turn: Turn, row: DeviceRow, event: events.FleetUnassigned) -> None:
    """The fleet lets the device go; another one, or this one anew, may have a query for it."""
    if row.belongs.fleet_id == event.fleet_id:
        row.belongs = NOBODYS
        unmatched = event.reason == Reason.UNMATCHED.value
        matching.ask(turn, row, but="" if unmatched else event.fleet_id)


def rotation_ordered(row: DeviceRow, event: events.RotationOrdered) -> None:
    """Remember whose order a rotation is."""
    known = event.order_id in row.orders
    if event.fleet_id and event.fleet_id == row.belongs.fleet_id and not known:
        row.belongs = changed(
            row.belongs,
            order_id=event.order_id,
            campaign_id=event.campaign_id,
            kind=ROTATION,
            update=None,
        )


def begin_late(turn: Turn, row: DeviceRow) -> None:
    """Begin the rotation that the fleet has ordered while another one was in work."""
    if waits(row):
        rotation.start(turn, row, Reason.ORDERED)


def waits(row: DeviceRow) -> bool:
    """Tell whether the fleet has ordered a rotation that is not in work."""
    return row.belongs.kind == ROTATION and isinstance(row.rotation, Idle)


def update_ordered(turn: Turn, row: DeviceRow, event: events.UpdateOrdered) -> None:
    """A campaign asks for an update: send it down."""
    belongs = row.belongs
    if belongs.fleet_id != event.fleet_id:
        turn.decide(
            DecisionName.EVENT_REFUSED,
            Reason.NOT_A_MEMBER,
            f"device:{row.device_id}",
            severity=Severity.WARNING,
            values={"what": "UpdateOrdered", "fleet": event.fleet_id},
        )
        return
    if not rotation.is_new(row, event.order_id):
        return
    row.command_counter += 1
    update = UpdateInWork(turn.new_id("update"), event.artefact, False, turn.now, event.deadline_at)
    row.belongs = changed(
        belongs,
        order_id=event.order_id,
        campaign_id=event.campaign_id,
        kind=UPDATE,
        update=update,
    )
    _send(turn, row, update)


def resend(turn: Turn, row: DeviceRow) -> None:
    """A session opened: an update that was not accepted goes down again, under the same id."""
    update = row.belongs.update
    if update is not None and not update.accepted and turn.now < update.deadline_at:
        _send(turn, row, update)


def answered(turn: Turn, row: DeviceRow, event: events.CommandAnswered) -> None:
    """The device answered its update."""
    update = row.belongs.update
    if update is None or update.command_id != event.command_id:
        return
    if event.outcome == "accepted":
        _accepted(turn, row, update, event.progress)
    elif event.outcome == "done":
        _end(turn, row, SUCCEEDED, Reason.NONE)
    elif event.outcome == "refused":
        _end(turn, row, FAILED, Reason.DEVICE_REFUSED)
    elif event.outcome == "failed":
        back = event.progress == Progress.ROLLED_BACK
        _end(turn, row, FAILED, Reason.ROLLED_BACK if back else Reason.DEVICE_FAILED)


def follow(turn: Turn, before: DeviceRow, row: DeviceRow) -> None:
    """Tell the fleet what a step has changed: the end of a rotation, another certificate."""
    belongs = row.belongs
    if not belongs.fleet_id or row.rotation is before.rotation:
        return
    proven = isinstance(row.rotation, Proven)
    if proven and certificate.active(row) is not certificate.active(before):
        _report(turn, row, None)
    if belongs.kind != ROTATION or not belongs.order_id:
        return
    if proven:
        _end(turn, row, SUCCEEDED, Reason.PROVEN_IN_USE)
    elif isinstance(row.rotation, Abandoned):
        _end(turn, row, FAILED, Reason(row.rotation.reason))


def near_at(turn: Turn, row: DeviceRow) -> int:
    """Return when the fleet is to be told of the certificate's end, zero where it was."""
    held = certificate.active(row)
    if row.belongs.neared == held.fingerprint.hex():
        return 0
    return certificate.near_at(row, policy_of(turn, row).days_before_expiry)


def nearing(turn: Turn, row: DeviceRow) -> None:
    """The member's certificate nears its end: say it, and tell the fleet."""
    held = certificate.active(row)
    at = near_at(turn, row)
    if not at or turn.now < at:
        return
    certificate.tell_near(turn, row)
    cause = _cause(turn, None)
    assert cause is not None
    belongs = row.belongs
    row.belongs = changed(belongs, neared=held.fingerprint.hex())
    near = fleets.CertificateNeared(
        belongs.fleet_id, row.device_id, held.not_before_at, held.not_after_at, cause
    )
    _tell(turn, belongs.fleet_id, near)


def silent_after_ms(turn: Turn, row: DeviceRow) -> int:
    """Return after how much silence a health check is missed."""
    if not row.belongs.fleet_id:
        return turn.policy.silent_after_ms
    found = policy_of(turn, row)
    if isinstance(found, FleetPolicyRow):
        return health.CHECKS_MISSED * found.health_check_interval_ms
    return turn.policy.silent_after_ms


def judge_health(turn: Turn, row: DeviceRow) -> int:
    """Tell the fleet where the member's health has changed; return when it changes by itself."""
    interval_ms = silent_after_ms(turn, row) // health.CHECKS_MISSED
    silent_since, alert = 0, Reason.NONE
    for watch in row.watches:
        if watch.rule == Reason.SILENT.value:
            silent_since = watch.raised_at
        elif watch.raised_at and alert is Reason.NONE:
            alert = Reason(watch.rule)
    found = health.judge(
        session_open=row.connected,
        last_seen_at=row.last_seen_at or row.registered_at,
        silent_since=silent_since,
        alert=alert,
        interval_ms=interval_ms,
        now=turn.now,
    )
    belongs = row.belongs
    if found.health != belongs.health:
        cause = _cause(turn, None)
        assert cause is not None
        word = fleets.HealthReported(
            belongs.fleet_id, row.device_id, found.health.value, found.reason.value, cause
        )
        _tell(turn, belongs.fleet_id, word)
        row.belongs = changed(belongs, health=found.health.value)
    return found.next_due_at


def policy_of(turn: Turn, row: DeviceRow) -> Any:
    """Return what the fleet's devices go by; the partition's policy until the fleet has told."""
    found: FleetPolicyRow | None = turn.beside(FLEET_KEY_PREFIX + row.belongs.fleet_id.encode())
    return turn.policy if found is None else found


def _accepted(turn: Turn, row: DeviceRow, update: UpdateInWork, said: str) -> None:
    """The update is in work: the fleet is told where it has come further."""
    belongs, further = row.belongs, is_further(said, update.progress)
    known = changed(update, accepted=True, progress=said if further else update.progress)
    row.belongs = changed(belongs, update=known)
    if not further:
        return
    cause = _cause(turn, None)
    assert cause is not None
    where = (belongs.fleet_id, row.device_id, belongs.campaign_id, belongs.order_id)
    _tell(turn, belongs.fleet_id, fleets.OrderProgressed(*where, said, cause))


def _end(turn: Turn, row: DeviceRow, outcome: str, reason: Reason) -> None:
    belongs = row.belongs
    cause = _cause(turn, None)
    assert cause is not None
    ended = fleets.OrderEnded(
        belongs.fleet_id,
        row.device_id,
        belongs.campaign_id,
        belongs.order_id,
        outcome,
        reason.value,
        cause,
    )
    _tell(turn, belongs.fleet_id, ended)
    row.belongs = changed(belongs, order_id="", campaign_id="", kind="", update=None)


def _report(turn: Turn, row: DeviceRow, answers: Cause | None) -> None:
    cause, held = _cause(turn, answers), certificate.active(row)
    if cause is None:
        return
    fleet_id = row.belongs.fleet_id
    word = fleets.MemberReported(
        fleet_id,
        row.device_id,
        True,
        Reason.NONE.value,
        held.not_before_at,
        held.not_after_at,
        cause,
    )
    _tell(turn, fleet_id, word)


def _answer(turn: Turn, device_id: str, fleet_id: str, reason: Reason, answers: Cause) -> None:
    cause = _cause(turn, answers)
    if cause is not None:
        word = fleets.MemberReported(fleet_id, device_id, False, reason.value, 0, 0, cause)
        _tell(turn, fleet_id, word)


def _cause(turn: Turn, answers: Cause | None) -> Cause | None:
    """Return the cause of the next output, None where machines have answered too often."""
    hops = answers.hops + 1 if answers else 1
    return Cause(turn.position, len(turn.outputs), hops) if hops <= HOPS_MAX else None


def _tell(turn: Turn, fleet_id: str, event: Any) -> None:
    turn.send(FLEET_EVENTS, fleet_id.encode(), event)


def _send(turn: Turn, row: DeviceRow, update: UpdateInWork) -> None:
    artefact = update.artefact
    command = commands.InstallUpdate(
        command_id=update.command_id,
        device_id=row.device_id,
        counter=row.command_counter,
        issued_at=turn.now,
        expires_at=update.deadline_at,
        kind=artefact.kind,
        name=artefact.name,
        version=artefact.version,
        uri=artefact.uri,
        size=artefact.size,
        sha256=artefact.sha256,
        signature=artefact.signature,
        key_id=artefact.key_id,
    )
    turn.send(DEVICE_COMMANDS, row.device_id.encode(), command)
