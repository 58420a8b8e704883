"""Certificates of a row: when one wants renewal, who may speak under it, when it is forgotten."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import (
    CertificateIssued,
    CertificateRevoked,
    DeviceRegistered,
    RotationOrdered,
    SessionRefused,
)
from schemas.states import DeviceRow, Policy
from streams.core import certificate
from streams.core.certificate import DAY_MS
from tests.helpers.folding import DEVICE, START, Log, facts, fingerprint


def row(days: float, device_id: str = DEVICE, registered_at: int = START) -> DeviceRow:
    """Return a row whose certificate of ninety days ends `days` after START."""
    log = Log().registered(days)
    return replace(log.row, device_id=device_id, registered_at=registered_at)


@pytest.mark.parametrize(
    ("days", "days_before_expiry", "after_days"),
    [(90, 30, 60), (90, 45, 45), (90, 5, 60), (40, 30, 10), (10, 30, 0), (-1, 30, 0)],
)
def test_renewal_is_due_by_days_or_by_two_thirds(
    days: float, days_before_expiry: int, after_days: float
) -> None:
    """Whichever is first, and never before the registration."""
    policy = Policy(days_before_expiry=days_before_expiry, stagger_ms=0)
    assert certificate.renew_at(row(days), policy) == START + after_days * DAY_MS


@pytest.mark.parametrize(("lives", "after"), [(1, 16), (7, 112), (30, 480), (31, 24), (45, 360)])
def test_a_short_life_is_renewed_at_two_thirds(lives: int, after: int) -> None:
    """Not at its birth, though that is daysBeforeExpiry away: the next one would begin there, too.

    So goes the fleet's forecast. `lives` is in days, `after` in hours.
    """
    ends = START + lives * DAY_MS
    assert certificate.nears_at(START, ends, 30) == START + after * 3_600_000
    one = row(90)
    held = replace(certificate.active(one), not_before_at=START, not_after_at=ends)
    short = replace(one, certificates=(held,))
    renewed = certificate.renew_at(short, Policy(stagger_ms=0))
    assert renewed == certificate.near_at(short, 30) == START + after * 3_600_000


@given(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.integers(1, 40 * DAY_MS))
def test_a_staggered_slot_stays_before_the_last_tenth(device_id: str, stagger_ms: int) -> None:
    """However long the interval is, a slot leaves time for all attempts."""
    policy = Policy(stagger_ms=stagger_ms)
    one = row(90, device_id)
    near_at = START + 60 * DAY_MS
    assert near_at <= certificate.renew_at(one, policy) < near_at + stagger_ms
    assert certificate.renew_at(one, policy) <= START + 81 * DAY_MS


def test_slots_spread_evenly_and_are_the_same_for_ever() -> None:
    """Ten tenths of the interval get about as many devices each."""
    counts = [0] * 10
    for number in range(5_000):
        counts[certificate.slot(f"device-{number}", 1_000) // 100] += 1
    assert min(counts) > 420
    assert max(counts) < 580
    assert certificate.slot("pump-1", 3_600_000) == 544_046
    assert certificate.slot("pump-1", 0) == 0


def test_a_device_that_comes_near_its_end_waits_for_its_slot() -> None:
    """Twenty days left and an hour of stagger: asked at its slot, also before the first tick.

    A log that has no tick yet has no time: a registration there counts from the first tick on.
    """
    policy = Policy()
    slot = certificate.slot(DEVICE, policy.stagger_ms)
    assert slot > 60_000
    before, after = Log(), Log()
    after.tick()
    for log in (before, after):
        log.partition.row = replace(log.partition.row, policy=policy)
        log.add(DeviceRegistered(DEVICE, "pump", ("mqtt",), facts(1, days=20), "tests"))
        log.tick()
        assert log.row.registered_at == log.now
        log.tick(slot - 1)
        assert log.state() == "Idle"
        log.tick(1)
        assert log.state() == "Requested"


def test_an_expired_certificate_is_told_once() -> None:
    """One critical decision, however many ticks follow."""
    log = Log().registered(days=1)
    for _ in range(5):
        log.tick(DAY_MS)
    told = [one for one in log.decisions() if one == ("CertificateExpired", "expired")]
    assert len(told) == 1
    assert log.row.expiry_told


def test_a_renewed_certificate_may_expire_again() -> None:
    """Being told belongs to the certificate, and ends with it."""
    log = rotated(Log().registered(days=1), 1, 2, late=2 * DAY_MS)
    assert not log.row.expiry_told


def rotated(log: Log, old: int, new: int, late: int = 0) -> Log:
    """Lead a log through one rotation."""
    log.tick(late)
    log.add(RotationOrdered(DEVICE, f"order-{new}", "tests"))
    log.requested(old, spki_sha256=fingerprint(100 + new))
    log.issued(new)
    log.opened(new)
    log.tick(log.partition.row.policy.grace_ms + 1)
    assert certificate.active(log.row).fingerprint == fingerprint(new)
    return log


def test_only_the_last_retired_certificates_are_remembered() -> None:
    """An older one counts as unknown, and is refused all the same."""
    log = Log().registered(days=90)
    for number in range(1, 8):
        rotated(log, number, number + 1)
    statuses = [one.status for one in log.row.certificates]
    assert statuses == ["retired"] * certificate.RETIRED_KEPT_MAX + ["active"]
    assert log.row.rotations == 7
    log.reported(1)
    assert ("EventRefused", "fingerprint-unknown") in log.decisions()
    log.reported(7)
    assert ("EventRefused", "certificate-retired") in log.decisions()


def test_a_retired_certificate_keeps_no_body_and_says_where_it_closed() -> None:
    """`closed_offset` is the record after which nothing under it was accepted."""
    log = rotated(Log().registered(), 1, 2)
    old = certificate.find(log.row, fingerprint(1))
    assert old is not None
    assert (old.der, old.closed_offset) == (b"", len(log.entries) - 1)
    active = certificate.active(log.row)
    assert (active.der, active.closed_offset) == (b"der", -1)
    assert log.entries[active.first_used_offset].event.evidence.certificate_sha256 == fingerprint(2)


def test_the_number_of_the_revocation_list_is_kept_once() -> None:
    """The first list counts; unknown certificates are none of the row's."""
    log = rotated(Log().registered(), 1, 2)
    for number in (7, 8):
        log.add(CertificateRevoked(DEVICE, fingerprint(1), "1", number))
    log.add(CertificateRevoked(DEVICE, fingerprint(77), "77", 9))
    assert [one.crl_number for one in log.row.certificates] == [7, 0]


def test_a_second_registration_with_the_same_certificate_is_silent() -> None:
    """With another one it is refused: the id is taken."""
    log = Log().registered()
    before = log.row
    assert log.add(DeviceRegistered(DEVICE, "pump", ("mqtt",), facts(1), "tests")) == []
    log.add(DeviceRegistered(DEVICE, "valve", ("coap",), facts(5), "intruder"))
    assert log.decisions()[-1] == ("EventRefused", "already-registered")
    assert log.row == before


def test_a_certificate_that_nobody_asked_for_is_refused() -> None:
    """The issuer's word alone gives a device no second identity."""
    log = Log().registered()
    log.add(CertificateIssued(DEVICE, "sign-0-0-1", facts(5)))
    assert log.decisions()[-1] == ("EventRefused", "no-rotation")
    assert len(log.row.certificates) == 1


@pytest.mark.parametrize(
    ("number", "alert"), [(9, "fingerprint-unknown"), (1, "certificate-retired")]
)
def test_what_a_door_refused_is_counted_and_told(number: int, alert: str) -> None:
    """The door's reason is kept; a bad certificate raises a critical alert."""
    log = rotated(Log().registered(), 1, 2)
    log.add(SessionRefused(DEVICE, log.evidence(number), "certificate-retired", "at the door"))
    assert ("EventRefused", "certificate-retired") in log.decisions()
    assert ("AlertRaised", alert) in log.decisions()


def test_a_refusal_under_the_good_certificate_is_told_and_not_held_against_it() -> None:
    """Too large a message, say; a reason that nobody knows is called unknown-type."""
    log = Log().registered()
    log.add(SessionRefused(DEVICE, log.evidence(1), "oversize", ""))
    log.add(SessionRefused(DEVICE, log.evidence(1), "because", ""))
    assert log.decisions()[-2:] == [("EventRefused", "oversize"), ("EventRefused", "unknown-type")]
    assert log.row.watches == ()
