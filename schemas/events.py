"""The events of `device.events`: facts in the past tense, recorded for ever.

Every keyed event names its device. Evidence is what the door saw; verdicts (does a signature
verify?) are recorded by whoever judged them, so that the machine never needs a library.
"""

from dataclasses import dataclass, field

from schemas.envelope import Cause, Evidence, Numbering
from schemas.fleet_orders import FleetAssigned as FleetAssigned
from schemas.fleet_orders import FleetPolicyChanged as FleetPolicyChanged
from schemas.fleet_orders import FleetUnassigned as FleetUnassigned
from schemas.fleet_orders import UpdateOrdered as UpdateOrdered
from schemas.states import Policy


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What a certificate says: `fingerprint` is the SHA-256 of `der`, `spki_sha256` its key's."""

    fingerprint: bytes
    spki_sha256: bytes
    serial: str
    not_before_at: int
    not_after_at: int
    der: bytes


@dataclass(frozen=True, slots=True)
class DeviceRegistered:
    """An operator registered a device with the certificate it holds.

    Tags are a name, or name=value; attributes are free text about it, that no rule reads.
    """

    device_id: str
    device_type: str
    protocols: tuple[str, ...]
    certificate: CertificateFacts
    actor: str
    tags: tuple[str, ...] = ()
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeviceTagged:
    """A device's tags change: `removed` go by name, then `added` come, one value per name."""

    device_id: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    actor: str
    cause: Cause | None = None


@dataclass(frozen=True, slots=True)
class RetirementOrdered:
    """An operator retires a device for good; `replaced_by` takes its place, empty for nobody."""

    device_id: str
    replaced_by: str
    actor: str


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """A door let a device in."""

    device_id: str
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class CertificatePresented:
    """A door let somebody in whose certificate a provisioning CA signed: for enrolment alone."""

    device_id: str
    evidence: Evidence
    certificate: CertificateFacts


@dataclass(frozen=True, slots=True)
class RegistrationApproved:
    """An operator lets a pending device in, with the certificate that was seen: `fingerprint`."""

    device_id: str
    fingerprint: bytes
    device_type: str
    tags: tuple[str, ...]
    actor: str


@dataclass(frozen=True, slots=True)
class RegistrationRejected:
    """An operator keeps a pending device out, with this certificate."""

    device_id: str
    fingerprint: bytes
    actor: str


@dataclass(frozen=True, slots=True)
class SessionClosed:
    """A session ended; `reason_code` is the protocol's own (MQTT 5 section 3.14.2.1)."""

    device_id: str
    evidence: Evidence
    reason_code: int


@dataclass(frozen=True, slots=True)
class SessionRefused:
    """A door refused a session or a message; `reason` is the value of a Reason."""

    device_id: str
    evidence: Evidence
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class DeviceReported:
    """Telemetry, health or an error, as the device said it. `event_type` is the topic's tail.

    `said_at` is the device's own clock when it said it, zero where it names none.
    """

    device_id: str
    evidence: Evidence
    numbering: Numbering | None
    event_type: str
    content_type: str
    payload: bytes
    said_at: int = 0


@dataclass(frozen=True, slots=True)
class CommandAnswered:
    """A reply to a command: outcome is `accepted`, `done`, `failed` or `refused`.

    `progress` is how far an update is (`schemas.progress`), empty where the device does not say.
    """

    device_id: str
    evidence: Evidence
    numbering: Numbering | None
    command_id: str
    outcome: str
    detail: str
    progress: str = ""


@dataclass(frozen=True, slots=True)
class SigningRequested:
    """A reply to RotateCertificate: a CSR, signed by the current key, and the verdicts on it.

    `signed_request` is the COSE_Sign1 (RFC 9052) whole, `csr` the PKCS #10 within (RFC 2986).
    `subject` is the device id that the CSR names, `key` its algorithm and size. An empty
    `command_id`: the device asked by itself (EST), and the door that it asked has signed.
    """

    device_id: str
    evidence: Evidence
    numbering: Numbering | None
    command_id: str
    nonce: bytes
    signed_request: bytes
    csr: bytes
    subject: str
    key: str
    spki_sha256: bytes
    key_accepted: bool
    csr_signature_valid: bool
    request_signature_valid: bool
    verifier: str


@dataclass(frozen=True, slots=True)
class RotationOrdered:
    """An operator or a campaign asked for a rotation."""

    device_id: str
    order_id: str
    actor: str
    fleet_id: str = ""
    campaign_id: str = ""
    cause: Cause | None = None


@dataclass(frozen=True, slots=True)
class CertificateIssued:
    """The issuer signed; the first one for a request counts, all later ones are equal to it."""

    device_id: str
    request_id: str
    certificate: CertificateFacts


@dataclass(frozen=True, slots=True)
class SigningRefused:
    """The issuer refused to sign; `reason` is the value of a Reason."""

    device_id: str
    request_id: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class CertificateRevoked:
    """The issuer put the certificate on its revocation list (RFC 5280 section 5)."""

    device_id: str
    fingerprint: bytes
    serial: str
    crl_number: int


@dataclass(frozen=True, slots=True)
class ClockTicked:
    """The time, as the owner of the partition wrote it. `random` is 32 bytes."""

    number: int
    at: int
    random: bytes


@dataclass(frozen=True, slots=True)
class CoreVersionActivated:
    """From here on the history is folded by this version of the core."""

    number: int
    version: int


@dataclass(frozen=True, slots=True)
class PolicyActivated:
    """From here on the machine goes by this policy."""

    number: int
    policy: Policy
    actor: str


@dataclass(frozen=True, slots=True)
class DoorServed:
    """A bridge served this share of a door up to `at`; told in every partition, every 10 s.

    `number` rises with each word about a share, also from one bridge to the next (a bridge takes
    its clock, in milliseconds). A device's share is `schemas.shares.share_of` its id.
    """

    door: str
    share: int
    shares: int
    number: int
    at: int


Keyed = (
    DeviceRegistered
    | SessionOpened
    | SessionClosed
    | SessionRefused
    | DeviceReported
    | CommandAnswered
    | SigningRequested
    | RotationOrdered
    | CertificateIssued
    | SigningRefused
    | CertificateRevoked
    | FleetAssigned
    | FleetUnassigned
    | UpdateOrdered
    | DeviceTagged
    | RetirementOrdered
    | CertificatePresented
    | RegistrationApproved
    | RegistrationRejected
)
Broadcast = ClockTicked | CoreVersionActivated | PolicyActivated | DoorServed | FleetPolicyChanged
DeviceEvent = Keyed | Broadcast
