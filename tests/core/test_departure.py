"""The end of a device: its certificates, its fleet, who takes its place, and what comes later."""

from typing import Any

from schemas import commands, events
from schemas import fleet_events as fleets
from schemas.envelope import Cause, Position
from schemas.states import CsrReceived, Idle
from schemas.topics import FLEET_EVENTS
from tests.helpers.folding import DAY, DEVICE, Log, facts, fingerprint

HEIR = "pump-2"
CAUSE = Cause(Position(FLEET_EVENTS, 0, 5), 0, 1)


def registered() -> Log:
    """Return a log with a tagged device."""
    log = Log()
    log.tick()
    event = events.DeviceRegistered(DEVICE, "pump", ("mqtt",), facts(1), "ops", ("site=berlin",))
    log.add(event)
    return log


def member() -> Log:
    """Return a log with a device that is a fleet's."""
    log = registered()
    log.add(events.FleetAssigned(DEVICE, "pumps", "", CAUSE))
    return log


def retired(log: Log, heir: str = "") -> list[Any]:
    """Retire the device; return what was said."""
    return [one.record for one in log.add(events.RetirementOrdered(DEVICE, heir, "ops"))]


def of(kind: type, said: list[Any]) -> list[Any]:
    """Return the records of a kind."""
    return [one for one in said if isinstance(one, kind)]


def test_a_retired_device_is_shut_out_and_revoked_without_grace() -> None:
    """Doors refuse its certificate, the issuer revokes it, and it has no deadline any more."""
    log = registered()
    log.opened(1)
    log.add(events.RotationOrdered(DEVICE, "o", "ops"))
    said = retired(log)
    assert [one.fingerprint for one in of(commands.RefuseCertificate, said)] == [fingerprint(1)]
    revoked = of(commands.RevokeCertificate, said)
    assert [(one.serial, one.reason) for one in revoked] == [("1", "device-retired")]
    assert isinstance(log.row.rotation, Idle)
    assert (log.row.next_due_at, log.partition.row.totals.registered) == (0, 0)
    assert log.tick(200 * DAY) == []


def test_a_certificate_that_was_issued_and_not_yet_used_is_revoked_too() -> None:
    """Nothing that the device may hold lets it in."""
    log = registered()
    log.add(events.RotationOrdered(DEVICE, "o", "ops"))
    log.requested(1)
    log.issued(2)
    refused = of(commands.RefuseCertificate, retired(log))
    assert [one.fingerprint for one in refused] == [fingerprint(1), fingerprint(2)]


def test_a_certificate_that_is_issued_afterwards_is_revoked_too() -> None:
    """The request was with the issuer when its device was retired: once, and sent to nobody."""
    log = registered()
    log.add(events.RotationOrdered(DEVICE, "o", "ops"))
    log.requested(1)
    asked = log.row.rotation
    retired(log)
    assert isinstance(asked, CsrReceived)
    event = events.CertificateIssued(DEVICE, asked.request_id, facts(2))
    said = [one.record for one in log.add(event)]
    assert [one.fingerprint for one in of(commands.RefuseCertificate, said)] == [fingerprint(2)]
    revoked = of(commands.RevokeCertificate, said)
    assert [(one.serial, one.reason) for one in revoked] == [("2", "device-retired")]
    assert of(commands.InstallCertificate, said) == []
    assert log.add(event) == []
    log.add(events.CertificateRevoked(DEVICE, fingerprint(2), "2", 7))
    assert [one.crl_number for one in log.row.certificates] == [0, 7]


def test_what_a_retired_device_says_is_refused() -> None:
    """Sessions, reports, registrations, tags: nothing changes, each with its reason."""
    log = registered()
    retired(log)
    before = log.row
    log.opened(1)
    log.reported(1)
    log.add(events.DeviceRegistered(DEVICE, "pump", ("mqtt",), facts(5), "ops"))
    log.add(events.DeviceTagged(DEVICE, ("beta",), (), "ops"))
    assert log.decisions()[-4:] == [("EventRefused", "device-retired")] * 4
    assert log.row == before
    assert retired(log) == []


def test_the_end_of_a_session_and_of_a_certificate_are_still_noted() -> None:
    """A retired device is shown as away, its certificate as listed."""
    log = registered()
    evidence = log.evidence(1)
    log.add(events.SessionOpened(DEVICE, evidence))
    retired(log)
    log.add(events.SessionClosed(DEVICE, evidence, 0))
    log.add(events.CertificateRevoked(DEVICE, fingerprint(1), "1", 7))
    assert (log.row.connected, log.row.certificates[0].crl_number) == (False, 7)


def test_its_fleet_lets_it_go_and_asks_it_no_more() -> None:
    """The fleet is told; one that asks for it later is told that it is retired."""
    log = member()
    left = of(fleets.DeviceRemoved, retired(log))
    assert [(one.fleet_id, one.reason) for one in left] == [("pumps", "device-retired")]
    assert log.row.belongs.fleet_id == ""
    said = [one.record for one in log.add(events.FleetAssigned(DEVICE, "wells", "", CAUSE))]
    answers = of(fleets.MemberReported, said)
    assert [(one.accepted, one.reason) for one in answers] == [(False, "device-retired")]


def test_the_one_that_takes_its_place_gets_its_tags_and_its_fleet() -> None:
    """The old one leaves first: a full fleet has room for the new one by then."""
    log = member()
    said = retired(log, HEIR)
    moves = of(fleets.DeviceRemoved | fleets.DeviceAdded, said)  # type: ignore[arg-type]
    assert [(type(one).__name__, one.device_id) for one in moves] == [
        ("DeviceRemoved", DEVICE),
        ("DeviceAdded", HEIR),
    ]
    assert [one.cause.index for one in moves] == sorted({one.cause.index for one in moves})
    tags = of(events.DeviceTagged, said)
    assert [(one.device_id, one.added) for one in tags] == [(HEIR, ("site=berlin",))]
    assert log.row.replaced_by == HEIR


def test_a_device_cannot_take_its_own_place() -> None:
    """Nor can something that is no device id."""
    log = registered()
    for heir in (DEVICE, "../x"):
        retired(log, heir)
        assert log.decisions()[-1] == ("EventRefused", "malformed")
    assert log.row.retired_at == 0
