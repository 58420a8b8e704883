"""The rotation saga: from the order to the proof of use, and the retirement of the old.

    idle → requested → csr-received → issued → delivered → proven → retired → idle
                     ↘ failed(reason) → retry with derived backoff → abandoned (alert)

Every state but idle and abandoned has a deadline. An event under any candidate proves that
candidate, whatever the saga's state: a device that has switched is never locked out. What a device
asks for by itself (renewal.py) enters at csr-received, is attempt 0, and falls back to idle.
`MOVES` is the table that the docs' diagram is drawn from; `_enter` allows no other move.
"""

import hashlib

from schemas import commands
from schemas.decisions import DecisionName, Severity
from schemas.events import (
    CertificateIssued,
    CommandAnswered,
    RotationOrdered,
    SigningRefused,
    SigningRequested,
)
from schemas.reasons import Reason
from schemas.records import changed
from schemas.states import (
    Abandoned,
    CsrReceived,
    Delivered,
    DeviceRow,
    Failed,
    HeldCertificate,
    Idle,
    Issued,
    Proven,
    Requested,
    Rotation,
    SagaStep,
)
from schemas.topics import CERTIFICATE_REQUESTS, DEVICE_COMMANDS
from streams.core import backoff, certificate, retirement
from streams.core.turn import Turn

JOURNEY_MAX = 16
"""Saga steps that a row remembers."""
ORDERS_KEPT_MAX = 16
"""Orders and RotateCertificate commands that a row remembers, to know a late copy or answer."""
ORDER_ID_CHARACTERS_MAX = 64
UNASKED = 0
"""The attempt of a renewal that the device began by itself: no further one follows it."""

IDLE = "idle"
NAMES: dict[type[Rotation], str] = {
    Idle: IDLE,
    Requested: "requested",
    CsrReceived: "csr-received",
    Issued: "issued",
    Delivered: "delivered",
    Proven: "proven",
    Failed: "failed",
    Abandoned: "abandoned",
}
MOVES: dict[str, frozenset[str]] = {
    "idle": frozenset({"requested", "csr-received", "proven"}),
    "requested": frozenset({"csr-received", "failed", "abandoned", "proven"}),
    "csr-received": frozenset({"issued", "failed", "abandoned", "proven", "idle"}),
    "issued": frozenset({"delivered", "failed", "abandoned", "proven", "idle", "csr-received"}),
    "delivered": frozenset({"failed", "abandoned", "proven", "idle", "csr-received"}),
    "proven": frozenset({"idle", "proven"}),
    "failed": frozenset({"requested", "csr-received", "proven"}),
    "abandoned": frozenset({"requested", "csr-received", "proven"}),
}
FAILURES = frozenset(
    {
        Reason.CERTIFICATE_RETIRED,
        Reason.DEVICE_AWAY,
        Reason.DEVICE_FAILED,
        Reason.DEVICE_REFUSED,
        Reason.ISSUER_AWAY,
        Reason.ISSUER_REFUSED,
        Reason.KEY_REUSED,
        Reason.NOT_PROVEN,
        Reason.WEAK_KEY,
        Reason.WRONG_NONCE,
        Reason.WRONG_SIGNATURE,
        Reason.WRONG_SUBJECT,
    }
)
"""Why an attempt fails."""


def name(rotation: Rotation) -> str:
    """Return the state's name, as in the diagram."""
    return NAMES[type(rotation)]


def ordered(turn: Turn, row: DeviceRow, event: RotationOrdered) -> None:
    """Somebody asked for a rotation. A late copy of the order changes nothing.

    A fleet's order that comes within the grace of the last rotation begins behind it.
    """
    if not is_new(row, event.order_id):
        return
    if isinstance(row.rotation, Idle | Failed | Abandoned):
        start(turn, row, Reason.ORDERED)
    elif not (isinstance(row.rotation, Proven) and row.belongs.order_id == event.order_id):
        refuse(turn, row, Reason.REPEATED, event.order_id)


def is_new(row: DeviceRow, order_id: str) -> bool:
    """Tell whether an order has not come before, and remember it."""
    mark = order_id
    if len(mark) > ORDER_ID_CHARACTERS_MAX:
        mark = hashlib.sha256(mark.encode()).hexdigest()
    if mark in row.orders:
        return False
    row.orders = (*row.orders, mark)[-ORDERS_KEPT_MAX:]
    return True


def start(turn: Turn, row: DeviceRow, reason: Reason, attempt: int = 1) -> None:
    """Ask the device for a signing request. Answers idle, failed and abandoned rows."""
    command_id = turn.new_id("rotate")
    row.orders = (*row.orders, command_id)[-ORDERS_KEPT_MAX:]
    nonce = turn.nonce(f"{row.device_id}/{command_id}")
    deadline = turn.now + turn.policy.answer_within_ms
    if attempt == 1:
        row.journey = ()
    row.command_counter += 1
    asked = Requested(command_id, nonce, attempt, deadline)
    _enter(turn, row, asked, reason)
    turn.decide(
        DecisionName.ROTATION_STARTED,
        reason,
        f"device:{row.device_id}",
        values={"attempt": attempt, "fingerprint": certificate.active(row).fingerprint.hex()},
    )
    send_pending(turn, row, asked)


def resend(turn: Turn, row: DeviceRow) -> None:
    """A session opened: send the pending command again, or go on with what waited for the device.

    A device that comes and goes without an answer gains nothing by it: its attempts count on, and
    a rotation that was given up starts anew no sooner than `again_at`.
    """
    rotation = row.rotation
    if isinstance(rotation, Requested | Issued):
        send_pending(turn, row, rotation)
    elif isinstance(rotation, Failed) and rotation.reason == Reason.DEVICE_AWAY:
        start(turn, row, Reason.DEVICE_AWAY, rotation.attempt + 1)
    elif isinstance(rotation, Abandoned) and rotation.reason == Reason.DEVICE_AWAY:
        if turn.now >= rotation.again_at:
            start(turn, row, Reason.DEVICE_AWAY)
        else:
            row.rotation = changed(rotation, deadline_at=rotation.again_at)


def requested(turn: Turn, row: DeviceRow, event: SigningRequested) -> None:
    """Judge the facts of a signing request; hand it to the issuer or say why not.

    A command is sent again with every session, so an honest device may answer it twice, or after
    its deadline: the saga is past it then, and nothing is wrong. What was never asked is refused.
    """
    rotation = row.rotation
    if not isinstance(rotation, Requested) or rotation.command_id != event.command_id:
        if event.command_id not in row.orders:
            refuse(turn, row, Reason.NO_ROTATION, event.command_id)
        return
    reason = objection(row, rotation.nonce, event)
    if reason is not None:
        fail(turn, row, reason, rotation.attempt)
        return
    accept(turn, row, event, rotation.attempt, Reason.NONE)


def accept(
    turn: Turn, row: DeviceRow, event: SigningRequested, attempt: int, reason: Reason
) -> None:
    """Hand a request to the issuer."""
    request_id = turn.new_id("sign")
    current = certificate.find(row, event.evidence.certificate_sha256)
    assert current is not None
    turn.send(
        CERTIFICATE_REQUESTS,
        row.device_id.encode(),
        commands.SignCertificate(
            request_id=request_id,
            device_id=row.device_id,
            signed_request=event.signed_request,
            csr=event.csr,
            nonce=event.nonce,
            current_certificate=current.der,
            not_before_at=turn.now - certificate.NOT_BEFORE_LEEWAY_MS,
            requested_at=turn.now,
        ),
    )
    turn.decide(
        DecisionName.SIGNING_ACCEPTED,
        Reason.NONE,
        f"device:{row.device_id}",
        values={"request": request_id, "key": event.key},
    )
    deadline = turn.now + turn.policy.issue_within_ms
    received = CsrReceived(request_id, event.spki_sha256, attempt, deadline)
    _enter(turn, row, received, reason)


def issued(turn: Turn, row: DeviceRow, event: CertificateIssued) -> None:
    """The issuer signed: send the certificate down. Only the first one for a request counts."""
    rotation = row.rotation
    if certificate.find(row, event.certificate.fingerprint) is not None:
        return
    if not isinstance(rotation, CsrReceived) or rotation.request_id != event.request_id:
        refuse(turn, row, Reason.NO_ROTATION, event.request_id)
        return
    if rotation.spki_sha256 != event.certificate.spki_sha256:
        fail(turn, row, Reason.ISSUER_REFUSED, rotation.attempt)
        return
    retirement.make_room(turn, row)
    certificate.put(row, certificate.held(event.certificate, certificate.CANDIDATE))
    deadline = turn.now + turn.policy.answer_within_ms
    sent = Issued(turn.new_id("install"), event.certificate.fingerprint, rotation.attempt, deadline)
    row.command_counter += 1
    turn.decide(
        DecisionName.CERTIFICATE_ACCEPTED,
        Reason.NONE,
        f"device:{row.device_id}",
        values={"fingerprint": sent.fingerprint.hex(), "serial": event.certificate.serial},
    )
    _enter(turn, row, sent, Reason.NONE)
    send_pending(turn, row, sent)


def refused(turn: Turn, row: DeviceRow, event: SigningRefused) -> None:
    """The issuer refused."""
    rotation = row.rotation
    if not isinstance(rotation, CsrReceived) or rotation.request_id != event.request_id:
        return
    fail(turn, row, Reason.ISSUER_REFUSED, rotation.attempt, event.reason)


def answered(turn: Turn, row: DeviceRow, event: CommandAnswered) -> None:
    """The device answered a command."""
    rotation = row.rotation
    if not isinstance(rotation, Requested | Issued) or rotation.command_id != event.command_id:
        return
    if event.outcome in ("failed", "refused"):
        why = Reason.DEVICE_FAILED if event.outcome == "failed" else Reason.DEVICE_REFUSED
        fail(turn, row, why, rotation.attempt, event.detail)
    elif event.outcome == "done" and isinstance(rotation, Issued):
        deadline = turn.now + turn.policy.prove_within_ms
        turn.decide(
            DecisionName.CERTIFICATE_DELIVERED,
            Reason.NONE,
            f"device:{row.device_id}",
            values={"fingerprint": rotation.fingerprint.hex()},
        )
        delivered = Delivered(rotation.fingerprint, rotation.attempt, deadline)
        _enter(turn, row, delivered, Reason.NONE)


def prove(turn: Turn, row: DeviceRow, proven: HeldCertificate) -> None:
    """The first event under a candidate: it becomes active, all others are on their way out."""
    until = turn.now + turn.policy.grace_ms
    for old in row.certificates:
        if old.fingerprint == proven.fingerprint or old.status in (
            certificate.RETIRED,
            certificate.UNDER_RETIRED,
        ):
            continue
        retirement.retire(turn, row, old, until)
    certificate.put(row, changed(proven, status=certificate.ACTIVE, first_used_offset=turn.offset))
    turn.decide(
        DecisionName.CERTIFICATE_PROVEN,
        Reason.PROVEN_IN_USE,
        f"device:{row.device_id}",
        values={"fingerprint": proven.fingerprint.hex(), "serial": proven.serial},
    )
    row.expiry_told = False
    _enter(turn, row, Proven(proven.fingerprint, until), Reason.PROVEN_IN_USE)


def due(turn: Turn, row: DeviceRow) -> None:
    """Move on where the state's deadline is past, and start where the certificate nears its end."""
    rotation = row.rotation
    if isinstance(rotation, Idle):
        _near_expiry(turn, row)
        return
    if not rotation.deadline_at or turn.now < rotation.deadline_at:
        return
    match rotation:
        case Proven():
            row.rotations += 1
            turn.decide(
                DecisionName.ROTATION_COMPLETED,
                Reason.PROVEN_IN_USE,
                f"device:{row.device_id}",
                values={"fingerprint": rotation.fingerprint.hex(), "rotations": row.rotations},
            )
            _enter(turn, row, Idle(), Reason.PROVEN_IN_USE)
        case Failed():
            start(turn, row, Reason(rotation.reason), rotation.attempt + 1)
        case Abandoned():
            start(turn, row, Reason(rotation.reason))
        case _:
            late = {CsrReceived: Reason.ISSUER_AWAY, Delivered: Reason.NOT_PROVEN}
            away = Reason.NOT_PROVEN if rotation.attempt == UNASKED else Reason.DEVICE_AWAY
            fail(turn, row, late.get(type(rotation), away), rotation.attempt)


def fail(turn: Turn, row: DeviceRow, reason: Reason, attempt: int, detail: str = "") -> None:
    """End the attempt; the next one comes after a back-off, until all are spent.

    A door may hold the device's request open: it is told as well.
    """
    assert reason in FAILURES, reason
    rotation = row.rotation
    if isinstance(rotation, CsrReceived):
        retirement.turn_away(turn, row.device_id, rotation.spki_sha256, reason, detail)
    spent = attempt >= turn.policy.attempts_max
    turn.decide(
        DecisionName.ROTATION_ABANDONED if spent else DecisionName.ROTATION_FAILED,
        reason,
        f"device:{row.device_id}",
        severity=Severity.CRITICAL if spent else Severity.WARNING,
        values={"attempt": attempt, "state": name(row.rotation), "detail": detail},
    )
    policy = turn.policy
    if attempt == UNASKED:
        _enter(turn, row, Idle(), reason)
    elif spent:
        _enter(turn, row, Abandoned(reason.value, turn.now + policy.backoff_max_ms), reason)
    else:
        wait = backoff.wait_ms(row.device_id, attempt, policy.backoff_ms, policy.backoff_max_ms)
        _enter(turn, row, Failed(reason.value, attempt, turn.now + wait), reason)


def refuse(turn: Turn, row: DeviceRow, reason: Reason, what: str) -> None:
    """Say that an event was refused and changed nothing."""
    turn.decide(
        DecisionName.EVENT_REFUSED,
        reason,
        f"device:{row.device_id}",
        severity=Severity.WARNING,
        values={"what": what, "state": name(row.rotation)},
    )


def _near_expiry(turn: Turn, row: DeviceRow) -> None:
    if row.belongs.fleet_id:
        return  # its fleet is told, and orders the rotation
    if turn.now < certificate.renew_at(row, turn.policy):
        return
    certificate.tell_near(turn, row)
    start(turn, row, Reason.NEAR_EXPIRY)


def objection(row: DeviceRow, nonce: bytes | None, event: SigningRequested) -> Reason | None:
    """Return the first rule that the request breaks; policies in order, first violation wins.

    Where no command gave a nonce, None, none is compared.
    """
    current = certificate.active(row)
    known = {one.spki_sha256 for one in row.certificates}
    checks = (
        (event.evidence.certificate_sha256 == current.fingerprint, Reason.CERTIFICATE_RETIRED),
        (nonce in (None, event.nonce), Reason.WRONG_NONCE),
        (event.subject == row.device_id, Reason.WRONG_SUBJECT),
        (event.csr_signature_valid, Reason.WRONG_SIGNATURE),
        (event.request_signature_valid, Reason.WRONG_SIGNATURE),
        (event.key_accepted, Reason.WEAK_KEY),
        (event.spki_sha256 not in known, Reason.KEY_REUSED),
    )
    return next((reason for holds, reason in checks if not holds), None)


def send_pending(turn: Turn, row: DeviceRow, rotation: Requested | Issued) -> None:
    """Send the command of the state; the same id each time, so that a device does it once."""
    shared = (rotation.command_id, row.device_id, row.command_counter, turn.now)
    command: commands.Command
    if isinstance(rotation, Requested):
        command = commands.RotateCertificate(*shared, rotation.deadline_at, rotation.nonce)
    else:
        candidate = certificate.find(row, rotation.fingerprint)
        assert candidate is not None
        command = commands.InstallCertificate(*shared, rotation.deadline_at, candidate.der)
    turn.send(DEVICE_COMMANDS, row.device_id.encode(), command)


def _enter(turn: Turn, row: DeviceRow, rotation: Rotation, reason: Reason) -> None:
    before, after = name(row.rotation), name(rotation)
    assert after in MOVES[before], f"{before} → {after}"
    step = SagaStep(after, reason.value, turn.offset, turn.now)
    row.journey = (*row.journey, step)[-JOURNEY_MAX:]
    row.rotation = rotation
