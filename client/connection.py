"""The client for asyncio, by the user's names: a registry of devices, the fleets, their events.

    async with Connection("127.0.0.1:9092") as fleetcert:
        device = await fleetcert.registry.register(
            {"id": "pump-7", "type": "pump", "protocols": ["mqtt"],
             "certificates": {"device": "pump-7.pem"}, "tags": ["site=berlin"]})
        fleet = await fleetcert.fleets.create({"id": "pumps", "devices": ["pump-7"]})
        await fleetcert.fleets.update_config("pumps", {"certRotation": {"daysBeforeExpiry": 45}})
        async for event in device.events("status", "cert-expiring"):
            print(event)

Every change waits for the machine's answer; what it refuses is a FleetError with its words. The
blocking clients (`client/fleet.py`, `client/fleets.py`) do the work, one call after another in one
thread; events have threads of their own.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NotRequired, ParamSpec, Self, TypedDict, TypeVar

from client import feeds, registration
from client.errors import FleetError
from client.events import LATEST, Events, Start
from client.feeds import DeviceEventName, FleetEventName, Status
from client.fleet import Fleet
from client.fleets import Fleets
from client.kafka import Timeouts
from client.registration import Document
from configuration.cluster import LOCAL, Cluster
from schemas.fleet_states import FleetRow
from schemas.pending import PendingRow
from schemas.states import DeviceRow
from streams.core.description import UNNAMED_TYPE

P = ParamSpec("P")
R = TypeVar("R")
FLEET_FIELDS = ("id", "name", "tags", "devices", "config", "membership")


class FleetDocument(TypedDict):
    """A fleet as a document; `config` is a patch over the defaults, `membership` a query."""

    id: str
    name: NotRequired[str]
    tags: NotRequired[Sequence[str]]
    devices: NotRequired[Sequence[str]]
    config: NotRequired[Mapping[str, Any]]
    membership: NotRequired[str]


class Connection:
    """What one program knows of one fleetcert."""

    def __init__(
        self,
        kafka: Cluster | str = LOCAL,
        actor: str = "operator",
        *,
        timeouts: Timeouts | None = None,
    ) -> None:
        cluster = Cluster.of(kafka)
        self._calls = _Calls(cluster, timeouts or Timeouts())
        self._devices = Fleet(cluster, actor, timeouts=timeouts)
        self._fleets = Fleets(cluster, actor, timeouts=timeouts)
        self.registry = Registry(self._calls, self._devices)
        self.fleets = FleetRegistry(self._calls, self._fleets)

    async def __aenter__(self) -> Self:
        """Return itself; connections are made at the first call."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Close the connections; events that are still read keep theirs."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._calls.call(self._devices.close)
        await self._calls.call(self._fleets.close)
        self._calls.close()


class Registry:
    """All devices."""

    def __init__(self, calls: "_Calls", devices: Fleet) -> None:
        self._calls, self._devices = calls, devices

    async def register(self, document: Document) -> "Device":
        """Register a device; one that is registered with this certificate is described anew.

        Raises FleetError: a field that is wrong, an id that is taken, a device that is retired.
        """
        return Device(self._calls, self._devices, await self._calls.call(self._register, document))

    async def device(self, device_id: str) -> "Device":
        """Return a device. Raises FleetError where it is not registered."""
        await self._calls.call(self._devices.device, device_id)
        return Device(self._calls, self._devices, device_id)

    async def pending(self) -> list[PendingRow]:
        """Return who waits for approval, and who was rejected."""
        return await self._calls.call(self._devices.pending)

    async def approve(
        self,
        device_id: str,
        fingerprint: str,
        device_type: str = UNNAMED_TYPE,
        tags: Sequence[str] = (),
    ) -> "Device":
        """Register a device that waits with this certificate (SHA-256). Raises FleetError."""
        await self._calls.call(self._devices.approve, device_id, fingerprint, device_type, tags)
        return Device(self._calls, self._devices, device_id)

    async def reject(self, device_id: str, fingerprint: str) -> None:
        """Keep a device out that waits with this certificate. Raises FleetError."""
        await self._calls.call(self._devices.reject, device_id, fingerprint)

    def _register(self, document: Document) -> str:
        one = registration.parse(document, lambda path: Path(path).read_bytes())
        self._devices.ask(one.event(self._devices.actor))
        return one.device_id


class Device:
    """One device."""

    def __init__(self, calls: "_Calls", devices: Fleet, device_id: str) -> None:
        self._calls, self._devices = calls, devices
        self.id = device_id

    async def row(self) -> DeviceRow:
        """Return all that is known of it."""
        return await self._calls.call(self._devices.device, self.id)

    async def status(self) -> Status:
        """Return its status as it is now."""
        return feeds.status_of(await self.row())

    async def tag(self, *added: str, removed: Sequence[str] = ()) -> tuple[str, ...]:
        """Change its tags; return them as they are then."""
        return await self._calls.call(self._devices.tag, self.id, added, removed)

    async def retire(self, replaced_by: str = "") -> None:
        """Retire it for good."""
        await self._calls.call(self._devices.retire, self.id, replaced_by)

    def events(self, *names: DeviceEventName, start: Start = LATEST) -> Events:
        """Return its events, of all names where none is given."""
        return self._calls.events(self.id, feeds.chosen(feeds.DEVICE_FEEDS, names, "device"), start)


class FleetRegistry:
    """All fleets."""

    def __init__(self, calls: "_Calls", fleets: Fleets) -> None:
        self._calls, self._fleets = calls, fleets

    async def create(self, document: FleetDocument) -> "ManagedFleet":
        """Make a fleet. Raises FleetError: a taken id, a wrong field, too many devices."""
        registration.known(document, FLEET_FIELDS, "")
        if "id" not in document:
            raise FleetError("id: missing")
        await self._calls.call(
            self._fleets.create,
            document["id"],
            document.get("name", ""),
            tags=document.get("tags", ()),
            devices=document.get("devices", ()),
            config=document.get("config"),
            membership=document.get("membership", ""),
        )
        return self._of(document["id"])

    async def fleet(self, fleet_id: str) -> "ManagedFleet":
        """Return a fleet. Raises FleetError where there is none."""
        await self._calls.call(self._fleets.fleet, fleet_id)
        return self._of(fleet_id)

    async def add_device(self, fleet_id: str, device_id: str) -> None:
        """Ask for a device to join."""
        await self._calls.call(self._fleets.add_device, fleet_id, device_id)

    async def remove_device(self, fleet_id: str, device_id: str) -> None:
        """Let a device leave."""
        await self._calls.call(self._fleets.remove_device, fleet_id, device_id)

    async def update_config(self, fleet_id: str, patch: Mapping[str, Any]) -> int:
        """Deep-merge a patch into a fleet's configuration; return its new version."""
        return await self._calls.call(self._fleets.update_config, fleet_id, patch)

    def _of(self, fleet_id: str) -> "ManagedFleet":
        return ManagedFleet(self._calls, self._fleets, fleet_id)


class ManagedFleet:
    """One fleet."""

    def __init__(self, calls: "_Calls", fleets: Fleets, fleet_id: str) -> None:
        self._calls, self._fleets = calls, fleets
        self.id = fleet_id

    async def row(self) -> FleetRow:
        """Return all that is known of it."""
        return await self._calls.call(self._fleets.fleet, self.id)

    def events(self, *names: FleetEventName, start: Start = LATEST) -> Events:
        """Return its events, of all names where none is given."""
        return self._calls.events(self.id, feeds.chosen(feeds.FLEET_FEEDS, names, "fleet"), start)


class _Calls:
    """Runs blocking calls in one thread, one after another."""

    def __init__(self, cluster: Cluster, timeouts: Timeouts) -> None:
        self._cluster, self._timeouts = cluster, timeouts
        self._thread = ThreadPoolExecutor(1, "fleetcert-client")

    async def call(self, work: Callable[P, R], *args: P.args, **named: P.kwargs) -> R:
        """Return what a blocking call returns."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: work(*args, **named))

    def events(self, subject_id: str, chosen: Sequence[feeds.Feed], start: Start) -> Events:
        """Return the events of a device or a fleet."""
        return Events(self._cluster, self._timeouts, subject_id, chosen, start)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False)
