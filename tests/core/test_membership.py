"""Fleets: created, configured, rolled back; devices added, confirmed, moved, removed."""

import json
from dataclasses import replace

import pytest

from client import zones
from schemas import fleet_events as events
from schemas.envelope import HOPS_MAX, Cause
from schemas.fleet_orders import FleetAssigned, FleetPolicyChanged, FleetUnassigned
from streams.core import membership, ring
from tests.helpers.fleets import (
    CAUSE,
    DAY,
    FLEET,
    HOUR,
    NOON,
    Fleets,
    decided,
    orders,
    refused,
    rotation,
    update,
)


def changed(patch: str, expected_version: int = 0) -> events.FleetConfigChanged:
    """Return a change of the configuration."""
    return events.FleetConfigChanged(FLEET, patch, expected_version, None, "ops")


def kinds(records: list, kind: type) -> list:
    """Return the records of a kind."""
    return [one for one in records if isinstance(one, kind)]


def test_a_fleet_is_created_with_devices_and_configuration() -> None:
    """Its devices are asked for, its policy is told to every partition of devices."""
    fleets = Fleets()
    said = fleets.add(
        events.FleetCreated(
            FLEET, "Pumps", ("site=berlin",), ("a", "b"),
            '{"certRotation":{"daysBeforeExpiry":45}}', "type=pump", None, "ops",
        )
    )  # fmt: skip
    assert [one.device_id for one in kinds(said, FleetAssigned)] == ["a", "b"]
    (policy,) = kinds(said, FleetPolicyChanged)
    assert (policy.days_before_expiry, policy.membership) == (45, "type=pump")
    assert (fleets.fleet.members, fleets.fleet.confirmed) == (2, 0)
    assert fleets.fleet.config_version == 1


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"config": '{"certRotation":{"days":1}}'}, "invalid-config", "certRotation.days"),
        ({"membership": "a b"}, "invalid-config", "expected and/or"),
        ({"tags": ("=",)}, "invalid-config", "tags"),
        ({"tags": tuple(f"t{one}" for one in range(40))}, "invalid-config", "at most 32"),
        ({"name": "n" * 300}, "invalid-config", "at most 256"),
        ({"devices": tuple(f"d{one}" for one in range(400))}, "invalid-config", "at most 300"),
        ({"devices": ("a", "b"), "config": '{"maxDevices":1}'}, "fleet-full", "maxDevices is 1"),
    ],
)  # fmt: skip
def test_a_fleet_that_is_not_valid_is_refused_whole(
    changes: dict, reason: str, detail: str
) -> None:
    """With the reason and the detail; no row is left."""
    fleets = Fleets()
    event = replace(events.FleetCreated(FLEET, "Pumps", (), (), "{}", "", None, "ops"), **changes)
    why, what = refused(fleets.add(event))
    assert (why, detail in what) == (reason, True), what
    assert len(fleets.stage.rows) == 0


def test_a_taken_id_and_an_unknown_fleet_are_refused() -> None:
    """Nothing changes."""
    fleets = Fleets().created()
    before = fleets.fleet
    again = events.FleetCreated(FLEET, "Other", (), (), "{}", "", None, "ops")
    assert refused(fleets.add(again))[0] == "fleet-exists"
    assert fleets.fleet == before
    unknown = events.DeviceAdded("nothing", "a", "operator", "ops")
    assert refused(fleets.add(unknown))[0] == "unknown-fleet"


def test_every_accepted_change_is_a_version() -> None:
    """With patch, actor and instant; a refused one is none."""
    fleets = Fleets().created("{}")
    fleets.wait(HOUR)
    fleets.add(changed('{"certRotation":{"daysBeforeExpiry":45}}'))
    assert refused(fleets.add(changed('{"certRotation":{"daysBeforeExpiry":0}}')))[0] == (
        "invalid-config"
    )
    history = fleets.stage.rows.get(ring.history_key(FLEET))
    assert [(one.version, one.at) for one in history.versions] == [(1, NOON), (2, NOON + HOUR)]
    assert history.versions[-1].actor == "ops"
    assert fleets.fleet.config.cert_rotation.days_before_expiry == 45
    assert fleets.fleet.config.update_policy.batch_size == 10


def test_a_change_against_an_older_version_is_refused() -> None:
    """Two operators do not overwrite each other unawares."""
    fleets = Fleets().created("{}")
    fleets.add(changed('{"maxDevices":5}', expected_version=1))
    why, what = refused(fleets.add(changed('{"maxDevices":6}', expected_version=1)))
    assert (why, what) == ("version-conflict", "expected version 1, it is 2")
    assert fleets.fleet.config.max_devices == 5


def test_rolling_back_is_a_new_version() -> None:
    """The configuration is what it was, the history goes on; an unknown version is refused."""
    fleets = Fleets().created('{"maxDevices":5}')
    fleets.add(changed('{"maxDevices":null,"certRotation":{"enabled":false}}'))
    fleets.add(events.FleetConfigRolledBack(FLEET, 1, None, "ops"))
    assert fleets.fleet.config_version == 3
    assert fleets.fleet.config.max_devices == 5
    assert fleets.fleet.config.cert_rotation.enabled
    missing = events.FleetConfigRolledBack(FLEET, 9, None, "ops")
    assert refused(fleets.add(missing))[0] == "unknown-version"


def test_the_history_is_bounded() -> None:
    """The oldest versions go first."""
    fleets = Fleets().created("{}")
    for number in range(membership.VERSIONS_MAX + 5):
        fleets.add(changed(json.dumps({"maxDevices": number + 1})))
    versions = fleets.stage.rows.get(ring.history_key(FLEET)).versions
    assert len(versions) == membership.VERSIONS_MAX
    assert versions[-1].version == fleets.fleet.config_version == membership.VERSIONS_MAX + 6


def test_a_fleet_inherits_what_it_does_not_set() -> None:
    """Defaults that change are taken when the fleet is next worked on; its own values stay."""
    fleets = Fleets().created('{"updatePolicy":{"batchSize":3}}')
    defaults = '{"updatePolicy":{"batchSize":50},"certRotation":{"daysBeforeExpiry":20}}'
    fleets.add(events.FleetDefaultsActivated(1, defaults, None, "ops"))
    said = fleets.add(changed("{}"))
    assert fleets.fleet.config.update_policy.batch_size == 3
    assert fleets.fleet.config.cert_rotation.days_before_expiry == 20
    assert [one.days_before_expiry for one in kinds(said, FleetPolicyChanged)] == [20, 20]
    fleets.add(events.FleetDefaultsActivated(1, "{}", None, "ops"))
    fleets.add(changed("{}"))
    assert fleets.fleet.config.cert_rotation.days_before_expiry == 20


def test_defaults_that_are_not_valid_are_refused() -> None:
    """All fleets keep what they have."""
    fleets = Fleets().created("{}")
    wrong = events.FleetDefaultsActivated(1, '{"maxDevices":0}', None, "ops")
    assert refused(fleets.add(wrong))[0] == "invalid-config"
    zone = '{"updatePolicy":{"timeWindow":{"timeZone":"Europe/Berlin"}}}'
    missing = events.FleetDefaultsActivated(1, zone, None, "ops")
    assert "Europe/Berlin" in refused(fleets.add(missing))[1]


def test_inherited_defaults_that_do_not_fit_a_fleet_leave_it_as_it_is() -> None:
    """A start that becomes equal to the fleet's own end is no window."""
    fleets = Fleets().created('{"updatePolicy":{"timeWindow":{"end":"05:00"}}}')
    before = fleets.fleet.config
    late = '{"updatePolicy":{"timeWindow":{"start":"05:00","end":"06:00"}}}'
    fleets.add(events.FleetDefaultsActivated(1, late, None, "ops"))
    fleets.joined(["a"])
    assert fleets.fleet.config == before


def test_a_time_zone_needs_its_table() -> None:
    """The event that names a zone brings its offsets; later changes may do without."""
    fleets = Fleets().created("{}")
    patch = '{"updatePolicy":{"timeWindow":{"timeZone":"Europe/Berlin"}}}'
    assert "no table of its offsets" in refused(fleets.add(changed(patch)))[1]
    table = zones.table("Europe/Berlin", NOON)
    fleets.add(events.FleetConfigChanged(FLEET, patch, 0, table, "ops"))
    fleets.add(changed('{"maxDevices":7}'))
    assert fleets.fleet.zone == table
    fleets.add(changed('{"updatePolicy":null}'))
    assert fleets.fleet.zone is None


def test_a_member_counts_when_the_device_machine_agrees() -> None:
    """Until then it is not confirmed; a refusal takes it out again."""
    fleets = Fleets().created("{}")
    fleets.add(events.DeviceAdded(FLEET, "a", "operator", "ops"))
    fleets.add(events.DeviceAdded(FLEET, "b", "query", ""))
    assert ("MemberAdded", "ordered") in decided(fleets.confirm("a"))
    refusal = events.MemberReported(FLEET, "b", False, "in-another-fleet", 0, 0, CAUSE)
    assert decided(fleets.add(refusal)) == [("MemberLeft", "in-another-fleet")]
    assert (fleets.fleet.members, fleets.fleet.confirmed) == (1, 1)
    assert decided(fleets.confirm("a")) == []


def test_a_full_fleet_refuses_clearly() -> None:
    """MaxDevices is the limit, whoever adds; leaving makes room."""
    fleets = Fleets().created('{"maxDevices":2}').joined(["a", "b"])
    one_more = events.DeviceAdded(FLEET, "c", "query", "")
    assert refused(fleets.add(one_more)) == ("fleet-full", "c: maxDevices is 2")
    fleets.add(events.DeviceRemoved(FLEET, "a", "ordered", "ops"))
    assert len(kinds(fleets.add(one_more), FleetAssigned)) == 1


def test_a_device_twice_or_with_a_wrong_id_is_refused() -> None:
    """Nothing is asked of the device machine."""
    fleets = Fleets().created("{}").joined(["a"])
    again = events.DeviceAdded(FLEET, "a", "operator", "ops")
    assert refused(fleets.add(again))[0] == "repeated"
    wrong = events.DeviceAdded(FLEET, "../a", "operator", "ops")
    assert refused(fleets.add(wrong))[0] == "malformed"
    gone = events.DeviceRemoved(FLEET, "b", "ordered", "ops")
    assert refused(fleets.add(gone))[0] == "not-a-member"


def test_moving_asks_with_the_fleet_it_comes_from() -> None:
    """The device machine lets go of the one and agrees to the other."""
    fleets = Fleets().created("{}")
    (asked,) = kinds(fleets.add(events.DeviceMoved(FLEET, "a", "valves", "ops")), FleetAssigned)
    assert asked.from_fleet_id == "valves"
    fleets.confirm("a")
    left = events.DeviceRemoved(FLEET, "a", "moved", "", CAUSE)
    said = fleets.add(left)
    assert decided(said) == [("MemberLeft", "moved")]
    assert kinds(said, FleetUnassigned) == []
    assert len(fleets.stage.rows) == 2, "the fleet and its history"


def test_a_device_that_believes_itself_a_member_is_let_go() -> None:
    """Its fleet does not know it; the answer carries one hop more, and not for ever."""
    fleets = Fleets().created("{}")
    (told,) = kinds(fleets.confirm("stranger"), FleetUnassigned)
    assert told.cause.hops == CAUSE.hops + 1
    tired = Cause(CAUSE.position, 0, HOPS_MAX)
    said = fleets.add(events.MemberReported(FLEET, "stranger", True, "none", 0, 1, tired))
    assert decided(said) == [("EventRefused", "too-many-hops")]


def test_the_members_by_expiry_follow_their_certificates() -> None:
    """One index row per member, gone with it; the sum too."""
    fleets = Fleets().created("{}").joined(["a"], NOON + DAY).joined(["b"], NOON + 2 * DAY)
    fleets.confirm("a", NOON + 3 * DAY)
    found = [row.device_id for _, row in fleets.stage.rows.scan(ring.expiries(FLEET), b"", 9)]
    assert found == ["b", "a"]
    assert fleets.fleet.not_after_sum_seconds == (2 * NOON + 5 * DAY) // 1000
    fleets.add(events.DeviceRemoved(FLEET, "b", "ordered", "ops"))
    assert fleets.fleet.not_after_sum_seconds == (NOON + 3 * DAY) // 1000
    assert len(fleets.stage.rows.scan(ring.expiries(FLEET), b"", 9)) == 1


def test_a_membership_query_is_told_to_the_devices() -> None:
    """A wrong one is refused."""
    fleets = Fleets().created("{}")
    said = fleets.add(events.MembershipChanged(FLEET, "site=berlin", "ops"))
    assert kinds(said, FleetPolicyChanged)[0].membership == "site=berlin"
    assert refused(fleets.add(events.MembershipChanged(FLEET, "and", "ops")))[0] == (
        "invalid-config"
    )


@pytest.mark.parametrize("spec", [update(), rotation()], ids=["update", "rotation"])
def test_a_member_that_leaves_is_out_of_work_and_queues(spec: object) -> None:
    """In work or waiting: both count as dropped, and the campaign goes on without them."""
    fleets = Fleets().created(
        '{"updatePolicy":{"batchSize":1,"timeWindow":{"start":"00:00","end":"24:00"}}}'
    )
    fleets.joined(["a", "b", "c"])
    (first,) = orders(fleets.order(spec))
    waiting = next(one for one in "abc" if one != first.device_id)
    fleets.add(events.DeviceRemoved(FLEET, waiting, "ordered", "ops"))
    (second,) = orders(fleets.add(events.DeviceRemoved(FLEET, first.device_id, "moved", "")))
    fleets.end(second)
    row = fleets.campaign()
    assert (row.state, row.groups[0].dropped, row.groups[0].succeeded) == ("completed", 2, 1)
    assert fleets.fleet.in_work == 0
