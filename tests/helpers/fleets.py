"""A fleet for the pure tests: its machine on rows in memory, and what it said."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from schemas import fleet_events as events
from schemas.artefact import Artefact
from schemas.decisions import Decision
from schemas.envelope import Cause, Position
from schemas.events import RotationOrdered
from schemas.fleet_orders import UpdateOrdered
from schemas.fleet_states import CampaignRow, CampaignSpec, FleetRow, MemberRow
from schemas.topics import DEVICE_EVENTS
from streams.core import campaign, ring
from streams.core.rehearsal import Stage
from streams.core.turn import Output

NOON = 1_800_014_400_000
"""2027-01-15 12:00:00 UTC, a Friday."""
HOUR = 3_600_000
DAY = 24 * HOUR
FLEET = "pumps"
ALL_DAY = '{"updatePolicy":{"timeWindow":{"start":"00:00","end":"24:00"}}}'
ARTEFACT = Artefact("firmware", "pump", "2.0", "https://x/2.0", 10, b"d" * 32, b"s", "key-1")
UPDATE = CampaignSpec(kind=campaign.UPDATE, artefact=ARTEFACT)
ROTATION = CampaignSpec(kind=campaign.ROTATION)
CAUSE = Cause(Position(DEVICE_EVENTS, 0, 1), 0, 1)


def update(**changes: Any) -> CampaignSpec:
    """Return an update campaign's spec with some fields changed."""
    return replace(UPDATE, **changes)


def rotation(**changes: Any) -> CampaignSpec:
    """Return a rotation campaign's spec with some fields changed."""
    return replace(ROTATION, **changes)


@dataclass
class Fleets:
    """The machine with one fleet, and its outputs so far."""

    stage: Stage = field(default_factory=lambda: Stage(now=NOON))
    outputs: list[Output] = field(default_factory=list)

    def add(self, event: Any) -> list[Any]:
        """Answer one event; return the records it gave."""
        said = self.stage.apply(event)
        self.outputs += said
        return [one.record for one in said]

    def wait(self, milliseconds: int = 0) -> list[Any]:
        """Let time pass, second by second only where something is due."""
        until, before = self.stage.now + milliseconds, len(self.outputs)
        while (at := self.stage.deadlines.first()) and at <= until:
            self.outputs += self.stage.pass_time(max(at, self.stage.now))
        self.outputs += self.stage.pass_time(until)
        return [one.record for one in self.outputs[before:]]

    def created(self, config: str = ALL_DAY, **changes: Any) -> "Fleets":
        """Make the fleet."""
        event = events.FleetCreated(FLEET, "Pumps", (), (), config, "", None, "ops")
        self.add(replace(event, **changes))
        return self

    def joined(self, devices: Iterable[str], not_after_at: int = NOON + 90 * DAY) -> "Fleets":
        """Let devices join, with certificates of 90 days."""
        for one in devices:
            self.add(events.DeviceAdded(FLEET, one, "operator", "ops"))
            self.confirm(one, not_after_at)
        return self

    def confirm(self, device: str, not_after_at: int = NOON + 90 * DAY) -> list[Any]:
        """Let the device machine agree."""
        begins = not_after_at - 90 * DAY
        return self.add(
            events.MemberReported(FLEET, device, True, "none", begins, not_after_at, CAUSE)
        )

    def order(self, spec: CampaignSpec, campaign_id: str = "c") -> list[Any]:
        """Order a campaign."""
        return self.add(events.CampaignOrdered(FLEET, campaign_id, spec, None, "ops"))

    def end(self, order: Any, outcome: str = "succeeded", reason: str = "none") -> list[Any]:
        """Let a device end an order."""
        return self.add(
            events.OrderEnded(
                FLEET, order.device_id, order.campaign_id, order.order_id, outcome, reason, CAUSE
            )
        )

    def progress(self, order: Any, word: str) -> list[Any]:
        """Let a device be further with an order."""
        where = (FLEET, order.device_id, order.campaign_id, order.order_id)
        return self.add(events.OrderProgressed(*where, word, CAUSE))

    def end_work(self, outcome: str = "succeeded", reason: str = "none") -> list[Any]:
        """End once whatever is in work; return what followed."""
        said: list[Any] = []
        for row in self.in_work():
            order = row.order
            assert order is not None
            said += self.add(
                events.OrderEnded(
                    FLEET,
                    row.device_id,
                    order.campaign_id,
                    order.order_id,
                    outcome,
                    reason,
                    CAUSE,
                )
            )
        return said

    def finish(self, outcome: str = "succeeded") -> list[Any]:
        """End whatever is in work until nobody is."""
        said: list[Any] = []
        while self.in_work():
            said += self.end_work(outcome)
        return said

    def neared(self, device: str, not_after_at: int) -> list[Any]:
        """Let a device's certificate near its end."""
        begins = not_after_at - 90 * DAY
        return self.add(events.CertificateNeared(FLEET, device, begins, not_after_at, CAUSE))

    @property
    def fleet(self) -> FleetRow:
        """The fleet's row."""
        row: FleetRow = self.stage.rows.get(ring.fleet_key(FLEET))
        return row

    def member(self, device: str) -> MemberRow:
        """Return a member's row."""
        row: MemberRow = self.stage.rows.get(ring.member_key(FLEET, device))
        return row

    def campaign(self, campaign_id: str = "c") -> CampaignRow:
        """Return a campaign's row."""
        return self.stage.campaign(FLEET, campaign_id)

    def in_work(self) -> list[MemberRow]:
        """Return the members with an order."""
        prefix = ring.members(FLEET)
        rows = [row for _, row in self.stage.rows.scan(prefix, b"", 1_000_000)]
        return [row for row in rows if row.order is not None]


def orders(records: Iterable[Any]) -> list[Any]:
    """Return the orders among records."""
    return [one for one in records if isinstance(one, RotationOrdered | UpdateOrdered)]


def decided(records: Iterable[Any]) -> list[tuple[str, str]]:
    """Return (name, reason) of the decisions among records."""
    return [(one.name, one.reason) for one in records if isinstance(one, Decision)]


def refused(records: Iterable[Any]) -> tuple[str, str]:
    """Return (reason, detail) of the one refusal among records."""
    found = [one for one in records if isinstance(one, Decision) and one.name == "EventRefused"]
    assert len(found) == 1, found
    return found[0].reason, found[0].values["detail"]
