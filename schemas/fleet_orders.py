"""What the fleet machine writes into `device.events`: membership, orders and the fleet's policy.

`RotationOrdered` belongs to them too; operators write it as well, so it stands in `events.py`.
"""

from dataclasses import dataclass

from schemas.artefact import Artefact
from schemas.envelope import Cause


@dataclass(frozen=True, slots=True)
class FleetAssigned:
    """A fleet takes the device; the device machine agrees or names the fleet it is in."""

    device_id: str
    fleet_id: str
    from_fleet_id: str
    cause: Cause


@dataclass(frozen=True, slots=True)
class FleetUnassigned:
    """A fleet lets the device go; `reason` is the value of a Reason, empty for none told."""

    device_id: str
    fleet_id: str
    cause: Cause
    reason: str = ""


@dataclass(frozen=True, slots=True)
class UpdateOrdered:
    """A campaign asks for an update, to be finished by `deadline_at`."""

    device_id: str
    order_id: str
    fleet_id: str
    campaign_id: str
    artefact: Artefact
    deadline_at: int
    cause: Cause


@dataclass(frozen=True, slots=True)
class FleetPolicyChanged:
    """What a fleet's devices go by from here on; a broadcast, numbered by the fleet's machine."""

    number: int
    fleet_id: str
    membership: str
    rotation_enabled: bool
    days_before_expiry: int
    health_check_interval_ms: int
    metrics_interval_ms: int
    error_rate: float
    latency_ms: int
    cause: Cause
