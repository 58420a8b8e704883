"""The rows of `device.state`: what the device machine knows, as it stands in the topic.

One row per device, and per partition one partition row (key `@partition`). All instants are
machine time in milliseconds, zero meaning never, unless the field says otherwise.
"""

from dataclasses import dataclass, field

from schemas.artefact import Artefact
from schemas.fleet_sums import FleetSums

SOMETIMES, SELDOM = {"pace": 1}, {"pace": 2}
"""Mark the fields, last of their record, that most changes leave as they are: see the codec."""

PARTITION_KEY = b"@partition"
"""The Kafka key of the partition row. No device id can begin with `@`."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the rules of a partition's machine go by; recorded in the log by PolicyActivated.

    Spans are milliseconds. The defaults are design.md section 7's. Without `anomaly_detection` no
    anomaly rule is judged; silence is told all the same. `just_in_time` is one of
    `schemas.pending.MODES`; who waits for approval lapses after `pending_ms`.
    """

    days_before_expiry: int = 30
    stagger_ms: int = 3_600_000
    answer_within_ms: int = 600_000
    issue_within_ms: int = 60_000
    prove_within_ms: int = 600_000
    grace_ms: int = 60_000
    backoff_ms: int = 30_000
    backoff_max_ms: int = 3_600_000
    attempts_max: int = 5
    window_ms: int = 60_000
    silent_after_ms: int = 900_000
    door_away_ms: int = 30_000
    anomaly_detection: bool = True
    just_in_time: str = "off"
    pending_ms: int = 90 * 86_400_000


@dataclass(frozen=True, slots=True)
class HeldCertificate:
    """A certificate of a device. `status`: candidate, active, under-retired or retired.

    `closed_offset` is the offset after which nothing was accepted under it, -1 before that;
    `der` is emptied at retirement. A `provisioning` one was made by somebody else's CA.
    """

    fingerprint: bytes
    spki_sha256: bytes
    serial: str
    not_before_at: int
    not_after_at: int
    status: str
    grace_until_at: int
    first_used_offset: int
    closed_offset: int
    crl_number: int
    der: bytes
    provisioning: bool = False


@dataclass(frozen=True, slots=True)
class Idle:
    """No rotation is in work."""


@dataclass(frozen=True, slots=True)
class Requested:
    """RotateCertificate is out; the answer is due by `deadline_at`."""

    command_id: str
    nonce: bytes
    attempt: int
    deadline_at: int


@dataclass(frozen=True, slots=True)
class CsrReceived:
    """The request is with the issuer."""

    request_id: str
    spki_sha256: bytes
    attempt: int
    deadline_at: int


@dataclass(frozen=True, slots=True)
class Issued:
    """InstallCertificate is out."""

    command_id: str
    fingerprint: bytes
    attempt: int
    deadline_at: int


@dataclass(frozen=True, slots=True)
class Delivered:
    """The device says it has installed; the proof of use is due by `deadline_at`."""

    fingerprint: bytes
    attempt: int
    deadline_at: int


@dataclass(frozen=True, slots=True)
class Proven:
    """The new certificate is in use; the old one's grace ends at `deadline_at`."""

    fingerprint: bytes
    deadline_at: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt failed; the next one starts at `deadline_at`."""

    reason: str
    attempt: int
    deadline_at: int


@dataclass(frozen=True, slots=True)
class Abandoned:
    """Every attempt failed; an order, or the return of a device that was away, starts anew.

    Such a return starts it at `again_at` at the earliest; one that came before waits for
    `deadline_at`, zero until then.
    """

    reason: str
    again_at: int = 0
    deadline_at: int = 0


Rotation = Idle | Requested | CsrReceived | Issued | Delivered | Proven | Failed | Abandoned


@dataclass(frozen=True, slots=True)
class SagaStep:
    """One move of the last rotation: the state entered, by the record at `offset`."""

    state: str
    reason: str
    offset: int
    at: int


@dataclass(frozen=True, slots=True)
class Oddities:
    """What is counted in the open window beside its traffic: all zero, most of the time."""

    errors: int = 0
    opens: int = 0
    gaps: int = 0
    unknown: int = 0
    retired: int = 0
    moves: int = 0
    clock_ahead_ms: int = 0


NO_ODDITIES = Oddities()


@dataclass(frozen=True, slots=True)
class Window:
    """What was counted since `started_at`; zero means that no window is open."""

    started_at: int = 0
    messages: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Past:
    """The device's own past: smoothed messages per window and bytes per message."""

    windows: int = 0
    messages_mean: float = 0.0
    bytes_mean: float = 0.0


@dataclass(frozen=True, slots=True)
class Watch:
    """One rule's memory: consecutive breaches, consecutive quiet windows, open since."""

    rule: str
    breaches: int
    quiet: int
    raised_at: int


@dataclass(frozen=True, slots=True)
class RefusedSession:
    """How far a session's refused messages were counted: its counter tells a repeat."""

    session: str
    counter: int


@dataclass(frozen=True, slots=True)
class UpdateInWork:
    """An update that the device was asked for; the command is sent again until it is `accepted`.

    `progress` is the furthest that the device has told of it, empty for nothing.
    """

    command_id: str
    artefact: Artefact
    accepted: bool
    issued_at: int
    deadline_at: int
    progress: str = ""


@dataclass(frozen=True, slots=True)
class Belonging:
    """The device's part in its fleet: whose member it is, and the order in work.

    `neared` is the certificate (fingerprint, hex) about whose end the fleet was told; `kind` is
    the order's, `rotation` or `update`; `health` is what the fleet was told last.
    """

    fleet_id: str = ""
    order_id: str = ""
    campaign_id: str = ""
    kind: str = ""
    neared: str = ""
    health: str = ""
    update: UpdateInWork | None = None


NOBODYS = Belonging()


@dataclass(frozen=True, slots=True)
class FleetPolicyRow:
    """What a fleet's devices go by, one row per fleet and partition (key `@fleet:<id>`)."""

    applied_offset: int
    next_due_at: int
    fleet_id: str
    number: int
    membership: str
    rotation_enabled: bool
    days_before_expiry: int
    health_check_interval_ms: int
    metrics_interval_ms: int
    error_rate: float
    latency_ms: int


@dataclass(frozen=True, slots=True)
class FleetSumsRow:
    """What a fleet's devices in this partition add up to (key `@sums:<fleet>`)."""

    applied_offset: int
    next_due_at: int
    fleet_id: str
    sums: FleetSums


SUMS_KEY_PREFIX = b"@sums:"
"""Begins the keys of FleetSumsRows."""
FLEET_KEY_PREFIX = b"@fleet:"
"""Begins the keys of FleetPolicyRows. No device id can begin with `@`."""


@dataclass(slots=True)
class DeviceRow:
    """All that is known of one device.

    The one record that is not frozen, for speed: a step changes a copy of its own, and nobody
    changes a row that a step has given. What changes with every event stands first; of the rest
    (`SOMETIMES`, `SELDOM`) the codec remembers the bytes.
    """

    applied_offset: int
    next_due_at: int
    last_seen_at: int
    session_counter: int
    sequence: int
    window: Window
    past: Past = field(metadata=SOMETIMES)
    watches: tuple[Watch, ...] = field(metadata=SOMETIMES)
    connected: bool = field(metadata=SOMETIMES)
    session: str = field(metadata=SOMETIMES)
    boot: int = field(metadata=SOMETIMES)
    peer_address: str = field(metadata=SOMETIMES)
    oddities: Oddities = field(metadata=SOMETIMES)
    device_id: str = field(metadata=SELDOM)
    device_type: str = field(metadata=SELDOM)
    protocols: tuple[str, ...] = field(metadata=SELDOM)
    registered_at: int = field(metadata=SELDOM)
    command_counter: int = field(metadata=SELDOM)
    certificates: tuple[HeldCertificate, ...] = field(metadata=SELDOM)
    rotation: Rotation = field(metadata=SELDOM)
    journey: tuple[SagaStep, ...] = field(metadata=SELDOM)
    rotations: int = field(metadata=SELDOM)
    expiry_told: bool = field(metadata=SELDOM)
    orders: tuple[str, ...] = field(default=(), metadata=SELDOM)
    refused: tuple[RefusedSession, ...] = field(default=(), metadata=SELDOM)
    door: str = field(default="", metadata=SELDOM)
    belongs: Belonging = field(default=NOBODYS, metadata=SELDOM)
    tags: tuple[str, ...] = field(default=(), metadata=SELDOM)
    attributes: dict[str, str] = field(default_factory=dict, metadata=SELDOM)
    retired_at: int = field(default=0, metadata=SELDOM)
    replaced_by: str = field(default="", metadata=SELDOM)


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the devices of a partition, kept by the difference of each row.

    From `requested` on: devices by the state of their rotation; `rotating` is the sum of them.
    `pending` devices wait for approval; they are not registered.
    """

    registered: int = 0
    connected: int = 0
    rotations: int = 0
    rotating: int = 0
    alerts_open: int = 0
    requested: int = 0
    csr_received: int = 0
    issued: int = 0
    delivered: int = 0
    proven: int = 0
    failed: int = 0
    abandoned: int = 0
    pending: int = 0


@dataclass(frozen=True, slots=True)
class Waking:
    """The waking of one row (by its key) by the tick at `offset`."""

    offset: int
    key: bytes


@dataclass(frozen=True, slots=True)
class DoorShare:
    """One share of a door, as its bridges tell.

    `at` is up to when it was served by the bridge's clock, `heard_at` the machine time of that
    word, `up_since` since when such words come without a gap; `told`: its absence was decided upon.
    """

    door: str
    share: int
    shares: int
    number: int
    at: int
    heard_at: int
    up_since: int
    told: bool


@dataclass(frozen=True, slots=True)
class Source:
    """How far the records of another machine's partition were heard: offset and index in one."""

    topic: str
    partition: int
    mark: int


@dataclass(frozen=True, slots=True)
class PartitionRow:
    """What is true of a whole partition: machine time, versions, policy, totals, set-aside lists.

    `set_aside` are offsets of records, `wakings` wakings, whose step raised; a replay honours both.
    `rows` counts the partition's rows: a table that has fewer is not whole. `core_since` is the
    offset of the record that activated `core_version`, -1 where the history began with it.
    """

    applied_offset: int = -1
    tick_number: int = 0
    now: int = 0
    random: bytes = b""
    core_version: int = 1
    broadcast_number: int = 0
    policy: Policy = field(default_factory=Policy)
    totals: Totals = field(default_factory=Totals)
    set_aside: tuple[int, ...] = ()
    rows: int = 0
    core_since: int = -1
    wakings: tuple[Waking, ...] = ()
    doors: tuple[DoorShare, ...] = ()
    sources: tuple[Source, ...] = ()
