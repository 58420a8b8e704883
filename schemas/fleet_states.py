"""The rows of `fleet.state`: fleets, their members, campaigns and queues.

Keys are typed: `fleet:<id>`, `history:<id>`, `member:<fleet>/<hash>/<device>`,
`expiry:<fleet>/<instant>/<device>`, `campaign:<fleet>/<id>`,
`queue:<fleet>/<campaign>/<lane>/<instant>/<hash>/<device>` and `defaults`. The hash (16 hex digits
of the device id's SHA-256) makes a scan visit members in an order that is fixed and that nobody
chose. Instants are machine time in milliseconds, zero meaning never; spans end in `_ms`.
"""

from dataclasses import dataclass, field

from schemas.artefact import Artefact
from schemas.fleet_sums import FleetSums as FleetSums
from schemas.progress import NO_PROGRESS, ProgressCounts
from schemas.states import Watch


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """When work may begin: minutes of the local day, the end exclusive; `days` from Monday = 0.

    Where `end_minute` is not after `start_minute` the window runs past midnight and belongs to
    the day on which it starts.
    """

    start_minute: int = 120
    end_minute: int = 240
    time_zone: str = "UTC"
    days: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)


@dataclass(frozen=True, slots=True)
class UpdatePolicy:
    """How a fleet's campaigns go on. `failure_threshold` is failed / finished, 0 to 1."""

    automatic: bool = True
    time_window: TimeWindow = field(default_factory=TimeWindow)
    batch_size: int = 10
    failure_threshold: float = 0.1


@dataclass(frozen=True, slots=True)
class CertRotation:
    """When certificates are renewed."""

    enabled: bool = True
    days_before_expiry: int = 30
    staggered: bool = True


@dataclass(frozen=True, slots=True)
class AlertThresholds:
    """Above these an alert is raised: failed / finished, and the 95th percentile in ms."""

    error_rate: float = 0.05
    latency_ms: int = 1_000


@dataclass(frozen=True, slots=True)
class Monitoring:
    """How often a fleet is looked at."""

    health_check_interval_ms: int = 300_000
    metrics_interval_ms: int = 60_000
    alert_thresholds: AlertThresholds = field(default_factory=AlertThresholds)


@dataclass(frozen=True, slots=True)
class FleetConfig:
    """A fleet's configuration, whole and valid; the defaults are design.md section 7's."""

    update_policy: UpdatePolicy = field(default_factory=UpdatePolicy)
    cert_rotation: CertRotation = field(default_factory=CertRotation)
    monitoring: Monitoring = field(default_factory=Monitoring)
    max_devices: int = 1_000


@dataclass(frozen=True, slots=True)
class ZoneOffset:
    """From `from_at` on, local time is UTC plus `offset_ms`."""

    from_at: int
    offset_ms: int


@dataclass(frozen=True, slots=True)
class ZoneTable:
    """A time zone's offsets, as the author of an event looked them up; known until `until_at`."""

    zone: str
    until_at: int
    offsets: tuple[ZoneOffset, ...]


@dataclass(frozen=True, slots=True)
class ConfigVersion:
    """One accepted change of a fleet's configuration. `overrides` is what the fleet sets itself."""

    version: int
    patch: str
    overrides: str
    actor: str
    at: int


@dataclass(frozen=True, slots=True)
class FleetHistoryRow:
    """The last changes of a fleet's configuration, oldest first."""

    fleet_id: str
    applied_offset: int
    next_due_at: int
    versions: tuple[ConfigVersion, ...]


@dataclass(frozen=True, slots=True)
class FleetDefaultsRow:
    """What all fleets inherit; `number` is the broadcast's that set it."""

    applied_offset: int = -1
    next_due_at: int = 0
    number: int = 0
    overrides: str = "{}"
    zone: ZoneTable | None = None


@dataclass(frozen=True, slots=True)
class CampaignRef:
    """A campaign that is not over, as its fleet's row holds it: highest priority first."""

    campaign_id: str
    priority: int
    automatic: bool


@dataclass(frozen=True, slots=True)
class FleetRow:
    """All that is known of one fleet but its members, its campaigns and its past."""

    fleet_id: str
    applied_offset: int
    next_due_at: int
    name: str
    tags: tuple[str, ...]
    membership: str
    created_at: int
    config: FleetConfig
    config_version: int
    defaults_number: int
    zone: ZoneTable | None
    members: int
    confirmed: int
    not_after_sum_seconds: int
    in_work: int
    campaigns: tuple[CampaignRef, ...]
    campaigns_ended: tuple[str, ...]
    campaign_counter: int
    sums: tuple[FleetSums, ...]
    window_started_at: int
    window_base: FleetSums
    watches: tuple[Watch, ...]


@dataclass(frozen=True, slots=True)
class QueuedIn:
    """A place in a campaign's queue; `held` where the device was busy or away."""

    campaign_id: str
    key: bytes
    held: bool = False


@dataclass(frozen=True, slots=True)
class MemberOrder:
    """An order in work: counted as timed out at `deadline_at`, however far it is.

    `progress` is the furthest that the device has told (since `progress_at`), empty for nothing.
    """

    order_id: str
    campaign_id: str
    group: int
    attempt: int
    ordered_at: int
    deadline_at: int
    progress: str = ""
    progress_at: int = 0


@dataclass(frozen=True, slots=True)
class MemberResult:
    """How a device's part in a campaign ended: `succeeded`, `failed` or `timed-out`."""

    campaign_id: str
    outcome: str
    reason: str
    attempts: int
    ended_at: int


@dataclass(frozen=True, slots=True)
class MemberRow:
    """A device as a member of a fleet. `confirmed` once the device machine has agreed."""

    fleet_id: str
    device_id: str
    applied_offset: int
    next_due_at: int
    joined_at: int
    confirmed: bool
    source: str
    not_before_at: int
    not_after_at: int
    urgent_at: int
    health: str
    health_reason: str
    queued: tuple[QueuedIn, ...]
    order: MemberOrder | None
    last: MemberResult | None


@dataclass(frozen=True, slots=True)
class ExpiryRow:
    """An index: the members of a fleet by the end of their certificates."""

    device_id: str
    applied_offset: int = -1
    next_due_at: int = 0


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A device that waits for its order in a campaign, from the instant in the key on."""

    device_id: str
    group: int
    attempt: int
    deferrals: int
    applied_offset: int = -1
    next_due_at: int = 0


@dataclass(frozen=True, slots=True)
class CampaignGroup:
    """One group: `count` devices, or where that is zero `percent` of the members at the start.

    The next group opens when succeeded / size reaches `success_threshold`; where `gate` is set,
    a person must open this group as well.
    """

    percent: int = 0
    count: int = 0
    success_threshold: float = 0.9
    gate: bool = False


@dataclass(frozen=True, slots=True)
class CampaignRate:
    """Orders per minute, zero for no limit; times `growth_percent` / 100 every `grow_every`.

    `grow_every` counts devices that succeeded; the rate never passes `per_minute_max`.
    """

    per_minute: int = 0
    growth_percent: int = 100
    grow_every: int = 0
    per_minute_max: int = 0


@dataclass(frozen=True, slots=True)
class CampaignSpec:
    """What a campaign is to do; zero, None or a negative threshold stand for the fleet's own.

    `kind` is `rotation` or `update`; `selection` is `all`, `expiring` (a certificate that ends
    within `expiring_days`) or `neared` (those that report it themselves). Windows bind unless
    `any_time`. A `continuous` campaign takes members that join while it runs.
    """

    kind: str
    artefact: Artefact | None = None
    selection: str = "all"
    expiring_days: int = 0
    groups: tuple[CampaignGroup, ...] = ()
    batch_size: int = 0
    failure_threshold: float = -1.0
    finished_min: int = 5
    attempts_max: int = 1
    backoff_ms: int = 60_000
    backoff_max_ms: int = 3_600_000
    order_within_ms: int = 7_200_000
    rate: CampaignRate = field(default_factory=CampaignRate)
    window: TimeWindow | None = None
    any_time: bool = False
    stagger_ms: int = 0
    priority: int = 0
    continuous: bool = False
    start_at: int = 0
    end_after_ms: int = 2_592_000_000


@dataclass(frozen=True, slots=True)
class GroupCounts:
    """Where one group stands. `size` is what it was planned for, `queued` who still waits.

    No key of the group's lane lies at or before `floor`: a scan need not step over who is gone.
    `rolled_back` are those of the failed that run again what they ran before.
    """

    size: int
    enrolled: int = 0
    queued: int = 0
    in_work: int = 0
    succeeded: int = 0
    failed: int = 0
    timed_out: int = 0
    dropped: int = 0
    floor: bytes = b""
    rolled_back: int = 0


@dataclass(frozen=True, slots=True)
class CampaignRow:
    """One campaign: its spec, its state and its counts.

    `group` is the highest open group, `gate_group` the highest that a person has let begin (-1 for
    none); `cursor` is where the enrolment of members goes on;
    `waits` is the Reason why nobody is ordered now; `forgiven_*` are what an operator's resume
    has taken out of the failure rate; `ends_as` is the state it goes to when all work is done.
    """

    fleet_id: str
    campaign_id: str
    applied_offset: int
    next_due_at: int
    spec: CampaignSpec
    zone: ZoneTable | None
    automatic: bool
    actor: str
    state: str
    reason: str
    waits: str
    ends_as: str
    ordered_at: int
    started_at: int
    ended_at: int
    end_at: int
    origin: str
    cursor: bytes
    wrapped: bool
    enrolled_all: bool
    enrolled: int
    passed_over: int
    group: int
    gate_group: int
    groups: tuple[GroupCounts, ...]
    urgent: int
    urgent_floor: bytes
    next_order_at: int
    orders: int
    forgiven_finished: int
    forgiven_failed: int
    continuing: bool
    duration_sum_ms: int
    progress_counts: ProgressCounts = NO_PROGRESS
