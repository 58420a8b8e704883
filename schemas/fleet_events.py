"""The events of `fleet.events`: facts about fleets, in the past tense, recorded for ever.

Every keyed event names its fleet. What an operator asked has an `actor`; what a machine wrote has
a `cause`. Configuration travels as JSON text with the user's names; the machine judges it.
"""

from dataclasses import dataclass

from schemas.envelope import Cause
from schemas.events import ClockTicked, CoreVersionActivated
from schemas.fleet_states import CampaignSpec, FleetSums, ZoneTable


@dataclass(frozen=True, slots=True)
class FleetCreated:
    """An operator made a fleet. `config` is a patch (JSON), `membership` a query over tags."""

    fleet_id: str
    name: str
    tags: tuple[str, ...]
    devices: tuple[str, ...]
    config: str
    membership: str
    zone: ZoneTable | None
    actor: str


@dataclass(frozen=True, slots=True)
class FleetConfigChanged:
    """A deep-merge patch (JSON, RFC 7396) of a fleet's configuration.

    `expected_version` is the version it was written against, zero for whichever.
    """

    fleet_id: str
    patch: str
    expected_version: int
    zone: ZoneTable | None
    actor: str


@dataclass(frozen=True, slots=True)
class FleetConfigRolledBack:
    """An operator asked for the configuration as it was at `version`."""

    fleet_id: str
    version: int
    zone: ZoneTable | None
    actor: str


@dataclass(frozen=True, slots=True)
class MembershipChanged:
    """A fleet takes the devices that this query over tags finds; empty for none."""

    fleet_id: str
    membership: str
    actor: str


@dataclass(frozen=True, slots=True)
class DeviceAdded:
    """A device is to join a fleet; `source` is `operator` or `query`."""

    fleet_id: str
    device_id: str
    source: str
    actor: str
    cause: Cause | None = None


@dataclass(frozen=True, slots=True)
class DeviceMoved:
    """A device is to come to this fleet from another one."""

    fleet_id: str
    device_id: str
    from_fleet_id: str
    actor: str


@dataclass(frozen=True, slots=True)
class DeviceRemoved:
    """A device leaves a fleet; `reason` is the value of a Reason."""

    fleet_id: str
    device_id: str
    reason: str
    actor: str
    cause: Cause | None = None


@dataclass(frozen=True, slots=True)
class CampaignOrdered:
    """An operator ordered a campaign."""

    fleet_id: str
    campaign_id: str
    spec: CampaignSpec
    zone: ZoneTable | None
    actor: str


@dataclass(frozen=True, slots=True)
class CampaignPaused:
    """Nobody new is ordered; devices in work finish."""

    fleet_id: str
    campaign_id: str
    actor: str


@dataclass(frozen=True, slots=True)
class CampaignResumed:
    """A paused or halted campaign goes on; what failed so far is forgiven."""

    fleet_id: str
    campaign_id: str
    actor: str


@dataclass(frozen=True, slots=True)
class CampaignAborted:
    """The campaign ends; devices in work finish and are counted."""

    fleet_id: str
    campaign_id: str
    actor: str


@dataclass(frozen=True, slots=True)
class GateOpened:
    """A person lets a group begin."""

    fleet_id: str
    campaign_id: str
    group: int
    actor: str


@dataclass(frozen=True, slots=True)
class MemberReported:
    """The device machine's word: whether a device belongs to the fleet, and its certificate."""

    fleet_id: str
    device_id: str
    accepted: bool
    reason: str
    not_before_at: int
    not_after_at: int
    cause: Cause


@dataclass(frozen=True, slots=True)
class HealthReported:
    """A device's health changed: connected, degraded, silent or gone, and why."""

    fleet_id: str
    device_id: str
    health: str
    reason: str
    cause: Cause


@dataclass(frozen=True, slots=True)
class CertificateNeared:
    """A device's certificate reached daysBeforeExpiry or two thirds of its lifetime."""

    fleet_id: str
    device_id: str
    not_before_at: int
    not_after_at: int
    cause: Cause


@dataclass(frozen=True, slots=True)
class OrderEnded:
    """A device finished an order: `outcome` is `succeeded` or `failed`."""

    fleet_id: str
    device_id: str
    campaign_id: str
    order_id: str
    outcome: str
    reason: str
    cause: Cause


@dataclass(frozen=True, slots=True)
class OrderProgressed:
    """A device is further with an order that has not ended; `progress` is the device's word."""

    fleet_id: str
    device_id: str
    campaign_id: str
    order_id: str
    progress: str
    cause: Cause


@dataclass(frozen=True, slots=True)
class FleetTotalsReported:
    """The sums of one partition of the device table, sent when they changed."""

    fleet_id: str
    sums: FleetSums
    cause: Cause


@dataclass(frozen=True, slots=True)
class CampaignContinued:
    """The machine's note to itself: a campaign has more to do than one step may."""

    fleet_id: str
    campaign_id: str
    cause: Cause


@dataclass(frozen=True, slots=True)
class FleetDefaultsActivated:
    """From here on all fleets inherit this configuration (JSON); a broadcast."""

    number: int
    config: str
    zone: ZoneTable | None
    actor: str


FleetKeyed = (
    FleetCreated
    | FleetConfigChanged
    | FleetConfigRolledBack
    | MembershipChanged
    | DeviceAdded
    | DeviceMoved
    | DeviceRemoved
    | CampaignOrdered
    | CampaignPaused
    | CampaignResumed
    | CampaignAborted
    | GateOpened
    | MemberReported
    | HealthReported
    | CertificateNeared
    | OrderEnded
    | FleetTotalsReported
    | CampaignContinued
    | OrderProgressed
)
FleetBroadcast = ClockTicked | CoreVersionActivated | FleetDefaultsActivated
FleetEvent = FleetKeyed | FleetBroadcast
