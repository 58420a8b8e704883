"""What the issuer remembers: a fold over the topic, its limits and its list."""

import datetime
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki import facts, ledger, revocation
from pki.issuer import Policy
from pki.ledger import Limits, Rate, State, Unfit
from schemas.commands import ForIssuer, RevokeCertificate, SignCertificate
from schemas.events import CertificateIssued, CertificateRevoked, SigningRefused
from schemas.reasons import Reason
from tests.pki.conftest import AT, World

HOUR = 3_600_000
RATE = Rate(3, 1.0)


def _step(world: World, state: State, record: ForIssuer, offset: int, at: int = AT) -> object:
    noted = ledger.note(state, record, offset, at)
    return ledger.answer(state, record, noted, at, world.authority.device, Policy())


def _revoke(world: World, **changes: object) -> RevokeCertificate:
    held = facts.facts(world.current)
    record = RevokeCertificate(
        "revoke-1", "pump-17", held.fingerprint, held.serial, held.not_after_at, AT,
        Reason.CERTIFICATE_RETIRED.value,
    )  # fmt: skip
    return replace(record, **changes)  # type: ignore[arg-type]


def test_a_repeat_gets_an_equal_answer(world: World) -> None:
    """The same record twice is answered twice alike."""
    state = State()
    first = _step(world, state, world.request, 0)
    assert isinstance(first, CertificateIssued)
    assert _step(world, state, world.request, 1, AT + 5) == first


def test_one_request_id_serves_one_request(world: World) -> None:
    """A second request under a used id is refused."""
    state = State()
    _step(world, state, world.request, 0)
    again = _step(world, state, world.asking(nonce=b"m" * 32), 1)
    assert isinstance(again, SigningRefused)
    assert again.reason == Reason.REPEATED


def test_a_revocation_counts_from_its_offset(world: World) -> None:
    """A request before the revocation is signed, one after it is refused."""
    state = State()
    assert isinstance(_step(world, state, world.request, 0), CertificateIssued)
    assert isinstance(_step(world, state, _revoke(world), 1), CertificateRevoked)
    late = _step(world, state, world.asking(request_id="sign-2"), 2)
    assert isinstance(late, SigningRefused)
    assert late.reason == Reason.CERTIFICATE_RETIRED


def test_a_standby_stands_where_the_first_stood(world: World) -> None:
    """Folding without judging gives the state of folding with judging, and the same list."""
    records: list[ForIssuer] = [world.request, _revoke(world), world.asking(request_id="s2")]
    first, standby = State(), State()
    for offset, record in enumerate(records):
        _step(world, first, record, offset, AT + offset)
        ledger.note(standby, record, offset, AT + offset)
    assert first == standby
    ca = world.authority.device
    assert ledger.crl(first, ca, AT + HOUR) == ledger.crl(standby, ca, AT + HOUR)


def test_a_repeated_revocation_keeps_its_first_number(world: World) -> None:
    """CertificateRevoked names the first list that holds the entry, each time."""
    state = State()
    first = _step(world, state, _revoke(world), 4)
    assert first == _step(world, state, _revoke(world, revoked_at=AT + 1), 9)
    assert isinstance(first, CertificateRevoked)
    read = _list(world, state, AT)
    assert read.number >= first.crl_number > 0


@pytest.mark.parametrize("serial", ["", "0", "g", "-5", "f" * 41])
def test_a_revocation_without_serial_is_unfit(world: World, serial: str) -> None:
    """It goes to the dead letters and changes nothing."""
    state = State()
    answered = _step(world, state, _revoke(world, serial=serial), 0)
    assert isinstance(answered, Unfit)
    assert answered.reason is Reason.MALFORMED
    assert state.revoked == {}


def _list(world: World, state: State, now: int) -> revocation.RevocationList:
    ca = world.authority.device
    return revocation.parse(ledger.crl(state, ca, now), ca.certificate)


def test_the_list_is_renewed_by_the_hour_under_a_higher_number(world: World) -> None:
    """Within the hour it is the same list, after it a later one; a new entry outnumbers both."""
    state = State()
    _step(world, state, _revoke(world), 0)
    ca = world.authority.device
    assert ledger.crl(state, ca, AT) == ledger.crl(state, ca, AT + HOUR - 1)
    now, later = _list(world, state, AT), _list(world, state, AT + 50 * HOUR)
    assert (later.number > now.number, later.this_update_at - now.this_update_at) == (
        True,
        50 * HOUR,
    )
    _step(world, state, _revoke(world, serial="abc"), 1, AT + 1)
    assert _list(world, state, AT + 1).number > later.number


def test_an_empty_list_is_a_list(world: World) -> None:
    """Before the first revocation there is a list with no entry."""
    read = _list(world, State(), AT)
    assert read.revoked == {}
    assert read.next_update_at > AT


def test_entries_leave_long_after_their_certificate(world: World) -> None:
    """An entry is on the list for 60 days after the end of its certificate, then no more."""
    state = State()
    _step(world, state, _revoke(world), 0)
    end = facts.facts(world.current).not_after_at
    keep = int(Limits().crl_keep / datetime.timedelta(milliseconds=1))
    assert len(_list(world, state, end + keep - HOUR).revoked) == 1
    assert len(_list(world, state, end + keep + 2 * HOUR).revoked) == 0


def _asks(world: World, count: int, device_id: str = "pump-17") -> list[SignCertificate]:
    return [
        world.asking(request_id=f"{device_id}-{number}", device_id=device_id)
        for number in range(count)
    ]


def test_a_device_has_its_own_limit(world: World) -> None:
    """The fourth request at once is refused; another device and a second later pass."""
    state = State(Limits(device=RATE))
    noted = [ledger.note(state, one, 0, AT) for one in _asks(world, 4)]
    assert noted[:3] == [None, None, None]
    assert noted[3] is not None
    assert noted[3].reason is Reason.MESSAGE_RATE
    assert ledger.note(state, _asks(world, 1, "pump-18")[0], 4, AT) is None
    assert ledger.note(state, world.asking(request_id="x"), 5, AT + 1000) is None


def test_the_fleet_has_a_limit(world: World) -> None:
    """Many devices together are limited, too."""
    state = State(Limits(fleet=RATE))
    noted = [ledger.note(state, _asks(world, 1, f"d{n}")[0], n, AT) for n in range(4)]
    assert [one is None for one in noted] == [True, True, True, False]


@given(st.lists(st.integers(-10_000, 100_000), max_size=60))
def test_a_bucket_gives_no_more_than_its_rate(steps: list[int]) -> None:
    """Whatever the clock does, burst and rate bound what is taken."""
    bucket, at, latest, taken = ledger.Bucket(RATE.burst, 0), 0, 0, 0
    for step in steps:
        at += step
        latest = max(latest, at)
        taken += bucket.take(RATE, at)
        assert taken <= RATE.burst + latest / 1000 * RATE.per_second + 1e-6
