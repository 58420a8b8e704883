"""One step on one fleet: the turn, the rows, the fleet's row as it changes, and what to say of it.

Rules: `fleet` is put back once, at the end of the step; every other row where it changes. A record
that answers another machine's record carries one hop more and is not sent past HOPS_MAX; a record
that begins something new begins at one.
"""

from collections.abc import Mapping
from typing import Any

from schemas import fleet_orders
from schemas.decisions import DecisionName, Severity
from schemas.envelope import BROADCAST_KEY, HOPS_MAX, Cause
from schemas.fleet_states import CampaignRow, FleetDefaultsRow, FleetRow, MemberRow
from schemas.reasons import Reason
from schemas.records import changed
from schemas.topics import DEVICE_EVENTS, FLEET_EVENTS
from streams.core import ring
from streams.core.rows import Rows
from streams.core.turn import Turn


class Work:
    """What a step on one fleet works with."""

    __slots__ = ("fleet", "rows", "turn")

    def __init__(self, turn: Turn, rows: Rows, fleet: FleetRow) -> None:
        self.turn, self.rows, self.fleet = turn, rows, fleet

    @property
    def now(self) -> int:
        """Machine time."""
        return self.turn.now

    @property
    def fleet_id(self) -> str:
        """The fleet's id."""
        return self.fleet.fleet_id

    def member(self, device_id: str) -> MemberRow | None:
        """Return a member's row."""
        row: MemberRow | None = self.rows.get(ring.member_key(self.fleet_id, device_id))
        return row

    def keep_member(self, row: MemberRow) -> None:
        """Put a member's row, woken at the earliest of its deadlines."""
        instants = [row.order.deadline_at] if row.order else []
        if row.queued and row.urgent_at:
            instants.append(row.urgent_at)
        at = min(instants, default=0)
        self.rows.put(ring.member_key(self.fleet_id, row.device_id), changed(row, next_due_at=at))

    def campaign(self, campaign_id: str) -> CampaignRow | None:
        """Return a campaign's row."""
        row: CampaignRow | None = self.rows.get(ring.campaign_key(self.fleet_id, campaign_id))
        return row

    def keep_campaign(self, row: CampaignRow) -> CampaignRow:
        """Put a campaign's row, and return it."""
        self.rows.put(ring.campaign_key(self.fleet_id, row.campaign_id), row)
        return row

    def defaults(self) -> FleetDefaultsRow:
        """Return what all fleets inherit."""
        return self.rows.get(ring.DEFAULTS_KEY) or FleetDefaultsRow()

    def cause(self, answers: Cause | None = None) -> Cause | None:
        """Return the cause of the next output, None where machines have answered too often."""
        hops = answers.hops + 1 if answers else 1
        if hops > HOPS_MAX:
            self.refuse(Reason.TOO_MANY_HOPS, "")
            return None
        return Cause(self.turn.position, len(self.turn.outputs), hops)

    def to_device(self, record: Any) -> None:
        """Write a record into the device's log."""
        self.turn.send(DEVICE_EVENTS, record.device_id.encode(), record)

    def to_itself(self, record: Any) -> None:
        """Write a record into the fleet's own log."""
        self.turn.send(FLEET_EVENTS, self.fleet_id.encode(), record)

    def tell_devices(self) -> None:
        """Tell every partition of devices what this fleet's devices go by."""
        config, cause = self.fleet.config, self.cause()
        assert cause is not None
        self.turn.send(
            DEVICE_EVENTS,
            BROADCAST_KEY,
            fleet_orders.FleetPolicyChanged(
                number=self.turn.position.offset + 1,
                fleet_id=self.fleet_id,
                membership=self.fleet.membership,
                rotation_enabled=config.cert_rotation.enabled,
                days_before_expiry=config.cert_rotation.days_before_expiry,
                health_check_interval_ms=config.monitoring.health_check_interval_ms,
                metrics_interval_ms=config.monitoring.metrics_interval_ms,
                error_rate=config.monitoring.alert_thresholds.error_rate,
                latency_ms=config.monitoring.alert_thresholds.latency_ms,
                cause=cause,
            ),
        )

    def say(
        self,
        name: DecisionName,
        reason: Reason,
        values: Mapping[str, object],
        severity: Severity = Severity.INFO,
        rule: str = "",
    ) -> None:
        """Publish a decision about the fleet."""
        subject = f"fleet:{self.fleet_id}"
        self.turn.decide(name, reason, subject, severity=severity, values=values, rule=rule)

    def refuse(self, reason: Reason, what: str, detail: str = "") -> None:
        """Say that an event was refused and changed nothing."""
        refuse(self.turn, self.fleet_id, reason, what, detail)


def refuse(turn: Turn, fleet_id: str, reason: Reason, what: str, detail: str = "") -> None:
    """Say that an event of a fleet, which may not exist, was refused."""
    turn.decide(
        DecisionName.EVENT_REFUSED,
        reason,
        f"fleet:{fleet_id}",
        severity=Severity.WARNING,
        values={"what": what, "detail": detail},
    )
