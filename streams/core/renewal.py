"""Renewal by the device's own will (EST, RFC 7030 and RFC 9148): into the saga without an order.

Rules of this file: the credential is the session's certificate, which the door has seen and vouches
for. The same key asked for twice gets the same certificate; another one while the issuer works
waits. A device is given few certificates in an hour. What was asked for becomes a candidate beside
the active certificate, like any other: only its first use retires the old one, and a device that
loses it has lost nothing. Whoever is refused is told through the door that it asked.
"""

from typing import TypeGuard

from schemas import commands
from schemas.decisions import DecisionName
from schemas.events import Keyed, SigningRequested
from schemas.reasons import Reason
from schemas.states import (
    CsrReceived,
    Delivered,
    DeviceRow,
    Failed,
    HeldCertificate,
    Issued,
    Proven,
    Requested,
    Rotation,
)
from schemas.topics import DEVICE_COMMANDS
from streams.core import certificate, retirement, rotation
from streams.core.turn import Turn

GIVEN_MAX = 3
"""Certificates that a device may hold of the last SPAN_MS; it is refused one more."""
SPAN_MS = 3_600_000


def is_one(event: Keyed) -> TypeGuard[SigningRequested]:
    """Tell whether a device asks by itself: no command was answered."""
    return isinstance(event, SigningRequested) and not event.command_id


def asked(turn: Turn, row: DeviceRow, event: SigningRequested) -> None:
    """A device asks for its next certificate, under its active one."""
    saga = row.rotation
    waiting = _candidate(row, event.spki_sha256)
    if waiting is not None:
        _hand_over(turn, row, waiting)
        return
    if isinstance(saga, CsrReceived) and saga.spki_sha256 == event.spki_sha256:
        return  # on its way
    reason = _objection(turn, row, event)
    if reason is not None:
        rotation.refuse(turn, row, reason, "renewal")
        retirement.turn_away(turn, row.device_id, event.spki_sha256, reason)
        return
    attempt = _attempt(saga)
    if attempt == rotation.UNASKED:
        row.journey = ()
        turn.decide(
            DecisionName.ROTATION_STARTED,
            Reason.DEVICE_ASKED,
            f"device:{row.device_id}",
            values={
                "attempt": attempt,
                "fingerprint": certificate.active(row).fingerprint.hex(),
            },
        )
    rotation.accept(turn, row, event, attempt, Reason.DEVICE_ASKED)


def turned_away(turn: Turn, event: Keyed, reason: Reason) -> None:
    """Tell the door where a device that asks by itself was refused before it was heard."""
    if is_one(event):
        retirement.turn_away(turn, event.device_id, event.spki_sha256, reason)


def _objection(turn: Turn, row: DeviceRow, event: SigningRequested) -> Reason | None:
    reason = rotation.objection(row, None, event)
    if reason is not None:
        return reason
    if isinstance(row.rotation, CsrReceived | Proven):
        return Reason.RENEWAL_IN_WORK
    since = turn.now - certificate.NOT_BEFORE_LEEWAY_MS - SPAN_MS
    given = sum(one.not_before_at > since for one in row.certificates)
    return Reason.RENEWED_OFTEN if given >= GIVEN_MAX else None


def _attempt(saga: Rotation) -> int:
    """Return the attempt that an order has come to: the device's own request is its answer."""
    if isinstance(saga, Requested | Issued | Delivered | Failed):
        return saga.attempt
    return rotation.UNASKED


def _candidate(row: DeviceRow, spki: bytes) -> HeldCertificate | None:
    """Return the certificate that was made for this key and waits for its first use."""
    for one in row.certificates:
        if one.spki_sha256 == spki and one.status == certificate.CANDIDATE:
            return one
    return None


def _hand_over(turn: Turn, row: DeviceRow, waiting: HeldCertificate) -> None:
    """Send the certificate again: the device, or its door, has not had it."""
    saga = row.rotation
    if isinstance(saga, Issued) and saga.fingerprint == waiting.fingerprint:
        rotation.send_pending(turn, row, saga)
        return
    row.command_counter += 1
    turn.send(
        DEVICE_COMMANDS,
        row.device_id.encode(),
        commands.InstallCertificate(
            turn.new_id("install"),
            row.device_id,
            row.command_counter,
            turn.now,
            turn.now + turn.policy.answer_within_ms,
            waiting.der,
        ),
    )
