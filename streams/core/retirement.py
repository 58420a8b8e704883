"""The end of a certificate, or of a wish for one: what door, issuer and device are told of it.

Within its grace a certificate is under-retired: what its sessions had sent before still arrives.
"""

from schemas import commands
from schemas.reasons import Reason
from schemas.records import changed
from schemas.states import DeviceRow, HeldCertificate
from schemas.topics import CERTIFICATE_REQUESTS, DEVICE_COMMANDS
from streams.core import certificate
from streams.core.turn import Turn

CANDIDATES_MAX = 8
"""Issued certificates that wait for their first use; one more retires the oldest."""


def make_room(turn: Turn, row: DeviceRow) -> None:
    """Retire the oldest candidates where one more would be too many."""
    waiting = [one for one in row.certificates if one.status == certificate.CANDIDATE]
    for old in waiting[: max(0, len(waiting) + 1 - CANDIDATES_MAX)]:
        retire(turn, row, old, turn.now + turn.policy.grace_ms)


def retire(turn: Turn, row: DeviceRow, old: HeldCertificate, until: int) -> None:
    """Have a certificate refused at the doors, revoked by the issuer and dropped by its device."""
    refuse(turn, row, old.fingerprint)
    revoke(turn, row.device_id, old, Reason.CERTIFICATE_RETIRED)
    row.command_counter += 1
    turn.send(
        DEVICE_COMMANDS,
        row.device_id.encode(),
        commands.DropCertificate(
            turn.new_id("drop"),
            row.device_id,
            row.command_counter,
            turn.now,
            max(old.not_after_at, until),
            old.fingerprint,
        ),
    )
    certificate.put(row, changed(old, status=certificate.UNDER_RETIRED, grace_until_at=until))


def refuse(turn: Turn, row: DeviceRow, fingerprint: bytes) -> None:
    """Have the doors refuse a certificate."""
    row.command_counter += 1
    turn.send(
        DEVICE_COMMANDS,
        row.device_id.encode(),
        commands.RefuseCertificate(
            turn.new_id("refuse"), row.device_id, row.command_counter, turn.now, fingerprint
        ),
    )


def revoke(turn: Turn, device_id: str, old: HeldCertificate, reason: Reason) -> None:
    """Have the issuer revoke a certificate of its own.

    Another CA's serial has no place on our list: it could name a certificate that we have issued.
    """
    if old.provisioning:
        return
    turn.send(
        CERTIFICATE_REQUESTS,
        device_id.encode(),
        commands.RevokeCertificate(
            turn.new_id("revoke"),
            device_id,
            old.fingerprint,
            old.serial,
            old.not_after_at,
            turn.now,
            reason.value,
        ),
    )


def turn_away(turn: Turn, device_id: str, spki: bytes, reason: Reason, detail: str = "") -> None:
    """Tell the door that waits for a certificate on this key that there is none."""
    turn.send(
        DEVICE_COMMANDS,
        device_id.encode(),
        commands.RefuseRenewal(
            turn.new_id("no-renewal"), device_id, 0, turn.now, spki, reason.value, detail
        ),
    )
