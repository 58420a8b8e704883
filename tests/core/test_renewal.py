"""Renewal by the device's own will: without an order, and without a way to be locked out."""

from typing import Any

import pytest

from schemas import commands, events
from schemas.events import RotationOrdered, SigningRefused
from schemas.reasons import Reason
from streams.core import certificate, renewal
from tests.helpers.folding import DEVICE, START, Log, facts, fingerprint

HOUR = 3_600_000


def living() -> Log:
    """Return a log of a device whose certificate has most of its life before it."""
    log = Log().registered(days=60)
    log.opened(1)
    return log


def signed(log: Log, number: int) -> events.CertificateFacts:
    """Return certificate `number` as the issuer makes it now."""
    made = facts(number)
    return events.CertificateFacts(
        made.fingerprint,
        made.spki_sha256,
        made.serial,
        log.now - certificate.NOT_BEFORE_LEEWAY_MS,
        log.now + 90 * 24 * HOUR,
        b"der-%d" % number,
    )


def issue(log: Log, number: int) -> None:
    """Let the issuer answer the last request."""
    request = log.last(commands.SignCertificate)
    log.add(events.CertificateIssued(DEVICE, request.request_id, signed(log, number)))


def refusals(log: Log) -> list[str]:
    """Return why doors were told that there is no certificate."""
    records = [one.record for one in log.outputs]
    return [one.reason for one in records if isinstance(one, commands.RefuseRenewal)]


def count(log: Log, kind: type) -> int:
    """Return how many outputs there are of a kind."""
    return sum(isinstance(one.record, kind) for one in log.outputs)


def test_a_device_renews_without_an_order_and_the_old_certificate_closes() -> None:
    """From idle to idle: no command asks for it, the first use of the new one retires the old."""
    log = living()
    log.renewed(1)
    assert log.state() == "CsrReceived"
    assert ("RotationStarted", Reason.DEVICE_ASKED.value) in log.decisions()
    assert count(log, commands.RotateCertificate) == 0
    issue(log, 2)
    assert log.last(commands.InstallCertificate).certificate == b"der-2"
    assert certificate.active(log.row).fingerprint == fingerprint(1)
    log.opened(2)
    assert log.last(commands.RefuseCertificate).fingerprint == fingerprint(1)
    log.tick(log.partition.row.policy.grace_ms + 1_000)
    assert log.state() == "Idle"
    assert log.row.rotations == 1
    names = [one.state for one in log.row.journey]
    assert names == ["csr-received", "issued", "proven", "idle"]


def test_the_same_request_gets_the_same_certificate() -> None:
    """While the issuer works nothing more is asked of it; then each repeat gets the candidate."""
    log = living()
    log.renewed(1)
    log.renewed(1)
    issue(log, 2)
    first = log.last(commands.InstallCertificate)
    log.renewed(1)
    assert log.last(commands.InstallCertificate) == first
    log.tick(log.partition.row.policy.answer_within_ms + 1_000)
    assert log.state() == "Idle"
    log.renewed(1)
    late = log.last(commands.InstallCertificate)
    assert (late.certificate, late.expires_at > log.now) == (first.certificate, True)
    assert count(log, commands.SignCertificate) == 1
    assert refusals(log) == []


def test_a_certificate_that_is_never_used_brings_no_orders_and_stays_valid() -> None:
    """The saga falls back to idle with a warning; the candidate works whenever it is used."""
    log = living()
    log.renewed(1)
    issue(log, 2)
    log.tick(log.partition.row.policy.answer_within_ms + 1_000)
    assert log.state() == "Idle"
    assert ("RotationFailed", Reason.NOT_PROVEN.value) in log.decisions()
    log.tick(24 * HOUR)
    assert count(log, commands.RotateCertificate) == 0
    log.opened(2)
    assert certificate.active(log.row).fingerprint == fingerprint(2)


def test_a_device_that_lost_its_new_key_asks_with_another() -> None:
    """The certificate on the lost key stays a candidate; the other one is made all the same."""
    log = living()
    log.renewed(1)
    issue(log, 2)
    log.renewed(1, spki_sha256=fingerprint(103))
    assert log.state() == "CsrReceived"
    issue(log, 3)
    log.opened(3)
    assert certificate.active(log.row).fingerprint == fingerprint(3)
    lost = certificate.find(log.row, fingerprint(2))
    assert lost is not None
    assert lost.status == certificate.UNDER_RETIRED


def test_few_certificates_are_given_in_an_hour() -> None:
    """One more is refused, at the door as well; an hour later it is not."""
    log = living()
    for number in range(2, 2 + renewal.GIVEN_MAX):
        log.renewed(1, spki_sha256=fingerprint(100 + number))
        issue(log, number)
    assert refusals(log) == []
    log.renewed(1, spki_sha256=fingerprint(120))
    assert refusals(log) == [Reason.RENEWED_OFTEN.value]
    log.tick(renewal.SPAN_MS + 1_000)
    log.renewed(1, spki_sha256=fingerprint(120))
    assert log.state() == "CsrReceived"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"subject": "pump-2"}, Reason.WRONG_SUBJECT),
        ({"csr_signature_valid": False}, Reason.WRONG_SIGNATURE),
        ({"request_signature_valid": False}, Reason.WRONG_SIGNATURE),
        ({"key_accepted": False}, Reason.WEAK_KEY),
        ({"spki_sha256": fingerprint(101)}, Reason.KEY_REUSED),
    ],
)
def test_a_bad_request_is_refused_at_its_door(changes: dict[str, Any], reason: Reason) -> None:
    """It changes nothing of the saga and spends no attempt."""
    log = living()
    log.renewed(1, **changes)
    assert log.state() == "Idle"
    assert refusals(log) == [reason.value]
    assert ("EventRefused", reason.value) in log.decisions()


def test_a_request_under_a_certificate_that_is_not_the_devices_is_turned_away() -> None:
    """Unknown certificate, replaced certificate, unknown device: the door hears why."""
    log = living()
    log.renewed(9)
    log.renewed(1)
    issue(log, 2)
    log.opened(2)
    log.renewed(1, spki_sha256=fingerprint(105))
    stranger = log.signing(1, device_id="pump-2", subject="pump-2")
    log.add(stranger, b"pump-2")
    assert refusals(log) == [
        Reason.FINGERPRINT_UNKNOWN.value,
        Reason.CERTIFICATE_RETIRED.value,
        Reason.UNKNOWN_DEVICE.value,
    ]


def test_another_key_waits_while_the_issuer_works_and_while_the_old_one_closes() -> None:
    """One rotation at a time: the device is told to ask again later."""
    log = living()
    log.renewed(1)
    log.renewed(1, spki_sha256=fingerprint(105))
    assert refusals(log) == [Reason.RENEWAL_IN_WORK.value]
    issue(log, 2)
    log.opened(2)
    log.renewed(2, spki_sha256=fingerprint(105))
    assert refusals(log) == [Reason.RENEWAL_IN_WORK.value] * 2
    assert log.state() == "Proven"


def test_it_answers_an_order() -> None:
    """A device that only knows EST obeys an order by renewing: the attempt goes on."""
    log = living()
    log.add(RotationOrdered(DEVICE, "order-1", "operator"))
    assert log.state() == "Requested"
    log.renewed(1)
    assert log.row.rotation.attempt == 1  # type: ignore[union-attr]
    issue(log, 2)
    log.opened(2)
    assert [one.state for one in log.row.journey] == [
        "requested",
        "csr-received",
        "issued",
        "proven",
    ]


def test_it_goes_on_where_orders_were_given_up() -> None:
    """An abandoned rotation does not keep a device from renewing by itself."""
    log = Log().registered(days=20)
    for _ in range(100):
        log.tick(600_000)
    assert log.state() == "Abandoned"
    log.renewed(1)
    issue(log, 2)
    log.opened(2)
    log.tick(log.partition.row.policy.grace_ms + 1_000)
    assert log.state() == "Idle"


def test_a_refusal_or_silence_of_the_issuer_reaches_the_door() -> None:
    """The device is not left waiting, and the saga is idle again."""
    log = living()
    log.renewed(1)
    request = log.last(commands.SignCertificate)
    log.add(SigningRefused(DEVICE, request.request_id, Reason.EXPIRED.value, "too late"))
    log.renewed(1, spki_sha256=fingerprint(105))
    log.tick(log.partition.row.policy.issue_within_ms + 1_000)
    assert refusals(log) == [Reason.ISSUER_REFUSED.value, Reason.ISSUER_AWAY.value]
    assert log.state() == "Idle"


def test_the_door_of_a_renewal_is_not_where_the_device_lives() -> None:
    """Its silence is judged by the door it lives behind."""
    log = living()
    evidence = events.Evidence(fingerprint(1), "10.0.0.1", "est-1", 1, "est", START)
    log.renewed(1, evidence=evidence)
    assert (log.row.door, log.row.session) == ("mqtt", "session-1")
