"""The typed client for campaigns: order, steer, watch, and ask beforehand what one would do.

campaigns = Campaigns(Fleets("127.0.0.1:9092"))
plan = campaigns.plan("pumps", "fw-2.1", spec)
campaigns.order("pumps", "fw-2.1", spec)
for row in campaigns.watch("pumps", "fw-2.1"):
    print(row.state, row.groups)
"""

import time
from collections.abc import Callable, Iterable, Iterator

from client import campaign_spec
from client.answers import Answers
from client.errors import FleetError
from client.fleets import Fleets, table_for
from client.kafka import Timeouts
from configuration.cluster import LOCAL, Cluster
from schemas import fleet_events as events
from schemas.fleet_states import (
    CampaignRow,
    CampaignSpec,
    MemberOrder,
    MemberResult,
    MemberRow,
    ZoneTable,
)
from schemas.progress import IN_WORK
from schemas.topics import FLEET_STATE
from streams.core import campaign, rehearsal, ring
from streams.core.rehearsal import Plan


class Campaigns:
    """The campaigns of all fleets."""

    def __init__(
        self,
        kafka: Cluster | str = LOCAL,
        actor: str = "operator",
        *,
        timeouts: Timeouts | None = None,
    ) -> None:
        cluster = Cluster.of(kafka)
        timeouts = timeouts or Timeouts()
        self._fleets = Fleets(cluster, actor, timeouts=timeouts)
        self._answers = Answers(cluster, timeouts)
        self._actor = actor

    def close(self) -> None:
        """Close the connections."""
        self._fleets.close()
        self._answers.close()

    def order(self, fleet_id: str, campaign_id: str, spec: CampaignSpec) -> None:
        """Order a campaign. Raises FleetError where the machine refuses it."""
        self._answers.ask(fleet_id, self._ordered(fleet_id, campaign_id, spec))

    def pause(self, fleet_id: str, campaign_id: str) -> None:
        """Order nobody new; devices in work finish."""
        self._answers.ask(fleet_id, events.CampaignPaused(fleet_id, campaign_id, self._actor))

    def resume(self, fleet_id: str, campaign_id: str) -> None:
        """Go on with a paused or halted campaign; what failed so far is forgiven."""
        self._answers.ask(fleet_id, events.CampaignResumed(fleet_id, campaign_id, self._actor))

    def abort(self, fleet_id: str, campaign_id: str) -> None:
        """End a campaign; devices in work finish."""
        self._answers.ask(fleet_id, events.CampaignAborted(fleet_id, campaign_id, self._actor))

    def open_gate(self, fleet_id: str, campaign_id: str, group: int) -> None:
        """Let a group begin."""
        event = events.GateOpened(fleet_id, campaign_id, group, self._actor)
        self._answers.ask(fleet_id, event)

    def campaigns(self, fleet_id: str) -> list[CampaignRow]:
        """Return a fleet's campaigns, also those that ended lately, in the order of their start."""
        found = self._fleets.under(fleet_id, ring.campaign_key(fleet_id, "")).values()
        return sorted(found, key=lambda one: (one.ordered_at, one.campaign_id))

    def campaign(self, fleet_id: str, campaign_id: str) -> CampaignRow:
        """Return one campaign. Raises FleetError where there is none."""
        for row in self.campaigns(fleet_id):
            if row.campaign_id == campaign_id:
                return row
        raise FleetError(
            f"fleet {fleet_id} has no campaign {campaign_id!r}; see `fleetcert campaign list "
            f"{fleet_id}`"
        )

    def devices(self, fleet_id: str, campaign_id: str) -> list[MemberRow]:
        """Return the members whom a campaign has ordered, as each stands: those in work first."""
        return taking_part(self._fleets.members(fleet_id), campaign_id)

    def watch(
        self,
        fleet_id: str,
        campaign_id: str,
        stopping: Callable[[], bool] = lambda: False,
    ) -> Iterator[CampaignRow]:
        """Yield a campaign as it is and whenever it changes, until it has ended."""
        changes = self._answers.reader.follow(FLEET_STATE, stopping=stopping)
        row = self.campaign(fleet_id, campaign_id)
        yield row
        key = ring.campaign_key(fleet_id, campaign_id)
        while not row.ended_at:
            found = next((one for one in changes if one.key == key), None)
            if found is None or found.record is None:
                return
            row = found.record
            yield row

    def plan(self, fleet_id: str, campaign_id: str, spec: CampaignSpec) -> Plan:
        """Return what a campaign would do with the fleet as it is now, ordering nobody."""
        self._fleets.fleet(fleet_id)
        rows = self._fleets.rows(fleet_id)
        now = time.time_ns() // 1_000_000
        return rehearsal.plan(rows.items(), self._ordered(fleet_id, campaign_id, spec), now)

    def forecast(self, fleet_id: str, days: int) -> tuple[tuple[int, int], ...]:
        """Return the rotations per hour that the fleet's certificates will ask for."""
        self._fleets.fleet(fleet_id)
        now = time.time_ns() // 1_000_000
        rows = self._fleets.rows(fleet_id)
        return rehearsal.forecast(rows.items(), fleet_id, now, now + days * 24 * rehearsal.HOUR_MS)

    def _ordered(
        self, fleet_id: str, campaign_id: str, spec: CampaignSpec
    ) -> events.CampaignOrdered:
        zone: ZoneTable | None = None
        if spec.window is not None:
            zone = table_for(spec.window.time_zone)
        campaign_spec.checked(campaign_id, spec, zone)
        return events.CampaignOrdered(fleet_id, campaign_id, spec, zone, self._actor)


def counts(row: CampaignRow) -> str:
    """Return a campaign's counts as a line; what is none of it is left out of the brackets."""
    within = {
        "in_work": words(row),
        "failed": f"rolled-back {back}" if (back := rolled_back(row)) else "",
    }
    figures = {name: f"{count}" for name, count in campaign.figures(row).items()}
    figures |= {name: f"{figures[name]} ({text})" for name, text in within.items() if text}
    return " ".join(f"{name.replace('_', '-')} {text}" for name, text in figures.items())


def words(row: CampaignRow) -> str:
    """Return how far the devices in work are: each word with its count, empty for no word."""
    found = {one.value: getattr(row.progress_counts, one.value) for one in IN_WORK}
    return ", ".join(f"{word} {count}" for word, count in found.items() if count)


def rolled_back(row: CampaignRow) -> int:
    """Return how many of the failed run again what they ran before."""
    return sum(one.rolled_back for one in row.groups)


def taking_part(members: Iterable[MemberRow], campaign_id: str) -> list[MemberRow]:
    """Return the members whom a campaign has ordered: in work first, then by id."""
    found = [one for one in members if in_work(one, campaign_id) or ended(one, campaign_id)]
    return sorted(found, key=lambda one: (not in_work(one, campaign_id), one.device_id))


def in_work(row: MemberRow, campaign_id: str) -> MemberOrder | None:
    """Return a member's order of a campaign, None where it has none."""
    return row.order if row.order and row.order.campaign_id == campaign_id else None


def ended(row: MemberRow, campaign_id: str) -> MemberResult | None:
    """Return how a member's part in a campaign ended, None where it has not."""
    return row.last if row.last and row.last.campaign_id == campaign_id else None
