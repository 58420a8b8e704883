"""The client by the user's names: its iterators on a real Kafka, and all of it on a whole stack."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from client import feeds
from client.connection import Connection
from client.demo import fleet as demo
from client.errors import FleetError
from client.events import POLL_MAX, Events
from client.feeds import CertExpiring, CertRotation, Event, HealthCheck, Status
from client.fleets import Fleets
from client.kafka import Timeouts
from client.local.topics import create_topics
from client.writer import Writer
from configuration.cluster import Cluster
from device.simulator import Plan, Simulator, behaviours
from schemas.decisions import Decision, DecisionName
from schemas.envelope import Position
from schemas.topics import DECISIONS
from tests.helpers.registrations import certificate
from tests.helpers.stack import RunningStack
from tests.helpers.wait import until, until_async

DEVICE, WITHIN = "pump-of-events", 60.0
W = TypeVar("W", bound=feeds.Happening)


def decided(subject: str, name: DecisionName, number: int, **values: object) -> Decision:
    """Return a decision as a machine makes it."""
    place = Position("device.events", 0, number)
    texts = {key: str(value) for key, value in values.items()}
    return Decision(
        f"d-{subject}-{number}", name, "none", "info", subject, place, 0, "", 1, 0, texts
    )


def write(bootstrap: str, *decisions: Decision) -> None:
    """Write decisions into their topic."""
    writer = Writer(Cluster(bootstrap), Timeouts())
    for one in decisions:
        writer.send(DECISIONS, one.subject.encode(), one)
    writer.flush()


def expiring(device_id: str, days: int) -> Decision:
    """Return the decision that a device's certificate nears its end."""
    name = DecisionName.CERTIFICATE_NEARED_EXPIRY
    return decided(f"device:{device_id}", name, days, days=days, not_after_at=days * 10)


def events_of(bootstrap: str, device_id: str, start: feeds.Bookmark | str = "latest") -> Events:
    """Return the days that a device's certificate has left, as they are told."""
    chosen = feeds.chosen(feeds.DEVICE_FEEDS, ("cert-expiring",), "device")
    return Events(Cluster(bootstrap), Timeouts(), device_id, chosen, start)


async def days(events: Events, count: int) -> list[Event]:
    """Return the next events."""
    async with asyncio.timeout(WITHIN):
        return [await anext(events) for _ in range(count)]


def days_of(found: list[Event]) -> list[int]:
    """Return the days of events."""
    return [one.what.days for one in found if isinstance(one.what, CertExpiring)]


@pytest.fixture(scope="module")
def topics(kafka: str) -> str:
    """A Kafka with the topics of the catalogue."""
    create_topics(Cluster(kafka), 2)
    return kafka


async def test_a_reading_begins_where_it_is_told(topics: str) -> None:
    """Earliest tells all, latest what comes from then on, a bookmark what comes behind it."""
    write(topics, *(expiring("begins", number) for number in (3, 2)), expiring("other", 9))
    async with events_of(topics, "begins") as latest:
        write(topics, expiring("begins", 1))
        assert days_of(await days(latest, 1)) == [1]
    async with events_of(topics, "begins", "earliest") as earliest:
        found = await days(earliest, 3)
        assert days_of(found) == [3, 2, 1]
    async with events_of(topics, "begins", found[1].bookmark) as behind:
        assert days_of(await days(behind, 1)) == [1]


async def test_a_cancelled_reading_closes_its_consumer(topics: str) -> None:
    """So does one whose loop was left, and nothing is in hand but what one poll gave."""
    write(topics, *(expiring("many", number) for number in range(3 * POLL_MAX)))
    events = events_of(topics, "many", "earliest")
    assert days_of(await days(events, 1)) == [0]
    assert events.in_hand <= POLL_MAX

    async def forever() -> None:
        async for _ in events:
            pass

    reading = asyncio.create_task(forever())
    await until_async(lambda: events.in_hand == 0, describe="it waits for more")
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await until_async(lambda: events.closed, describe="the consumer is closed")
    with pytest.raises(StopAsyncIteration):
        await anext(events)
    left = events_of(topics, "many", "earliest")
    async for _ in left:
        break
    await left.aclose()
    assert left.closed


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("statsu",), "a device has no event 'statsu'; did you mean status?"),
        (
            ("health-check",),
            "a device has no event 'health-check'; known are status, cert-expiring",
        ),
    ],
)
def test_an_unknown_name_is_an_error_at_once(names: tuple[str, ...], said: str) -> None:
    """The nearest name is told, or all of them; so is a start that is none."""
    with pytest.raises(FleetError) as raised:
        feeds.chosen(feeds.DEVICE_FEEDS, names, "device")
    assert str(raised.value) == said
    with pytest.raises(FleetError, match="an event's bookmark"):
        events_of("localhost:1", "a", "newest")


def test_every_figure_of_a_health_check_is_read() -> None:
    """The decision's texts become numbers; what is not known is None."""
    values = {
        "devices": 3, "connected": 2, "degraded": 0, "silent": 1, "gone": 0, "rotations": 4,
        "in_work": 1, "finished": 9, "failed": 1, "error_rate": 0.125, "latency": 20.0,
    }  # fmt: skip
    told = decided("fleet:f", DecisionName.FLEET_CHECKED, 1, **values)
    what = feeds.FLEET_FEEDS["health-check"].happened(told)
    assert isinstance(what, HealthCheck)
    assert (what.fleet_id, what.statistics.silent, what.statistics.error_rate) == ("f", 1, 0.125)
    assert what.statistics.cert_days_least is None


@asynccontextmanager
async def living(stack: RunningStack, directory: Path) -> AsyncIterator[str]:
    """Let one device live, with a certificate of ninety days, registered by the client's names."""
    plan = Plan(
        directory=directory,
        host="localhost",
        port=stack.layout.device_port,
        ca_file=stack.layout.pki_dir / "service-ca" / "ca.pem",
        count=1,
        prefix="evented",
    )
    (member,) = demo.enrol(
        stack.authorities, directory, behaviours(plan), stack.fleet, near_expiry=0
    )
    simulator = Simulator(plan)
    running = asyncio.create_task(simulator.run())
    try:
        yield member.device_id
    finally:
        simulator.stop()
        await running


async def test_the_users_names_do_what_the_glossary_says(
    stack: RunningStack, tmp_path: Path
) -> None:
    """Registered, made a member, configured: status, cert-expiring and cert-rotation are told."""
    async with Connection(stack.layout.bootstrap) as fleetcert:
        registry, fleets = fleetcert.registry, fleetcert.fleets
        pem = certificate(stack.authorities, DEVICE)
        device = await registry.register(
            {"id": DEVICE, "type": "pump", "certificates": {"device": pem}, "tags": ["beta"]}
        )
        assert (await device.row()).tags == ("beta",)
        other = certificate(stack.authorities, DEVICE, days=50)
        with pytest.raises(FleetError, match="The device id is taken"):
            await registry.register({"id": DEVICE, "certificates": {"device": other}})
        fleet = await fleets.create({"id": "evented"})
        async with living(stack, tmp_path / "devices") as device_id, asyncio.timeout(WITHIN):
            await until_async(lambda: asyncio.to_thread(stack.fleet.find, device_id), within=30)
            device = await registry.device(device_id)
            async with device.events() as told, fleet.events("cert-rotation") as rotated:
                await fleets.add_device("evented", device_id)
                assert (await connected(told)).device_id == device_id
                patch = {"certRotation": {"daysBeforeExpiry": 90, "staggered": False}}
                anytime = {"timeWindow": {"start": "00:00", "end": "24:00"}}
                await fleets.update_config("evented", {**patch, "updatePolicy": anytime})
                near = await first(told, CertExpiring)
                assert (near.device_id, near.days) == (device_id, 89)
                event = await anext(rotated)
                assert isinstance(event.what, CertRotation)
                assert (event.what.fleet_id, event.what.device) == ("evented", device_id)
                assert (await device.status()).fleet_id == "evented"


async def connected(events: Events) -> Status:
    """Return the first status of a member that is connected."""
    while True:
        status = await first(events, Status)
        if status.connected and status.fleet_id:
            return status


async def first(events: Events, kind: type[W]) -> W:
    """Return the first event of a kind."""
    async for event in events:
        if isinstance(event.what, kind):
            return event.what
    raise AssertionError("the events have ended")


def test_a_file_of_devices_is_imported_again_and_again(stack: RunningStack, tmp_path: Path) -> None:
    """Repeated it changes nothing; refused lines are told; a dry run writes nothing."""
    names = [f"bulk-{number}" for number in range(5)]
    lines = [
        json.dumps(
            {
                "id": one,
                "tags": ["bulk"],
                "certificates": {"device": certificate(stack.authorities, one)},
            }
        )
        for one in names
    ]
    file, report = tmp_path / "devices.jsonl", tmp_path / "refused.csv"
    file.write_text("\n".join([*lines, '{"id": "bulk-9"}']))
    dry = stack.command("device", "import", str(file), "--dry-run", "--json")
    assert json.loads(dry.stdout.splitlines()[-1])["registered"] == 5
    assert not set(names) & set(stack.fleet.ids())
    for counts in ((5, 0, 1), (0, 5, 1)):
        done = stack.command("device", "import", str(file), "--report", str(report), "--json")
        assert done.returncode == 1
        refused, told = map(json.loads, done.stdout.splitlines())
        assert (refused["line"], refused["field"]) == (6, "certificates.device")
        assert (told["registered"], told["known"], told["refused"]) == counts
        assert report.read_text().splitlines()[1] == "6,bulk-9,certificates.device,missing"
        until(lambda: set(names) <= set(stack.fleet.ids()), describe="all are registered")


def test_a_device_is_tagged_replaced_and_never_comes_back(stack: RunningStack) -> None:
    """Whoever takes its place has its tags; its certificate is revoked; its id is refused."""
    old, new = certificate(stack.authorities, "old-1"), certificate(stack.authorities, "new-1")
    for name, pem in (("old-1", old), ("new-1", new)):
        stack.fleet.register(name, certificate=pem.encode())
    until(lambda: {"old-1", "new-1"} <= set(stack.fleet.ids()), describe="both are registered")
    assert stack.command("device", "tag", "old-1", "site=berlin").stdout == "old-1: site=berlin\n"
    assert stack.command("device", "replace", "old-1", "new-1", "--yes").returncode == 0
    row = stack.fleet.device("old-1")
    assert row.retired_at
    assert row.replaced_by == "new-1"
    refused = stack.command("device", "tag", "old-1", "beta")
    assert refused.returncode == 1
    assert "never used again" in refused.stderr
    assert stack.command("device", "tag", "new-1", "beta").stdout == "new-1: beta site=berlin\n"


def test_a_fleet_takes_the_devices_that_its_query_finds(stack: RunningStack) -> None:
    """Those that are there, those that come, and not those whose tags no longer say so."""
    tags = {"q-1": ["site=berlin"], "q-2": ["site=paris"], "q-3": ["site=berlin", "beta"]}

    def register(name: str) -> None:
        pem = certificate(stack.authorities, name).encode()
        stack.fleet.register(name, "sensor", certificate=pem, tags=tags[name])

    def holds(*names: str) -> None:
        with Fleets(stack.layout.bootstrap) as fleets:
            until(
                lambda: [one.device_id for one in fleets.members("queried")] == list(names),
                within=30,
                describe=lambda: f"{names} are members: {fleets.members('queried')}",
            )

    for name in ("q-1", "q-3"):
        register(name)
    text = "type=sensor and site in (berlin, paris) and not beta"
    assert stack.command("fleet", "create", "queried", "--query", text).returncode == 0
    holds("q-1")
    register("q-2")
    holds("q-1", "q-2")
    found = stack.json("fleet", "query", text)
    assert [one["device_id"] for one in found] == ["q-1", "q-2"]
    assert stack.command("device", "tag", "q-1", "beta").returncode == 0
    assert stack.command("device", "tag", "q-3", "-r", "beta").returncode == 0
    holds("q-2", "q-3")
    assert stack.command("fleet", "query", "type=valve", "--set-for", "queried").returncode == 0
    holds()
    assert all(one["identical"] for one in stack.json("replay"))
