"""The rotation saga, branch by branch."""

from typing import Any

import pytest

from schemas import commands
from schemas.events import CertificateRevoked, RotationOrdered, SigningRefused
from schemas.reasons import Reason
from streams.core import backoff, certificate, rotation
from tests.helpers.folding import DEVICE, Log, fingerprint


def asked() -> Log:
    """Return a log whose device was asked to rotate."""
    log = Log().registered(days=20)
    log.opened(1)
    log.tick(1_000)
    assert log.state() == "Requested"
    return log


def delivered() -> Log:
    """Return a log whose device has installed certificate 2."""
    log = asked()
    log.requested(1)
    log.issued(2)
    log.answered(1, "done", log.last(commands.InstallCertificate).command_id)
    assert log.state() == "Delivered"
    return log


def proven() -> Log:
    """Return a log whose device has spoken under certificate 2."""
    log = delivered()
    log.opened(2)
    assert log.state() == "Proven"
    return log


def test_a_certificate_near_its_end_is_rotated_whole() -> None:
    """From the expiry watch to idle: every state, every command, the old certificate closed."""
    log = proven()
    kinds = {type(one.record).__name__ for one in log.outputs}
    assert kinds >= {
        "RotateCertificate",
        "SignCertificate",
        "InstallCertificate",
        "RefuseCertificate",
        "RevokeCertificate",
        "DropCertificate",
    }
    log.add(CertificateRevoked(DEVICE, fingerprint(1), "1", 7))
    log.tick(log.partition.row.policy.grace_ms + 1_000)
    assert log.state() == "Idle"
    old = certificate.find(log.row, fingerprint(1))
    assert old is not None
    assert (old.status, old.crl_number, old.der) == (certificate.RETIRED, 7, b"")
    assert old.closed_offset == len(log.entries) - 1
    assert certificate.active(log.row).fingerprint == fingerprint(2)
    assert log.row.rotations == 1
    names = [one.state for one in log.row.journey]
    assert names == ["requested", "csr-received", "issued", "delivered", "proven", "idle"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"nonce": b"another"}, Reason.WRONG_NONCE),
        ({"subject": "pump-2"}, Reason.WRONG_SUBJECT),
        ({"csr_signature_valid": False}, Reason.WRONG_SIGNATURE),
        ({"request_signature_valid": False}, Reason.WRONG_SIGNATURE),
        ({"key_accepted": False}, Reason.WEAK_KEY),
        ({"spki_sha256": fingerprint(101)}, Reason.KEY_REUSED),
    ],
)
def test_a_bad_request_fails_the_attempt_with_its_reason(
    changes: dict[str, Any], reason: Reason
) -> None:
    """Each rule that a request breaks has its own reason, and nothing goes to the issuer."""
    log = asked()
    log.requested(1, **changes)
    assert log.state() == "Failed"
    assert ("RotationFailed", reason.value) in log.decisions()
    assert not any(isinstance(one.record, commands.SignCertificate) for one in log.outputs)


def test_a_request_for_another_command_changes_nothing() -> None:
    """An answer to what was never asked is refused and leaves the saga where it is."""
    log = asked()
    log.requested(1, command_id="rotate-0-0-0")
    assert log.state() == "Requested"
    assert ("EventRefused", "no-rotation") in log.decisions()


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [("refused", Reason.DEVICE_REFUSED), ("failed", Reason.DEVICE_FAILED)],
)
def test_a_device_may_refuse_or_fail(outcome: str, reason: Reason) -> None:
    """Its answer ends the attempt with its reason."""
    log = asked()
    log.answered(1, outcome, log.last(commands.RotateCertificate).command_id)
    assert ("RotationFailed", reason.value) in log.decisions()


def test_an_absent_device_is_asked_again_and_then_given_up() -> None:
    """Each attempt ends with device-away; the last one is abandoned, critically."""
    log = asked()
    for _ in range(100):
        log.tick(600_000)
    reasons = [one for one in log.decisions() if one[0] in ("RotationFailed", "RotationAbandoned")]
    most = log.partition.row.policy.attempts_max
    assert [name for name, _ in reasons] == ["RotationFailed"] * (most - 1) + ["RotationAbandoned"]
    assert {reason for _, reason in reasons} == {Reason.DEVICE_AWAY.value}


def test_an_abandoned_device_that_returns_is_asked_anew() -> None:
    """The next session of a device that was away starts the saga again."""
    log = asked()
    for _ in range(100):
        log.tick(600_000)
    assert log.state() == "Abandoned"
    log.opened(1)
    assert log.state() == "Requested"


def test_a_silent_issuer_fails_the_attempt() -> None:
    """No answer of the issuer in time is issuer-away."""
    log = asked()
    log.requested(1)
    log.tick(log.partition.row.policy.issue_within_ms + 1)
    assert ("RotationFailed", "issuer-away") in log.decisions()


def test_a_refusing_issuer_fails_the_attempt() -> None:
    """The issuer's refusal ends the attempt."""
    log = asked()
    log.requested(1)
    request = log.last(commands.SignCertificate)
    log.add(SigningRefused(DEVICE, request.request_id, "weak-key", ""))
    assert ("RotationFailed", "issuer-refused") in log.decisions()


def test_a_pending_command_is_sent_again_when_a_session_opens() -> None:
    """The same command id goes down again, so that a device does it once."""
    log = asked()
    first = log.last(commands.RotateCertificate)
    again = [one.record for one in log.opened(1)]
    assert [one.command_id for one in again] == [first.command_id]


def test_a_candidate_is_accepted_whatever_the_saga_says() -> None:
    """A device that switches late, after its attempt has failed, is not locked out."""
    log = delivered()
    log.tick(log.partition.row.policy.prove_within_ms + 1)
    assert ("RotationFailed", "not-proven") in log.decisions()
    log.reported(2)
    assert log.state() == "Proven"
    assert certificate.active(log.row).fingerprint == fingerprint(2)


def test_the_old_certificate_has_its_grace_and_no_more() -> None:
    """Within grace it is under-retired and changes nothing; after it, refused with an alert."""
    log = proven()
    log.reported(1)
    assert ("EventRefused", "under-retired") in log.decisions()
    log.tick(log.partition.row.policy.grace_ms + 1)
    log.reported(1)
    assert ("EventRefused", "certificate-retired") in log.decisions()
    assert ("AlertRaised", "certificate-retired") in log.decisions()
    assert certificate.active(log.row).fingerprint == fingerprint(2)


def test_an_order_starts_a_rotation_and_a_second_one_is_refused() -> None:
    """Operators may order; while one is in work, another order says repeated."""
    log = Log().registered()
    log.add(RotationOrdered(DEVICE, "order-1", "tests"))
    assert log.state() == "Requested"
    log.add(RotationOrdered(DEVICE, "order-2", "tests"))
    assert ("EventRefused", "repeated") in log.decisions()


def test_a_fresh_certificate_is_left_alone() -> None:
    """Two thirds of the lifetime pass before anything is asked."""
    log = Log().registered(days=90)
    log.tick(1_000)
    assert log.state() == "Idle"


def test_every_state_has_its_moves() -> None:
    """The table of moves names every state, and only states."""
    names = set(rotation.NAMES.values())
    assert set(rotation.MOVES) == names
    assert all(following <= names for following in rotation.MOVES.values())


def test_backoff_grows_and_stays_within_its_bounds() -> None:
    """Each wait lies between half of its span and its span, up to the limit."""
    for attempt in range(1, 12):
        span = min(3_600_000, 30_000 << (attempt - 1))
        assert span // 2 <= backoff.wait_ms(DEVICE, attempt, 30_000, 3_600_000) <= span
