"""The typed client for fleets: create, configure, fill, read.

    with Fleets("127.0.0.1:9092") as fleets:
        fleets.create("pumps", "All pumps", tags=("site=berlin",), devices=("pump-7",))
        fleets.update_config("pumps", {"certRotation": {"daysBeforeExpiry": 45}})
        print(fleets.fleet("pumps").config.cert_rotation.days_before_expiry)

Every change waits for the machine's answer: what it refuses is a FleetError with its words.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from client import zones
from client.answers import Answers
from client.errors import FleetError
from client.kafka import Timeouts
from configuration.cluster import LOCAL, Cluster
from schemas import fleet_events as events
from schemas.decisions import Decision
from schemas.fleet_states import FleetHistoryRow, FleetRow, MemberRow, ZoneTable
from schemas.topics import FLEET_STATE
from streams.core import fleet_config, ring
from streams.core.membership import DEVICES_PER_EVENT_MAX

ZONE = "updatePolicy.timeWindow.timeZone"


class Fleets:
    """All fleets, as seen through their topics."""

    def __init__(
        self,
        kafka: Cluster | str = LOCAL,
        actor: str = "operator",
        *,
        timeouts: Timeouts | None = None,
    ) -> None:
        cluster = Cluster.of(kafka)
        self._answers = Answers(cluster, timeouts or Timeouts())
        self._actor = actor

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._answers.close()

    # -- what changes a fleet -------------------------------------------------------------------

    def create(
        self,
        fleet_id: str,
        name: str = "",
        *,
        tags: Sequence[str] = (),
        devices: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
        membership: str = "",
    ) -> list[Decision]:
        """Make a fleet. `config` is a patch over the defaults, `membership` a query over tags.

        Raises FleetError for a taken id, a configuration that is not valid, or more devices than
        maxDevices.
        """
        patch = patch_text(config or {})
        decided = self._answers.ask(
            fleet_id,
            events.FleetCreated(
                fleet_id,
                name or fleet_id,
                tuple(tags),
                tuple(devices[:DEVICES_PER_EVENT_MAX]),
                patch,
                membership,
                zone_for(patch),
                self._actor,
            ),
        )
        self.add_devices(fleet_id, devices[DEVICES_PER_EVENT_MAX:])
        return decided

    def add_device(self, fleet_id: str, device_id: str) -> None:
        """Ask for a device to join; the device machine has the last word (see `member`)."""
        self._answers.ask(
            fleet_id, events.DeviceAdded(fleet_id, device_id, "operator", self._actor)
        )

    def add_devices(self, fleet_id: str, device_ids: Sequence[str]) -> None:
        """Ask for many devices to join, waiting for Kafka alone."""
        for one in device_ids:
            event = events.DeviceAdded(fleet_id, one, "operator", self._actor)
            self._answers.tell(fleet_id, event)
        self._answers.flush()

    def move_device(self, device_id: str, from_fleet_id: str, fleet_id: str) -> None:
        """Ask for a device to change its fleet."""
        event = events.DeviceMoved(fleet_id, device_id, from_fleet_id, self._actor)
        self._answers.ask(fleet_id, event)

    def remove_device(self, fleet_id: str, device_id: str) -> None:
        """Let a device leave its fleet, and every campaign of it."""
        event = events.DeviceRemoved(fleet_id, device_id, "ordered", self._actor)
        self._answers.ask(fleet_id, event)

    def update_config(
        self, fleet_id: str, patch: Mapping[str, Any], *, expected_version: int = 0
    ) -> int:
        """Deep-merge a patch into a fleet's configuration; return its new version.

        `{"certRotation": {"daysBeforeExpiry": 45}}` keeps the rest; None lets the inherited value
        show again. With `expected_version` a change by somebody else since then is refused.
        """
        text = patch_text(patch)
        event = events.FleetConfigChanged(
            fleet_id, text, expected_version, zone_for(text), self._actor
        )
        return _version(self._answers.ask(fleet_id, event))

    def roll_back(self, fleet_id: str, version: int) -> int:
        """Set a fleet's configuration to what it was at a version; return the new version."""
        wanted = [one for one in self.history(fleet_id).versions if one.version == version]
        zone = zone_for(wanted[0].overrides) if wanted else None
        event = events.FleetConfigRolledBack(fleet_id, version, zone, self._actor)
        return _version(self._answers.ask(fleet_id, event))

    def set_membership(self, fleet_id: str, query: str) -> None:
        """Let a fleet take the devices that a query over tags finds; empty for none."""
        self._answers.ask(fleet_id, events.MembershipChanged(fleet_id, query, self._actor))

    # -- what is known of it --------------------------------------------------------------------

    def fleets(self) -> dict[str, FleetRow]:
        """Return all fleets, by id: reads all of `fleet.state`, decodes their rows alone."""
        rows = self._newest(None, lambda key: key.startswith(ring.fleet_key(""))).values()
        return {one.fleet_id: one for one in sorted(rows, key=lambda one: one.fleet_id)}

    def fleet(self, fleet_id: str) -> FleetRow:
        """Return one fleet. Raises FleetError where there is none."""
        key = ring.fleet_key(fleet_id)
        row = self.under(fleet_id, key).get(key)
        if not isinstance(row, FleetRow):
            raise FleetError(f"there is no fleet {fleet_id!r}; see `fleetcert fleet list`")
        return row

    def members(self, fleet_id: str) -> list[MemberRow]:
        """Return the members of a fleet, by id."""
        rows = self.under(fleet_id, ring.members(fleet_id)).values()
        return sorted(rows, key=lambda one: str(one.device_id))

    def history(self, fleet_id: str) -> FleetHistoryRow:
        """Return the last changes of a fleet's configuration."""
        key = ring.history_key(fleet_id)
        row = self.under(fleet_id, key).get(key)
        return row if isinstance(row, FleetHistoryRow) else FleetHistoryRow(fleet_id, -1, 0, ())

    def rows(self, fleet_id: str) -> dict[bytes, Any]:
        """Return every row of a fleet, and the defaults: its partition is read, these decoded."""
        number = self._answers.partition(fleet_id)
        return self._newest(number, lambda key: _belongs(key, fleet_id))

    def under(self, fleet_id: str, prefix: bytes) -> dict[bytes, Any]:
        """Return the rows of a fleet whose key begins so: as `rows`, all others not decoded."""
        return self._newest(self._answers.partition(fleet_id), lambda key: key.startswith(prefix))

    def _newest(self, partition: int | None, wanted: Callable[[bytes], bool]) -> dict[bytes, Any]:
        newest: dict[bytes, Any] = {}
        reader = self._answers.reader
        for found in reader.read(FLEET_STATE, partition=partition, wanted=wanted):
            if found.record is None:
                newest.pop(found.key, None)
            else:
                newest[found.key] = found.record
        return newest


def patch_text(patch: Mapping[str, Any]) -> str:
    """Return a patch as JSON, if it is one. Raises FleetError with the path of what is wrong."""
    text = json.dumps(patch)
    try:
        fleet_config.patched("{}", text)
    except fleet_config.Objection as error:
        raise FleetError(str(error)) from error
    return text


def zone_for(patch: str) -> ZoneTable | None:
    """Return the offsets of the zone that a patch names, None where it names none or UTC."""
    zone = fleet_config.flatten(patch).get(ZONE, "UTC")
    return table_for(zone)


def table_for(zone: str) -> ZoneTable | None:
    """Return a zone's offsets from now on, None for UTC. Raises FleetError for an unknown zone."""
    if zone == "UTC":
        return None
    try:
        return zones.table(zone, time.time_ns() // 1_000_000)
    except ValueError as error:
        raise FleetError(str(error)) from error


def differences(history: FleetHistoryRow) -> Iterator[tuple[Any, list[tuple[str, Any, Any]]]]:
    """Yield each version with what it changed: path, before, after (None: inherited)."""
    before: dict[str, Any] = {}
    for one in history.versions:
        after = fleet_config.flatten(one.overrides)
        yield one, fleet_config.difference(before, after)
        before = after


def _version(decided: list[Decision]) -> int:
    return next(int(one.values["version"]) for one in decided if "version" in one.values)


def _belongs(key: bytes, fleet_id: str) -> bool:
    _, _, rest = key.decode(errors="replace").partition(":")
    return rest.split("/")[0] == fleet_id or key == ring.DEFAULTS_KEY
