"""The rotation saga where messages are late, doubled, lost or for another attempt."""

from dataclasses import replace

import pytest

from schemas import codec, commands
from schemas.decisions import Decision
from schemas.events import CertificateIssued, RotationOrdered, SigningRefused
from schemas.reasons import Reason
from schemas.states import Failed, Requested
from streams.core import certificate, retirement, rotation
from tests.helpers.folding import DEVICE, Log, facts, fingerprint


def ordered() -> Log:
    """Return a log whose device was ordered to rotate, long before its time."""
    log = Log().registered()
    log.opened(1)
    log.add(RotationOrdered(DEVICE, "order-1", "tests"))
    return log


def kinds(outputs: list[object]) -> list[str]:
    """Return the names of the records that were published."""
    return [type(one.record).__name__ for one in outputs]  # type: ignore[attr-defined]


def again(log: Log) -> None:
    """Wait until the next attempt begins."""
    assert isinstance(log.row.rotation, Failed)
    log.tick(log.row.rotation.deadline_at - log.now)
    assert log.state() == "Requested"


def severity(log: Log, name: str) -> str:
    """Return the severity of the last decision of a name."""
    records = [one.record for one in log.outputs if isinstance(one.record, Decision)]
    return [one for one in records if one.name == name][-1].severity


def test_each_step_publishes_its_command_and_its_decision() -> None:
    """The whole way in outputs, in their order."""
    log = Log().registered()
    log.opened(1)
    assert kinds(log.add(RotationOrdered(DEVICE, "o", "tests"))) == [
        "Decision",
        "RotateCertificate",
    ]
    assert kinds(log.requested(1)) == ["SignCertificate", "Decision"]
    assert kinds(log.issued(2)) == ["Decision", "InstallCertificate"]
    install = log.last(commands.InstallCertificate)
    assert kinds(log.answered(1, "accepted", install.command_id)) == []
    assert kinds(log.answered(1, "done", install.command_id)) == ["Decision"]
    assert kinds(log.opened(2)) == [
        "RefuseCertificate",
        "RevokeCertificate",
        "DropCertificate",
        "Decision",
    ]
    assert kinds(log.tick(log.partition.row.policy.grace_ms)) == ["Decision", "Decision"]
    assert log.decisions()[-2:] == [
        ("CertificateRetired", "certificate-retired"),
        ("RotationCompleted", "proven-in-use"),
    ]


def test_commands_say_to_whom_until_when_and_with_what() -> None:
    """Counters rise, expiries are the states' deadlines, the issuer gets all it checks again."""
    log = ordered()
    policy = log.partition.row.policy
    rotate = log.last(commands.RotateCertificate)
    assert (rotate.device_id, rotate.issued_at, rotate.counter) == (DEVICE, log.now, 1)
    assert rotate.expires_at == log.now + policy.answer_within_ms
    assert len(rotate.nonce) == 16
    log.requested(1)
    sign = log.last(commands.SignCertificate)
    assert (sign.csr, sign.nonce, sign.signed_request) == (b"csr", rotate.nonce, b"cose")
    assert sign.current_certificate == facts(1).der
    assert sign.not_before_at == log.now - certificate.NOT_BEFORE_LEEWAY_MS
    log.issued(2)
    install = log.last(commands.InstallCertificate)
    assert (install.certificate, install.counter) == (facts(2).der, 2)
    log.opened(2)
    refuse, drop = log.last(commands.RefuseCertificate), log.last(commands.DropCertificate)
    assert (refuse.fingerprint, refuse.counter) == (fingerprint(1), 3)
    assert (drop.fingerprint, drop.counter) == (fingerprint(1), 4)
    revoke = log.last(commands.RevokeCertificate)
    assert (revoke.serial, revoke.reason) == (facts(1).serial, "certificate-retired")
    assert drop.expires_at >= facts(1).not_after_at


def test_a_key_of_the_issuers_answer_that_was_not_asked_for_fails() -> None:
    """A certificate for another key never becomes a candidate."""
    log = ordered()
    log.requested(1)
    request = log.last(commands.SignCertificate)
    log.add(CertificateIssued(DEVICE, request.request_id, facts(7)))
    assert log.decisions()[-1] == ("RotationFailed", "issuer-refused")
    assert len(log.row.certificates) == 1


def test_the_first_certificate_for_a_request_counts() -> None:
    """The same again is silent; another one for the same request is refused."""
    log = ordered()
    log.requested(1)
    log.issued(2)
    before = log.row
    assert log.issued(2) == []
    other = replace(facts(2), fingerprint=fingerprint(66))
    request = log.last(commands.SignCertificate)
    log.add(CertificateIssued(DEVICE, request.request_id, other))
    assert log.decisions()[-1] == ("EventRefused", "no-rotation")
    assert log.row == before


def test_an_answer_of_the_issuer_after_its_deadline_is_too_late() -> None:
    """The next attempt has a request of its own."""
    log = ordered()
    log.requested(1)
    log.tick(log.partition.row.policy.issue_within_ms)
    assert log.decisions()[-1] == ("RotationFailed", "issuer-away")
    log.issued(2)
    assert log.decisions()[-1] == ("EventRefused", "no-rotation")
    log.add(SigningRefused(DEVICE, log.last(commands.SignCertificate).request_id, "weak-key", ""))
    assert log.state() == "Failed"
    again(log)


def test_an_answer_to_an_earlier_command_changes_nothing() -> None:
    """`failed` for the first attempt does not fail the second."""
    log = ordered()
    first = log.last(commands.RotateCertificate)
    log.answered(1, "failed", first.command_id)
    again(log)
    before = log.row.rotation
    log.answered(1, "failed", first.command_id)
    assert log.row.rotation == before


def test_a_done_without_a_request_does_not_move_the_saga() -> None:
    """RotateCertificate is answered by a request, not by a word."""
    log = ordered()
    log.answered(1, "done", log.last(commands.RotateCertificate).command_id)
    assert log.state() == "Requested"


@pytest.mark.parametrize("outcome", ["failed", "refused"])
def test_a_device_that_cannot_install_keeps_its_old_identity(outcome: str) -> None:
    """The attempt fails; the next one asks for a new key, and the candidate may still be used."""
    log = ordered()
    log.requested(1)
    log.issued(2)
    log.answered(1, outcome, log.last(commands.InstallCertificate).command_id)
    assert log.decisions()[-1] == ("RotationFailed", f"device-{outcome}")
    assert certificate.active(log.row).fingerprint == fingerprint(1)
    again(log)
    assert log.requested(1) != []
    assert log.decisions()[-1] == ("RotationFailed", Reason.KEY_REUSED.value)


def test_each_attempt_has_its_own_nonce_and_command() -> None:
    """An answer to one attempt cannot serve for another."""
    log = ordered()
    first = log.last(commands.RotateCertificate)
    log.answered(1, "failed", first.command_id)
    again(log)
    second = log.last(commands.RotateCertificate)
    assert second.nonce != first.nonce
    assert second.command_id != first.command_id
    assert isinstance(log.row.rotation, Requested)
    assert log.row.rotation.attempt == 2
    log.requested(1, nonce=first.nonce)
    assert log.decisions()[-1] == ("RotationFailed", "wrong-nonce")


def test_a_spent_rotation_is_abandoned_critically_and_waits_for_an_order() -> None:
    """No clock starts it again; an operator does, from the first attempt on."""
    log = ordered()
    for attempt in range(log.partition.row.policy.attempts_max):
        if attempt:
            again(log)
        log.answered(1, "refused", log.last(commands.RotateCertificate).command_id)
    assert log.decisions()[-1] == ("RotationAbandoned", "device-refused")
    assert severity(log, "RotationAbandoned") == "critical"
    log.tick(86_400_000)
    log.opened(1)
    assert log.state() == "Abandoned"
    log.add(RotationOrdered(DEVICE, "order-2", "tests"))
    assert isinstance(log.row.rotation, Requested)
    assert log.row.rotation.attempt == 1
    assert [one.state for one in log.row.journey] == ["requested"]


@pytest.mark.parametrize("state", ["Requested", "CsrReceived", "Issued", "Failed", "Abandoned"])
def test_a_candidate_is_proven_from_every_state(state: str) -> None:
    """A device that uses an issued certificate is never locked out, wherever the saga stands."""
    log = ordered()
    log.requested(1)
    log.issued(2)
    policy = log.partition.row.policy
    while log.state() != state:
        if state == "Abandoned" or isinstance(log.row.rotation, Failed):
            log.tick(policy.answer_within_ms)
        elif log.state() == "Requested" and state == "CsrReceived":
            log.requested(1, spki_sha256=fingerprint(150))
        else:
            log.answered(1, "failed", log.last(commands.InstallCertificate).command_id)
    log.reported(2)
    assert log.state() == "Proven"
    assert certificate.active(log.row).fingerprint == fingerprint(2)
    log.tick(policy.grace_ms)
    assert log.state() == "Idle"
    assert log.row.rotations == 1


def test_of_two_candidates_the_used_one_wins() -> None:
    """The other is revoked with the old one, and its session is of no use any more."""
    log = ordered()
    for number in (2, 3):
        log.requested(1, spki_sha256=fingerprint(100 + number))
        log.issued(number)
        if number == 2:
            log.tick(log.partition.row.policy.answer_within_ms)
            again(log)
    log.opened(2)
    statuses = {one.fingerprint[0]: one.status for one in log.row.certificates}
    assert statuses == {1: "under-retired", 2: "active", 3: "under-retired"}
    log.reported(3)
    assert log.decisions()[-1] == ("EventRefused", "under-retired")
    assert certificate.active(log.row).fingerprint == fingerprint(2)


def test_candidates_are_bounded_however_often_a_device_comes_and_goes() -> None:
    """The oldest unused one is retired; a row cannot grow past what a record holds."""
    log = ordered()
    for number in range(2, 40):
        log.requested(1, spki_sha256=fingerprint(100 + number))
        log.issued(number)
        log.tick(log.partition.row.policy.answer_within_ms)
        log.opened(1, session=f"s{number}")
        if log.state() == "Abandoned":
            log.tick(log.partition.row.policy.backoff_max_ms)
        assert log.state() == "Requested"
    waiting = [one for one in log.row.certificates if one.status == certificate.CANDIDATE]
    assert len(waiting) == retirement.CANDIDATES_MAX
    assert waiting[-1].fingerprint == fingerprint(39)
    assert len(codec.encode(log.row)) < 10_000
    assert certificate.active(log.row).fingerprint == fingerprint(1)
    log.opened(39)
    assert certificate.active(log.row).fingerprint == fingerprint(39)


def test_a_request_under_the_old_certificate_after_the_proof_is_refused() -> None:
    """Neither within grace nor after it does a replaced key ask for anything."""
    log = ordered()
    log.requested(1)
    log.issued(2)
    log.opened(2)
    log.requested(1)
    assert log.decisions()[-1] == ("EventRefused", "under-retired")
    log.tick(log.partition.row.policy.grace_ms)
    log.requested(1)
    assert ("EventRefused", "certificate-retired") in log.decisions()
    assert log.state() == "Idle"


def test_a_new_session_under_a_replaced_certificate_opens_nothing() -> None:
    """Presence stays with the session of the new certificate."""
    log = ordered()
    log.requested(1)
    log.issued(2)
    log.opened(2)
    before = (log.row.session, log.row.connected)
    log.opened(1, session="old")
    assert log.decisions()[-1] == ("EventRefused", "under-retired")
    assert (log.row.session, log.row.connected) == before


def test_readings_under_a_replaced_certificate_count_within_grace() -> None:
    """What the old session had already sent is a reading all the same."""
    log = ordered()
    log.requested(1)
    log.issued(2)
    log.opened(2)
    before = log.row.window.messages
    log.reported(1)
    assert log.row.window.messages == before + 1


def test_an_order_during_the_wait_after_a_failure_starts_at_once() -> None:
    """From the first attempt on."""
    log = ordered()
    log.answered(1, "failed", log.last(commands.RotateCertificate).command_id)
    log.add(RotationOrdered(DEVICE, "order-2", "tests"))
    assert isinstance(log.row.rotation, Requested)
    assert log.row.rotation.attempt == 1


@pytest.mark.parametrize("state", ["Requested", "CsrReceived", "Issued", "Delivered", "Proven"])
def test_one_rotation_at_a_time(state: str) -> None:
    """An order while one is in work is refused and changes nothing."""
    log = ordered()
    moves = [
        lambda: log.requested(1),
        lambda: log.issued(2),
        lambda: log.answered(1, "done", log.last(commands.InstallCertificate).command_id),
        lambda: log.opened(2),
    ]
    for move in moves:
        if log.state() != state:
            move()
    assert log.state() == state
    before = log.row
    log.add(RotationOrdered(DEVICE, "order-2", "tests"))
    assert log.decisions()[-1] == ("EventRefused", "repeated")
    assert log.row == replace(
        before, orders=(*before.orders, "order-2"), applied_offset=len(log.entries) - 1
    )


def test_a_pending_installation_is_sent_again_when_a_session_opens() -> None:
    """Under the same command id, with the certificate."""
    log = ordered()
    log.requested(1)
    log.issued(2)
    first = log.last(commands.InstallCertificate)
    (second,) = (one.record for one in log.opened(1, session="s2"))
    assert second == replace(first, issued_at=log.now)


def test_the_journey_keeps_its_last_steps() -> None:
    """Sixteen, however many attempts there were."""
    log = ordered()
    for _ in range(20):
        log.add(RotationOrdered(DEVICE, "o", "tests"))
        log.answered(1, "failed", log.last(commands.RotateCertificate).command_id)
    for _ in range(5):
        if isinstance(log.row.rotation, Failed):
            again(log)
            log.answered(1, "failed", log.last(commands.RotateCertificate).command_id)
    assert len(log.row.journey) <= rotation.JOURNEY_MAX
    assert log.row.journey[-1].offset == len(log.entries) - 1
