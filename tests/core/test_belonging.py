"""The device's part in its fleet: membership, orders, and what the fleet is told."""

from typing import Any

import pytest

from schemas import commands, events
from schemas import fleet_events as fleets
from schemas.envelope import BROADCAST_KEY, HOPS_MAX, Cause, Position
from schemas.fleet_orders import FleetPolicyChanged
from schemas.fleet_sums import FleetSums
from schemas.states import FLEET_KEY_PREFIX
from schemas.topics import FLEET_EVENTS
from tests.helpers.fleets import ARTEFACT
from tests.helpers.folding import DAY, DEVICE, POLICY, START, Log, fingerprint

FLEET = "pumps"
CAUSE = Cause(Position(FLEET_EVENTS, 0, 5), 0, 1)


def told(outputs: list[Any]) -> list[Any]:
    """Return what the fleets are told, but for health and sums."""
    records = [one.record for one in outputs if one.topic == FLEET_EVENTS]
    beside = fleets.HealthReported | fleets.FleetTotalsReported
    return [one for one in records if not isinstance(one, beside)]


def sums_told(outputs: list[Any]) -> list[FleetSums]:
    """Return the sums that the fleets are told."""
    records = [one.record for one in outputs]
    return [one.sums for one in records if isinstance(one, fleets.FleetTotalsReported)]


def health_told(outputs: list[Any]) -> list[tuple[str, str]]:
    """Return (health, reason) of what the fleets are told of health."""
    records = [one.record for one in outputs]
    return [(one.health, one.reason) for one in records if isinstance(one, fleets.HealthReported)]


def assigned(fleet: str = FLEET, from_fleet: str = "", cause: Cause = CAUSE) -> Any:
    """Return a fleet's question for the device."""
    return events.FleetAssigned(DEVICE, fleet, from_fleet, cause)


def ordered(order_id: str = "o1", fleet: str = FLEET) -> events.RotationOrdered:
    """Return a campaign's order to rotate."""
    return events.RotationOrdered(DEVICE, order_id, "ops", fleet, "c", CAUSE)


def updating(order_id: str = "u1", fleet: str = FLEET) -> events.UpdateOrdered:
    """Return a campaign's order to update."""
    return events.UpdateOrdered(DEVICE, order_id, fleet, "c", ARTEFACT, START + DAY, CAUSE)


def policy(number: int = 1, days: int = 30) -> FleetPolicyChanged:
    """Return what the fleet's devices go by."""
    return FleetPolicyChanged(number, FLEET, "", True, days, 300_000, 60_000, 0.05, 1_000, CAUSE)


def member(days: float = 90) -> Log:
    """Return a log whose device is a member of the fleet."""
    log = Log().registered(days)
    log.add(assigned())
    return log


def rotated(log: Log) -> list[Any]:
    """Let the device rotate under certificate 2; return what the fleet is told."""
    log.requested(1)
    log.issued(2)
    log.answered(1, "done", log.last(commands.InstallCertificate).command_id)
    return told(log.opened(2))


def test_a_device_without_a_fleet_agrees() -> None:
    """It says its certificate, and the answer carries one hop more."""
    log = Log().registered(90)
    (word,) = told(log.add(assigned()))
    assert (word.accepted, word.fleet_id, word.cause.hops) == (True, FLEET, 2)
    assert word.not_after_at == START + 90 * DAY
    assert log.row.belongs.fleet_id == FLEET


def test_a_member_of_another_fleet_says_so() -> None:
    """The first fleet keeps it, until it is moved or let go."""
    log = member()
    (word,) = told(log.add(assigned("valves")))
    assert (word.fleet_id, word.accepted, word.reason) == ("valves", False, "in-another-fleet")
    left, joined = told(log.add(assigned("valves", from_fleet=FLEET)))
    assert (left.fleet_id, left.reason) == (FLEET, "moved")
    assert (joined.fleet_id, joined.accepted) == ("valves", True)
    log.add(events.FleetUnassigned(DEVICE, FLEET, CAUSE))
    assert log.row.belongs.fleet_id == "valves"
    log.add(events.FleetUnassigned(DEVICE, "valves", CAUSE))
    assert log.row.belongs.fleet_id == ""


def test_an_unregistered_device_is_nobodys() -> None:
    """The fleet hears it, once; too many hops end the talk."""
    log = Log()
    log.tick()
    (word,) = told(log.add(assigned()))
    assert (word.accepted, word.reason) == (False, "unknown-device")
    assert told(log.add(assigned(cause=Cause(CAUSE.position, 1, HOPS_MAX)))) == []


def test_a_members_certificate_that_nears_its_end_is_told_and_not_rotated() -> None:
    """Once per certificate; the fleet orders the rotation, and hears of its end."""
    log = member(days=20)
    (near,) = told(log.tick(1_000))
    assert isinstance(near, fleets.CertificateNeared)
    assert (near.fleet_id, near.not_after_at) == (FLEET, START + 20 * DAY)
    assert told(log.tick(DAY)) == []
    assert log.state() == "Idle"
    log.add(ordered())
    assert log.state() == "Requested"
    report, end = rotated(log)
    assert isinstance(report, fleets.MemberReported)
    assert report.not_after_at == START + 180 * DAY
    assert (end.outcome, end.order_id, end.campaign_id) == ("succeeded", "o1", "c")
    assert log.row.belongs.order_id == ""


def test_the_fleets_own_days_count() -> None:
    """Its policy has a row of its own; an older word of it changes nothing."""
    log = member(days=40)
    key = FLEET_KEY_PREFIX + FLEET.encode()
    log.add(policy(2, days=45), key=BROADCAST_KEY)
    log.add(policy(1, days=10), key=BROADCAST_KEY)
    assert log.rows[key].days_before_expiry == 45
    assert log.partition.row.rows == len(log.rows)
    log.reported(1)
    (near,) = told(log.tick(1_000))
    assert isinstance(near, fleets.CertificateNeared)


def test_a_rotation_that_was_given_up_ends_its_order() -> None:
    """The last failure counts, with its reason."""
    log = member()
    log.add(ordered())
    ends: list[Any] = []
    while not ends:
        ends = told(log.tick(3_600_000))
    (end,) = ends
    assert (end.outcome, end.reason) == ("failed", "device-away")


def test_a_newer_order_takes_the_place_of_an_older_one() -> None:
    """The rotation in work goes on, and its end is the newer order's."""
    log = member()
    log.add(ordered("o1"))
    log.add(ordered("o2"))
    assert [one.order_id for one in rotated(log)[1:]] == ["o2"]


def test_an_order_within_the_grace_of_the_last_rotation_begins_behind_it() -> None:
    """Two campaigns one after the other: the second one's order neither hangs nor fails."""
    log = member()
    log.add(ordered("o1"))
    rotated(log)
    assert log.state() == "Proven"
    assert log.add(ordered("o2")) == []
    log.tick(POLICY.grace_ms)
    assert log.state() == "Requested"
    log.requested(2)
    log.issued(3)
    (_, ended) = told(log.opened(3))
    assert (ended.order_id, ended.outcome) == ("o2", "succeeded")


def test_an_order_outlives_a_renewal_that_the_device_had_begun() -> None:
    """It ends with it where it succeeds, and begins by itself where the issuer refuses."""
    log = member()
    log.opened(1)
    log.renewed(1)
    log.add(ordered("o1"))
    request = log.last(commands.SignCertificate).request_id
    log.add(events.SigningRefused(DEVICE, request, "issuer-refused", ""))
    log.tick(1_000)
    assert log.state() == "Requested"


def test_an_operators_rotation_is_nobodys_order() -> None:
    """The fleet hears of the new certificate alone."""
    log = member()
    log.add(events.RotationOrdered(DEVICE, "mine", "ops"))
    (report,) = rotated(log)
    assert isinstance(report, fleets.MemberReported)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        ("done", ("succeeded", "none")),
        ("failed", ("failed", "device-failed")),
        ("refused", ("failed", "device-refused")),
    ],
)
def test_an_update_goes_down_and_ends_as_the_device_says(
    outcome: str, expected: tuple[str, str]
) -> None:
    """The artefact is in the command; accepted is not yet an end."""
    log = member()
    log.add(updating())
    command = log.last(commands.InstallUpdate)
    assert (command.uri, command.sha256, command.expires_at) == (
        ARTEFACT.uri, ARTEFACT.sha256, START + DAY,
    )  # fmt: skip
    assert told(log.answered(1, "accepted", command.command_id)) == []
    assert told(log.answered(1, "done", "another")) == []
    (end,) = told(log.answered(1, outcome, command.command_id))
    assert (end.order_id, end.outcome, end.reason) == ("u1", *expected)
    assert log.row.belongs.update is None
    assert told(log.answered(1, outcome, command.command_id)) == []


def test_an_update_is_sent_again_until_it_is_accepted() -> None:
    """Under the same id, on every session; not after its deadline, not once accepted."""
    log = member()
    log.add(updating())
    command = log.last(commands.InstallUpdate)
    log.add(updating())
    sent = [one.record for one in log.opened(1)]
    assert [one.command_id for one in sent if isinstance(one, commands.InstallUpdate)] == [
        command.command_id
    ]
    log.answered(1, "accepted", command.command_id)
    again = [one.record for one in log.opened(1, session="later")]
    assert not any(isinstance(one, commands.InstallUpdate) for one in again)


def test_a_late_copy_of_an_order_changes_nothing() -> None:
    """Neither an update nor a rotation is done again when its order comes again after its end."""
    log = member()
    log.add(updating())
    log.answered(1, "done", log.last(commands.InstallUpdate).command_id)
    assert log.add(updating()) == []
    log.add(ordered())
    rotated(log)
    before = log.row.belongs
    assert told(log.add(ordered())) == []
    assert log.row.belongs == before


def test_an_update_of_another_fleet_is_refused() -> None:
    """Nothing goes down."""
    log = member()
    outputs = log.add(updating(fleet="valves"))
    assert ("EventRefused", "not-a-member") in log.decisions()
    assert not any(isinstance(one.record, commands.InstallUpdate) for one in outputs)
    assert log.row.belongs.update is None


def test_a_members_health_is_told_when_it_changes() -> None:
    """Connected, alone, silent, gone, and back: each once, each by its deadline."""
    log = member()
    log.add(policy(), key=BROADCAST_KEY)
    assert health_told(log.opened(1)) == []
    assert log.row.belongs.health == "connected"
    closing = log.evidence(1)
    assert health_told(log.add(events.SessionClosed(DEVICE, closing, 0))) == []
    assert health_told(log.tick(299_000)) == []
    assert health_told(log.tick(1_000)) == [("degraded", "session-closed")]
    assert health_told(log.tick(600_000)) == [("silent", "silent")]
    assert health_told(log.tick(DAY)) == [("gone", "silent")]
    assert health_told(log.tick(DAY)) == []
    assert health_told(log.opened(1, session="again")) == [("connected", "none")]


def test_a_fleets_own_interval_counts() -> None:
    """A health check is missed after three of its intervals."""
    log = member()
    log.opened(1)
    quick = FleetPolicyChanged(1, FLEET, "", True, 30, 10_000, 60_000, 0.05, 1_000, CAUSE)
    log.add(quick, key=BROADCAST_KEY)
    log.reported(1)
    assert health_told(log.tick(29_000)) == []
    assert health_told(log.tick(1_000)) == [("silent", "silent")]


def test_an_alert_makes_a_member_degraded() -> None:
    """With the alert's own reason, until it is cleared."""
    log = member()
    log.opened(1)
    said: list[tuple[str, str]] = []
    for _ in range(3):
        for _ in range(10):
            said += health_told(log.reported(1, "error"))
        said += health_told(log.tick(61_000))
    assert ("degraded", "error-rate") in said


def test_every_word_to_the_fleet_has_a_place_of_its_own() -> None:
    """Causes rise with the outputs: a receiver that keeps the highest loses none."""
    log = member(days=20)
    log.tick(1_000)
    log.add(ordered())
    rotated(log)
    words = [one.record for one in log.outputs if one.topic == FLEET_EVENTS]
    marks = [(one.cause.position.offset, one.cause.index) for one in words]
    assert marks == sorted(set(marks))
    assert fingerprint(2) == log.row.certificates[-1].fingerprint


def test_sums_are_told_when_they_changed_and_not_more_often() -> None:
    """At most once per metricsInterval; a partition in which nothing happens says nothing."""
    log = member()
    log.add(policy(), key=BROADCAST_KEY)
    log.opened(1)
    assert sums_told(log.tick(59_000)) == []
    (first,) = sums_told(log.tick(1_000))
    assert (first.partition, first.connected, first.finished) == (0, 1, 0)
    assert sums_told(log.tick(600_000)) == []
    log.add(events.FleetUnassigned(DEVICE, FLEET, CAUSE))
    (last,) = sums_told(log.tick(60_000))
    assert last.connected == 0


def test_reports_and_replies_are_results() -> None:
    """Reports count when their window closes, answers at once, with their latency."""
    log = member()
    log.opened(1)
    for number in range(10):
        log.reported(1, "error" if number < 3 else "reading")
    log.tick(61_000)
    log.reported(1)
    log.add(updating())
    log.answered(1, "done", log.last(commands.InstallUpdate).command_id)
    told_sums = sums_told(log.tick(60_000))
    (last,) = told_sums[-1:]
    assert (last.finished, last.failed, sum(last.latencies)) == (11, 3, 1)


def test_a_rotation_is_counted_when_it_is_whole() -> None:
    """One for each, in the sums of its fleet."""
    log = member()
    log.add(ordered())
    rotated(log)
    log.tick(log.partition.row.policy.grace_ms + 1_000)
    (last,) = sums_told(log.tick(60_000))[-1:]
    assert last.rotations == 1
