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
    device, key = row.device_id, row.device_id.encode()
    counter = row.command_counter + 1
    turn.send(
        DEVICE_COMMANDS,
        key,
        commands.RefuseCertificate(
            turn.new_id("refuse"), device, counter, turn.now, old.fingerprint
        ),
    )
    revoke(turn, device, old, Reason.CERTIFICATE_RETIRED)
    turn.send(
        DEVICE_COMMANDS,
        key,
        commands.DropCertificate(
            turn.new_id("drop"),
            device,
            counter + 1,
            turn.now,
            max(old.not_after_at, until),
            old.fingerprint,
        ),
    )
    row.command_counter = counter + 1
    certificate.put(row, changed(old, status=certificate.UNDER_RETIRED, grace_until_at=until))


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
