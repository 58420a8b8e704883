"""Which fleet a device's tags put it into: asked at every change, of tags and of queries."""

from typing import Any

from schemas import events
from schemas import fleet_events as fleets
from schemas.envelope import BROADCAST_KEY, Cause, Position
from schemas.fleet_queries import QUERIES_KEY
from schemas.topics import FLEET_EVENTS
from streams.core import matching
from tests.helpers.fleets import FLEET, Fleets
from tests.helpers.folding import DEVICE, Log, facts

CAUSE = Cause(Position(FLEET_EVENTS, 0, 5), 0, 1)
BERLIN, PARIS = ("site=berlin",), ("site=paris",)


def queried(log: Log, number: int, fleet: str, query: str) -> None:
    """Tell the partition a fleet's query."""
    event = events.FleetPolicyChanged(
        number, fleet, query, True, 30, 300_000, 60_000, 0.05, 1_000, CAUSE
    )
    log.add(event, BROADCAST_KEY)


def register(log: Log, device: str = DEVICE, tags: tuple[str, ...] = BERLIN) -> list[Any]:
    """Register a device with tags; return what the fleets are told."""
    event = events.DeviceRegistered(device, "pump", ("mqtt",), facts(1), "ops", tags)
    return told(log.add(event, device.encode()))


def tagged(log: Log, *tags: str, removed: tuple[str, ...] = ()) -> list[Any]:
    """Change the device's tags; return what the fleets are told."""
    return told(log.add(events.DeviceTagged(DEVICE, tags, removed, "ops")))


def told(outputs: list[Any]) -> list[Any]:
    """Return who joins and leaves which fleet, and how that came."""
    found = [one.record for one in outputs if one.topic == FLEET_EVENTS]
    joins = [one for one in found if isinstance(one, fleets.DeviceAdded | fleets.DeviceRemoved)]
    return [
        (one.fleet_id, one.device_id, getattr(one, "source", "") or getattr(one, "reason", ""))
        for one in joins
    ]


def assigned(log: Log, fleet: str) -> list[Any]:
    """Let a fleet ask for the device; return what the fleets are told."""
    return told(log.add(events.FleetAssigned(DEVICE, fleet, "", CAUSE)))


def unassigned(log: Log, fleet: str, reason: str) -> list[Any]:
    """Let a fleet let the device go; return what the fleets are told."""
    return told(log.add(events.FleetUnassigned(DEVICE, fleet, CAUSE, reason)))


def asked() -> Log:
    """Return a log of two fleets with queries."""
    log = Log()
    log.tick()
    queried(log, 1, "wells", "site in (berlin, paris)")
    queried(log, 2, "pumps", "site=berlin and not beta")
    log.tick()
    return log


def test_a_device_asks_into_the_first_fleet_that_finds_it() -> None:
    """The first by id; one that nobody finds asks nobody."""
    log = asked()
    assert register(log) == [("pumps", DEVICE, "query")]
    assert register(log, "pump-2", PARIS) == [("wells", "pump-2", "query")]
    assert register(log, "pump-3", ()) == []


def test_a_member_that_is_no_longer_found_leaves_and_goes_on() -> None:
    """It is let go by its fleet, and the next one that finds it is asked."""
    log = asked()
    register(log)
    assert assigned(log, "pumps") == []
    assert tagged(log, "beta") == [("pumps", DEVICE, "unmatched")]
    assert unassigned(log, "pumps", "unmatched") == [("wells", DEVICE, "query")]


def test_tags_that_changed_while_the_fleet_was_asked_are_seen() -> None:
    """The device that has just become a member says so at once."""
    log = asked()
    register(log)
    tagged(log, *PARIS)
    assert assigned(log, "pumps") == [("pumps", DEVICE, "unmatched")]


def test_who_was_removed_by_hand_stays_out_until_its_tags_change() -> None:
    """The same fleet does not take it again at once; another one may."""
    log = asked()
    queried(log, 3, "wells", "")
    register(log)
    assigned(log, "pumps")
    assert unassigned(log, "pumps", "ordered") == []
    assert tagged(log, "floor=2") == [("pumps", DEVICE, "query")]


def test_a_query_that_changes_is_asked_of_every_device_once() -> None:
    """At the next tick; behind that one nothing is due any more."""
    log = Log()
    log.tick()
    for number in range(5):
        register(log, f"pump-{number}", BERLIN if number % 2 else PARIS)
    queried(log, 1, "pumps", "site=berlin")
    assert told(log.tick(1_000)) == [
        ("pumps", "pump-1", "query"),
        ("pumps", "pump-3", "query"),
    ]
    assert told(log.tick(1_000)) == []
    assert log.rows[QUERIES_KEY].next_due_at == 0


def test_one_tick_says_a_bounded_number_of_things() -> None:
    """The rest comes with the ticks behind it; nobody is asked twice, nobody is left out."""
    log, count = Log(), 2 * matching.OUTPUTS_MAX + 10
    log.tick()
    for number in range(count):
        register(log, f"pump-{number}")
    queried(log, 1, "pumps", "type=pump")
    parts = [told(log.tick(1_000)) for _ in range(4)]
    assert [len(one) for one in parts] == [90, 90, 10, 0]
    assert len({one[1] for part in parts for one in part}) == count


def test_no_more_queries_than_a_partition_remembers() -> None:
    """One more is refused; one that goes makes room."""
    log = Log()
    log.tick()
    for number in range(matching.QUERIES_MAX + 1):
        queried(log, number + 1, f"fleet-{number}", "beta")
    assert log.decisions()[-1] == ("EventRefused", "too-many-queries")
    assert len(log.rows[QUERIES_KEY].queries) == matching.QUERIES_MAX  # type: ignore[attr-defined]


def test_a_fleet_lets_go_only_whom_its_query_brought() -> None:
    """Members by hand stay, whatever their tags say."""
    fleet = Fleets().created(membership="site=berlin")
    fleet.add(fleets.DeviceAdded(FLEET, "a", "operator", "ops"))
    fleet.add(fleets.DeviceAdded(FLEET, "b", "query", "query"))
    for one in ("a", "b"):
        fleet.add(fleets.DeviceRemoved(FLEET, one, "unmatched", "query"))
    assert fleet.fleet.members == 1
    assert fleet.member("a").source == "operator"
