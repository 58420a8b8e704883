"""What users follow by their own names, and the topics and records that it is read from.

`DEVICE_FEEDS` and `FLEET_FEEDS` are the map; docs/glossary.md is drawn from them. Each feed turns a
record into what happened, or into nothing. Rules of this file: no I/O; an event carries a bookmark,
from which another run goes on behind it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from client.errors import FleetError
from client.registration import nearest
from schemas.decisions import Decision, DecisionName
from schemas.envelope import Position
from schemas.states import DeviceRow
from schemas.topics import DECISIONS, DEVICE_STATE
from streams.core import anomaly, rotation

Bookmark = tuple[Position, ...]
"""Where to go on in each topic: the offset is that of the next record."""
DeviceEventName = Literal["status", "cert-expiring"]
FleetEventName = Literal["health-check", "cert-rotation"]


@dataclass(frozen=True, slots=True)
class Status:
    """How a device is; told when it changes.

    `health` is connected, degraded, silent or gone, empty for a device without a fleet; `rotation`
    the saga's state; `alerts` how many are open.
    """

    name: ClassVar[str] = "status"
    device_id: str
    connected: bool
    health: str
    rotation: str
    alerts: int
    fleet_id: str
    retired: bool


@dataclass(frozen=True, slots=True)
class CertExpiring:
    """A device's certificate nears its end: at daysBeforeExpiry, or two thirds of its lifetime."""

    name: ClassVar[str] = "cert-expiring"
    device_id: str
    days: int
    not_after_at: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """A fleet's figures over a window of five minutes; days are None where nobody is confirmed."""

    devices: int
    connected: int
    degraded: int
    silent: int
    gone: int
    rotations: int
    in_work: int
    finished: int
    failed: int
    error_rate: float
    latency_ms: float
    cert_days_least: int | None
    cert_days_mean: int | None


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """A fleet was looked at."""

    name: ClassVar[str] = "health-check"
    fleet_id: str
    statistics: Statistics


@dataclass(frozen=True, slots=True)
class CertRotation:
    """A member uses a new certificate for the first time; `days` are its new one's."""

    name: ClassVar[str] = "cert-rotation"
    fleet_id: str
    device: str
    days: int
    not_after_at: int


Happening = Status | CertExpiring | HealthCheck | CertRotation


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened, when (ms, the broker's clock), and where to go on behind it."""

    what: Happening
    at: int
    bookmark: Bookmark

    @property
    def name(self) -> str:
        """The user's name of it."""
        return self.what.name


@dataclass(frozen=True, slots=True)
class Feed:
    """A user's name: the topic it is read from, whose key begins so, the record, what it gives."""

    name: str
    topic: str
    prefix: str
    record: str
    gives: str
    read: Callable[[Any], Happening]
    changes_only: bool = False

    def happened(self, record: Any) -> Happening | None:
        """Return what a record of the feed's key tells, None for nothing of this feed."""
        if isinstance(record, Decision):
            return self.read(record) if record.name == self.record else None
        return self.read(record) if type(record).__name__ == self.record else None


def status_of(row: DeviceRow) -> Status:
    """Return a device's status as its row says."""
    return Status(
        row.device_id,
        row.connected,
        row.belongs.health,
        rotation.name(row.rotation),
        anomaly.open_alerts(row),
        row.belongs.fleet_id,
        bool(row.retired_at),
    )


def _expiring(decision: Decision) -> CertExpiring:
    values = decision.values
    device_id = decision.subject.removeprefix("device:")
    return CertExpiring(device_id, int(values["days"]), int(values["not_after_at"]))


def _checked(decision: Decision) -> HealthCheck:
    values = decision.values
    whole = (
        "devices", "connected", "degraded", "silent", "gone", "rotations", "in_work", "finished",
        "failed",
    )  # fmt: skip
    figures = Statistics(
        **{name: int(values[name]) for name in whole},
        error_rate=float(values["error_rate"]),
        latency_ms=float(values["latency"]),
        cert_days_least=_days(values, "cert_days_least"),
        cert_days_mean=_days(values, "cert_days_mean"),
    )
    return HealthCheck(decision.subject.removeprefix("fleet:"), figures)


def _rotated(decision: Decision) -> CertRotation:
    values = decision.values
    fleet_id = decision.subject.removeprefix("fleet:")
    return CertRotation(
        fleet_id, values["device"], int(values["days"]), int(values["not_after_at"])
    )


def _days(values: Mapping[str, str], name: str) -> int | None:
    return int(values[name]) if name in values else None


DEVICE_FEEDS: Mapping[str, Feed] = {
    one.name: one
    for one in (
        Feed("status", DEVICE_STATE, "", "DeviceRow", "the status", status_of, changes_only=True),
        Feed(
            "cert-expiring",
            DECISIONS,
            "device:",
            DecisionName.CERTIFICATE_NEARED_EXPIRY.value,
            "days",
            _expiring,
        ),
    )
}
FLEET_FEEDS: Mapping[str, Feed] = {
    one.name: one
    for one in (
        Feed(
            "health-check",
            DECISIONS,
            "fleet:",
            DecisionName.FLEET_CHECKED.value,
            "statistics",
            _checked,
        ),
        Feed(
            "cert-rotation",
            DECISIONS,
            "fleet:",
            DecisionName.CERTIFICATE_PROVEN.value,
            "device",
            _rotated,
        ),
    )
}


def chosen(feeds: Mapping[str, Feed], names: tuple[str, ...], of: str) -> tuple[Feed, ...]:
    """Return the feeds of these names, all where none is named. Raises FleetError."""
    for name in names:
        if name not in feeds:
            raise FleetError(f"a {of} has no event {name!r}; {nearest(name, tuple(feeds))}")
    return tuple(feeds[name] for name in dict.fromkeys(names or feeds))
