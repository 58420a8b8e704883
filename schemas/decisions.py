"""What the machines concluded: one record shape, a closed list of names in the past tense."""

from dataclasses import dataclass
from enum import StrEnum

from schemas.envelope import Position


class DecisionName(StrEnum):
    """The conclusions of the machines."""

    DEVICE_ACCEPTED = "DeviceAccepted"
    REGISTRATION_AWAITED = "RegistrationAwaited"
    DEVICE_REJECTED = "DeviceRejected"
    REGISTRATION_LAPSED = "RegistrationLapsed"
    DESCRIPTION_CHANGED = "DescriptionChanged"
    DEVICE_RETIRED = "DeviceRetired"
    EVENT_REFUSED = "EventRefused"
    CERTIFICATE_NEARED_EXPIRY = "CertificateNearedExpiry"
    CERTIFICATE_EXPIRED = "CertificateExpired"
    ROTATION_STARTED = "RotationStarted"
    SIGNING_ACCEPTED = "SigningAccepted"
    CERTIFICATE_ACCEPTED = "CertificateAccepted"
    CERTIFICATE_DELIVERED = "CertificateDelivered"
    CERTIFICATE_PROVEN = "CertificateProven"
    CERTIFICATE_RETIRED = "CertificateRetired"
    ROTATION_COMPLETED = "RotationCompleted"
    ROTATION_FAILED = "RotationFailed"
    ROTATION_ABANDONED = "RotationAbandoned"
    ALERT_RAISED = "AlertRaised"
    ALERT_CLEARED = "AlertCleared"
    TICK_REFUSED = "TickRefused"
    FLEET_ACCEPTED = "FleetAccepted"
    FLEET_CONFIG_ACCEPTED = "FleetConfigAccepted"
    MEMBER_ADDED = "MemberAdded"
    MEMBER_LEFT = "MemberLeft"
    CAMPAIGN_CHANGED = "CampaignChanged"
    CAMPAIGN_WAITED = "CampaignWaited"
    GROUP_OPENED = "GroupOpened"
    DEVICE_CHOSEN = "DeviceChosen"
    DEVICE_DEFERRED = "DeviceDeferred"
    DEVICE_FINISHED = "DeviceFinished"
    HEALTH_CHANGED = "HealthChanged"
    FLEET_CHECKED = "FleetChecked"


class Severity(StrEnum):
    """How loud a decision is; alerts are decisions of `warning` and `critical`."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Decision:
    """One conclusion: what, why, caused by which record, by which rule, at which machine time.

    `decision_id` is derived from the cause, so a repeat of the step gives the same id.
    `values` are the figures it rests upon, as text.
    """

    decision_id: str
    name: str
    reason: str
    severity: str
    subject: str
    cause: Position
    cause_index: int
    rule: str
    core_version: int
    decided_at: int
    values: dict[str, str]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What could not be understood or was refused: original bytes, reason, origin."""

    reason: str
    detail: str
    origin: str
    cause: Position | None
    key: bytes
    payload: bytes
    letter_id: str
