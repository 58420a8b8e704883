"""Which alerts are open: the rows say so, and the decisions say on which figures they rest.

Beside the anomaly rules, two states of a device want a person: a rotation that was abandoned and a
certificate past its end. The partition row knows of the doors that nobody serves.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from schemas.decisions import Decision, DecisionName, Severity
from schemas.reasons import Reason
from schemas.states import Abandoned, DeviceRow, PartitionRow
from streams.core import anomaly, certificate

ROTATION_ABANDONED = "rotation-abandoned"
_SEVERITIES = {rule.reason.value: rule.severity.value for rule in anomaly.RULES}


@dataclass(frozen=True, slots=True)
class Alert:
    """One open alert: about whom, by which rule, since when (machine time, ms).

    `subject` is `device:<id>` or `door:<name>/<share>`; `reason` is the value of a Reason; `values`
    are the figures that the decision named.
    """

    subject: str
    rule: str
    reason: str
    severity: str
    since_at: int
    values: dict[str, str] = field(default_factory=dict)


def raised(row: DeviceRow) -> list[Alert]:
    """Return the open alerts of one device, oldest first."""
    subject = f"device:{row.device_id}"
    found = [
        Alert(
            subject,
            one.rule,
            one.rule,
            _SEVERITIES.get(one.rule, Severity.WARNING.value),
            one.raised_at,
        )
        for one in row.watches
        if one.raised_at
    ]
    if isinstance(row.rotation, Abandoned):
        since = row.journey[-1].at if row.journey else 0
        found.append(
            Alert(
                subject,
                ROTATION_ABANDONED,
                row.rotation.reason,
                Severity.CRITICAL.value,
                since,
            )
        )
    if row.expiry_told:
        expired = Reason.EXPIRED.value
        since = certificate.active(row).not_after_at
        found.append(Alert(subject, expired, expired, Severity.CRITICAL.value, since))
    return sorted(found, key=lambda one: one.since_at)


def doors_away(row: PartitionRow) -> list[Alert]:
    """Return the alerts of the doors that nobody serves, from the row of partition 0."""
    away = Reason.DOOR_AWAY.value
    return [
        Alert(
            f"door:{one.door}/{one.share}",
            away,
            away,
            Severity.CRITICAL.value,
            max(one.at, one.heard_at),
        )
        for one in row.doors
        if one.told
    ]


def with_values(alerts: Sequence[Alert], decisions: Iterable[Decision]) -> list[Alert]:
    """Return the alerts with the figures of the decisions that raised them, the latest of each."""
    names = (DecisionName.ALERT_RAISED, DecisionName.ROTATION_ABANDONED)
    values = {
        (one.subject, one.rule or one.reason): one.values for one in decisions if one.name in names
    }
    return [replace(one, values=values.get((one.subject, one.reason), {})) for one in alerts]
