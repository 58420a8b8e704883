"""Just-in-time registration: who is let in, who waits, who stays outside, and with what."""

from dataclasses import replace
from typing import Any

import pytest

from schemas import codec, commands, events
from schemas.envelope import BROADCAST_KEY, Cause, Position
from schemas.pending import APPROVAL, AUTOMATIC, PendingRow
from schemas.reasons import Reason
from schemas.states import DeviceRow, Idle
from schemas.topics import FLEET_EVENTS
from streams.core import admission, certificate
from tests.helpers.folding import DAY, DEVICE, POLICY, START, Log, facts, fingerprint

REFUSED = "EventRefused"
TERM = 30 * DAY
"""How long somebody may wait here."""


def door(mode: str) -> Log:
    """Return a log whose machine goes by this mode."""
    log = Log()
    log.tick()
    policy = replace(POLICY, just_in_time=mode, pending_ms=TERM)
    log.add(events.PolicyActivated(1, policy, "tests"), BROADCAST_KEY)
    return log


def presented(log: Log, number: int = 1, **changes: Any) -> list[Any]:
    """Let somebody come with provisioning certificate `number`; return what was said."""
    device_id = changes.pop("device_id", DEVICE)
    session = changes.pop("session", "")
    shown = changes.pop("certificate", facts(number))
    event = events.CertificatePresented(device_id, log.evidence(number, session=session), shown)
    return [one.record for one in log.add(event, device_id.encode())]


def approved(log: Log, number: int = 1, **changes: Any) -> list[Any]:
    """Let an operator approve certificate `number`."""
    event = events.RegistrationApproved(DEVICE, fingerprint(number), "pump", (), "ops")
    return [one.record for one in log.add(replace(event, **changes))]


def rejected(log: Log, number: int = 1) -> list[Any]:
    """Let an operator reject certificate `number`."""
    event = events.RegistrationRejected(DEVICE, fingerprint(number), "ops")
    return [one.record for one in log.add(event)]


def pending(log: Log) -> PendingRow:
    """Return the row of who waits."""
    row: Any = log.row
    assert isinstance(row, PendingRow)
    return row


def waiting() -> Log:
    """Return a log in which a device waits with certificate 1, its session open."""
    log = door(APPROVAL)
    presented(log)
    return log


def enrolled(log: Log) -> None:
    """Let the device get its own certificate, number 2, and come with it."""
    log.requested(1)
    log.issued(2)
    log.answered(1, "done", log.last(commands.InstallCertificate).command_id)
    log.opened(2)


def test_unknown_devices_are_refused_where_nobody_said_otherwise() -> None:
    """The policy is off by default: no row, a refusal with its reason."""
    log = Log()
    log.tick()
    presented(log)
    assert log.decisions() == [(REFUSED, Reason.JUST_IN_TIME_OFF.value)]
    assert DEVICE.encode() not in log.rows


def test_a_device_waits_until_an_operator_approves_its_certificate() -> None:
    """Nothing is asked of it before; then it is registered and asked for a key."""
    log = waiting()
    assert log.decisions() == [("RegistrationAwaited", Reason.APPROVAL_AWAITED.value)]
    assert not [one for one in log.outputs if isinstance(one.record, commands.Command)]
    assert log.partition.row.totals.pending == 1
    approved(log, tags=("site=berlin",))
    assert ("DeviceAccepted", Reason.APPROVED.value) in log.decisions()
    assert ("RotationStarted", Reason.PROVISIONED.value) in log.decisions()
    assert log.state() == "Requested"
    assert (log.row.device_type, log.row.protocols, log.row.tags) == (
        "pump", ("mqtt",), ("site=berlin",)
    )  # fmt: skip
    assert log.row.connected
    totals = log.partition.row.totals
    assert (totals.pending, totals.registered, totals.connected) == (0, 1, 1)
    assert log.partition.row.rows == len(log.rows) == 1


def test_it_ends_with_a_certificate_of_ours_and_the_other_is_good_for_nothing() -> None:
    """The doors refuse the provisioning one; the issuer lists no serial of another CA."""
    log = waiting()
    approved(log)
    enrolled(log)
    held = certificate.active(log.row)
    assert (held.fingerprint, held.provisioning) == (fingerprint(2), False)
    assert log.last(commands.RefuseCertificate).fingerprint == fingerprint(1)
    assert not [one for one in log.outputs if isinstance(one.record, commands.RevokeCertificate)]
    log.tick(POLICY.grace_ms)
    presented(log)
    assert (REFUSED, Reason.CERTIFICATE_RETIRED.value) in log.decisions()
    told = [one.record for one in log.outputs if isinstance(one.record, commands.RefuseCertificate)]
    assert [one.fingerprint for one in told] == [fingerprint(1)] * 2, "a door had forgotten"
    assert certificate.active(log.row).fingerprint == fingerprint(2)


def test_approval_of_another_certificate_has_no_effect() -> None:
    """The operator's word is for what he saw."""
    log = waiting()
    before = log.bytes()
    approved(log, 3)
    rejected(log, 3)
    assert log.decisions()[-2:] == [(REFUSED, Reason.NOT_PENDING.value)] * 2
    assert log.bytes() == before


def test_approval_of_nobody_has_no_effect() -> None:
    """Who has not come cannot be let in by approval."""
    log = door(APPROVAL)
    approved(log)
    rejected(log)
    assert log.decisions() == [(REFUSED, Reason.NOT_PENDING.value)] * 2
    assert log.rows == {}


def test_approval_that_describes_wrongly_has_no_effect() -> None:
    """It is taken whole or refused whole."""
    log = waiting()
    approved(log, tags=("no tag",))
    assert log.decisions()[-1] == (REFUSED, Reason.MALFORMED.value)
    assert pending(log)


def test_an_ended_certificate_is_not_approved() -> None:
    """The issuer would refuse it; a newer one of the same device may wait in its place."""
    log = waiting()
    log.tick(91 * DAY)
    approved(log)
    assert log.decisions()[-1] == (REFUSED, Reason.EXPIRED.value)
    presented(log, 2, certificate=facts(2, 200))
    assert pending(log).certificate.fingerprint == fingerprint(2)
    assert log.partition.row.totals.pending == 1


def test_the_first_of_two_certificates_waits_and_the_second_is_told_of() -> None:
    """Nobody changes the certificate under an operator's eyes."""
    log = waiting()
    presented(log, 2)
    assert log.decisions()[-1] == (REFUSED, Reason.ANOTHER_PENDING.value)
    assert pending(log).certificate.fingerprint == fingerprint(1)


def test_who_is_away_is_asked_when_it_comes_back() -> None:
    """An approval spends no attempts of a device that is not there."""
    log = waiting()
    event = events.SessionClosed(DEVICE, log.evidence(1), 0)
    log.add(event)
    assert pending(log).session == ""
    approved(log)
    assert isinstance(log.row.rotation, Idle)
    assert not log.row.connected
    presented(log, session="another")
    assert log.state() == "Requested"


def test_a_device_that_comes_again_is_asked_the_same_again() -> None:
    """The pending command goes down with each session, under its own id."""
    log = waiting()
    approved(log)
    first = log.last(commands.RotateCertificate).command_id
    presented(log, session="another")
    assert log.last(commands.RotateCertificate).command_id == first
    assert sum(isinstance(one.record, commands.RotateCertificate) for one in log.outputs) == 2


def test_nothing_but_its_enrolment_is_heard_under_a_provisioning_certificate() -> None:
    """What it reports is refused and counted; the number it gave is not taken."""
    log = waiting()
    log.reported(1)
    assert log.decisions()[-1] == (REFUSED, Reason.APPROVAL_AWAITED.value)
    approved(log)
    log.reported(1)
    assert log.decisions()[-1] == (REFUSED, Reason.PROVISIONING_ONLY.value)
    assert (log.row.sequence, log.row.window.messages) == (0, 0)
    enrolled(log)
    assert log.state() == "Proven"


def test_the_answers_of_an_enrolment_take_no_numbers() -> None:
    """What the device kept until it had its own certificate is no repeat, and nothing is missing.

    Its answers are numbered apart, or lie between what a door refused.
    """
    log = waiting()
    approved(log)
    log.sequence = 5
    enrolled(log)
    assert (log.row.boot, log.row.sequence) == (0, 0)
    log.sequence = 0
    for _ in range(3):
        log.reported(2)
    assert (log.row.sequence, log.row.window.messages, log.row.oddities.gaps) == (3, 3, 0)


def test_a_rejected_certificate_stays_outside_until_it_is_approved() -> None:
    """It waits no longer and takes no room; the operator may think again."""
    log = waiting()
    rejected(log)
    assert ("DeviceRejected", Reason.REJECTED.value) in log.decisions()
    assert (pending(log).rejected_by, log.partition.row.totals.pending) == ("ops", 0)
    before = log.bytes()
    assert rejected(log) == []
    presented(log, session="another")
    assert log.decisions()[-1] == (REFUSED, Reason.REJECTED.value)
    assert log.bytes() != before
    assert pending(log).rejected_at == START
    approved(log)
    assert log.state() == "Requested"


def test_another_certificate_of_a_rejected_device_waits_anew() -> None:
    """What was rejected is a certificate, not an id."""
    log = waiting()
    rejected(log)
    presented(log, 2)
    assert (pending(log).certificate.fingerprint, pending(log).rejected_at) == (fingerprint(2), 0)


def test_automatic_lets_a_device_in_at_once() -> None:
    """The certificate's CA is enough, where the policy says so."""
    log = door(AUTOMATIC)
    presented(log)
    assert log.decisions()[0] == ("DeviceAccepted", Reason.PROVISIONED.value)
    assert log.row.device_type == "device"
    enrolled(log)
    assert log.state() == "Proven"


def test_a_rejected_certificate_is_not_let_in_automatically() -> None:
    """An operator's no outlives a change of the policy; who only waits comes in."""
    for word in (rejected, lambda log: None):
        log = waiting()
        word(log)
        policy = replace(POLICY, just_in_time=AUTOMATIC)
        log.add(events.PolicyActivated(2, policy, "tests"), BROADCAST_KEY)
        presented(log, session="another")
        assert isinstance(log.row, DeviceRow) is (word is not rejected)


def test_the_bound_holds_and_rejection_makes_room() -> None:
    """As many wait as PENDING_MAX says; one more is refused with its reason."""
    log = door(APPROVAL)
    log.partition.row = replace(
        log.partition.row,
        totals=replace(log.partition.row.totals, pending=admission.PENDING_MAX - 1),
    )
    presented(log)
    presented(log, 2, device_id="pump-2")
    assert log.decisions()[-1] == (REFUSED, Reason.TOO_MANY_PENDING.value)
    assert b"pump-2" not in log.rows
    rejected(log)
    presented(log, 2, device_id="pump-2", session="another")
    assert b"pump-2" in log.rows
    assert log.partition.row.totals.pending == admission.PENDING_MAX


def lapsed(log: Log) -> list[str]:
    """Return why waits have ended, one by one."""
    return [why for name, why in log.decisions() if name == "RegistrationLapsed"]


def test_who_is_not_approved_in_its_term_waits_no_longer() -> None:
    """It makes room, is told of once, and waits anew when it comes again."""
    log = waiting()
    log.tick(TERM - 1)
    assert (lapsed(log), log.partition.row.totals.pending) == ([], 1)
    log.tick(1)
    assert (lapsed(log), log.partition.row.totals.pending) == ([Reason.NOT_APPROVED.value], 0)
    assert pending(log).lapsed_at == START + TERM
    log.tick(DAY)
    log.reported(1)
    assert log.decisions()[-1] == (REFUSED, Reason.NOT_APPROVED.value)
    presented(log, session="another", certificate=facts(1, 365))
    assert (pending(log).first_seen_at, pending(log).lapsed_at) == (log.now, 0)
    assert log.decisions()[-1] == ("RegistrationAwaited", Reason.APPROVAL_AWAITED.value)
    assert (len(lapsed(log)), log.partition.row.totals.pending) == (1, 1)


def test_coming_again_does_not_prolong_the_term() -> None:
    """It counts from the first time: who keeps coming holds no place for ever."""
    log = waiting()
    log.tick(TERM - 1)
    presented(log, session="another")
    log.tick(1)
    assert lapsed(log) == [Reason.NOT_APPROVED.value]


def test_a_wait_ends_with_its_certificate() -> None:
    """Nobody could approve it any more."""
    log = door(APPROVAL)
    presented(log, certificate=facts(1, 7))
    log.tick(7 * DAY - 1)
    assert lapsed(log) == []
    log.tick(1)
    assert lapsed(log) == [Reason.EXPIRED.value]


def test_a_longer_term_holds_for_those_who_wait() -> None:
    """The term is judged as it stands when it is over."""
    log = door(APPROVAL)
    presented(log, certificate=facts(1, 365))
    policy = replace(POLICY, just_in_time=APPROVAL, pending_ms=2 * TERM)
    log.add(events.PolicyActivated(2, policy, "tests"), BROADCAST_KEY)
    log.tick(TERM)
    assert lapsed(log) == []
    log.tick(TERM)
    assert lapsed(log) == [Reason.NOT_APPROVED.value]


def test_an_operator_may_still_approve_or_reject_who_has_lapsed() -> None:
    """The word is for a certificate; a rejected one does not lapse."""
    log = door(APPROVAL)
    presented(log, certificate=facts(1, 365))
    log.tick(TERM)
    rejected(log)
    assert (pending(log).lapsed_at, pending(log).next_due_at) == (0, 0)
    log.tick(2 * TERM)
    assert len(lapsed(log)) == 1
    approved(log)
    assert log.state() == "Requested"


def test_who_came_before_the_first_tick_waits_from_there() -> None:
    """The machine had no time yet."""
    log = Log()
    policy = replace(POLICY, just_in_time=APPROVAL, pending_ms=TERM)
    log.add(events.PolicyActivated(1, policy, "tests"), BROADCAST_KEY)
    presented(log, certificate=facts(1, 365))
    log.tick()
    assert (lapsed(log), pending(log).first_seen_at) == ([], log.now)
    log.tick(TERM)
    assert lapsed(log) == [Reason.NOT_APPROVED.value]


def test_repeats_change_nothing() -> None:
    """The same session told again, the same word of an operator again."""
    log = waiting()
    shown = log.entries[-1].event
    before = log.bytes()
    assert log.add(shown) == []
    assert log.bytes() == before
    approved(log)
    before = log.bytes()
    assert (log.add(shown), approved(log)) == ([], [])
    assert log.bytes() == before
    rejected(log)
    assert log.decisions()[-1] == (REFUSED, Reason.ALREADY_REGISTERED.value)


def test_a_certificate_that_is_not_the_sessions_is_refused() -> None:
    """What is registered is what the session's key has proven."""
    log = door(AUTOMATIC)
    presented(log, certificate=facts(2))
    assert log.decisions() == [(REFUSED, Reason.MALFORMED.value)]
    assert log.rows == {}


def test_a_strange_certificate_changes_nothing_of_a_registered_device() -> None:
    """A provisioning CA cannot take over a device: it is refused, counted and told of."""
    log = door(AUTOMATIC)
    log.add(events.DeviceRegistered(DEVICE, "pump", ("mqtt",), facts(1), "tests"))
    log.opened(1)
    presented(log, 3)
    approved(log, 3)
    assert {
        (REFUSED, Reason.FINGERPRINT_UNKNOWN.value),
        ("AlertRaised", Reason.FINGERPRINT_UNKNOWN.value),
        (REFUSED, Reason.ALREADY_REGISTERED.value),
    } <= set(log.decisions())
    assert log.row.oddities.unknown == 1
    assert log.last(commands.RefuseCertificate).fingerprint == fingerprint(3)
    assert log.row.session == "session-1"
    assert [one.fingerprint for one in log.row.certificates] == [fingerprint(1)]


@pytest.mark.parametrize("first", [True, False])
def test_a_device_is_registered_beforehand_by_its_makers_certificate(first: bool) -> None:
    """The operator's registration, before or after it came, is an approval of that certificate."""
    log = door(APPROVAL)
    register = events.DeviceRegistered(DEVICE, "pump", ("mqtt",), facts(1), "tests")
    if first:
        log.add(register)
        presented(log)
    else:
        presented(log)
        log.add(register)
    assert log.state() == "Requested"
    assert certificate.active(log.row).provisioning
    enrolled(log)
    assert log.state() == "Proven"


def test_a_new_certificate_shown_as_a_makers_stays_the_active_one() -> None:
    """Where a device CA of ours is named as a maker's, too: its first use proves it even so."""
    log = door(AUTOMATIC)
    presented(log)
    log.requested(1)
    log.issued(2)
    presented(log, 2, certificate=facts(2, 180))
    assert certificate.active(log.row).fingerprint == fingerprint(2)
    assert log.state() == "Proven"


def test_a_pending_device_is_in_no_fleet() -> None:
    """A fleet that asks for it is told that there is no such device."""
    log = waiting()
    cause = Cause(Position(FLEET_EVENTS, 0, 5), 0, 1)
    said = [one.record for one in log.add(events.FleetAssigned(DEVICE, "pumps", "", cause))]
    assert [one.reason for one in said if hasattr(one, "accepted")] == ["unknown-device"]
    assert pending(log)


def test_a_retired_newcomer_is_shut_out_without_our_list() -> None:
    """Its provisioning certificate is refused at the doors; our list names our serials alone."""
    log = waiting()
    approved(log)
    said = [one.record for one in log.add(events.RetirementOrdered(DEVICE, "", "ops"))]
    assert [one.fingerprint for one in said if isinstance(one, commands.RefuseCertificate)] == [
        fingerprint(1)
    ]
    assert not [one for one in said if isinstance(one, commands.RevokeCertificate)]
    said = presented(log, session="another")
    assert [one.fingerprint for one in said if isinstance(one, commands.RefuseCertificate)] == [
        fingerprint(1)
    ]


def test_a_pending_row_survives_its_encoding() -> None:
    """The row stands in the topic as it is."""
    log = waiting()
    assert codec.decode(codec.encode(pending(log))) == pending(log)


def test_a_newcomer_may_ask_by_est() -> None:
    """The door is told why it has to wait; once it is approved, the same request is answered."""
    log = waiting()
    log.renewed(1)
    told = log.last(commands.RefuseRenewal)
    assert (told.reason, told.spki_sha256) == (Reason.APPROVAL_AWAITED.value, fingerprint(102))
    assert pending(log)
    approved(log)
    log.renewed(1)
    assert log.state() == "CsrReceived"
    log.issued(2)
    log.opened(2)
    assert log.state() == "Proven"
    assert certificate.active(log.row).fingerprint == fingerprint(2)


def test_a_rejected_newcomer_is_told_so_by_est() -> None:
    """It need not come again."""
    log = waiting()
    rejected(log)
    log.renewed(1)
    assert log.last(commands.RefuseRenewal).reason == Reason.REJECTED.value
