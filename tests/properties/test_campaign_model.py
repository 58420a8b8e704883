"""Campaigns under random schedules, against a model that counts for itself.

The machine is driven by everything that can happen to a fleet: members join and leave, campaigns
of all shapes are ordered, paused, resumed, aborted, orders end well or badly or not at all, time
passes, windows and batch sizes change. The model holds only what an onlooker sees: the orders that
went out and how they ended.
"""

import json
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from schemas import codec, fleet_states
from schemas import fleet_events as events
from schemas.decisions import Decision
from schemas.fleet_states import CampaignGroup, CampaignRate, CampaignSpec, MemberRow, TimeWindow
from schemas.progress import IN_WORK, Progress
from streams.core import campaign, enrolment, ring, windows
from tests.helpers.fleets import (
    ARTEFACT,
    CAUSE,
    DAY,
    FLEET,
    HOUR,
    Fleets,
    orders,
)

DEVICES = [f"d{number}" for number in range(12)]
CAMPAIGNS = [f"c{number}" for number in range(5)]
PLACES = {word: place for place, word in enumerate(IN_WORK)}
WINDOWS = [("00:00", "24:00"), ("02:00", "04:00"), ("13:00", "15:00"), ("22:00", "01:00")]

devices = st.sampled_from(DEVICES)
campaigns = st.sampled_from(CAMPAIGNS)
groups = st.lists(
    st.one_of(
        st.builds(
            CampaignGroup,
            percent=st.integers(1, 60),
            success_threshold=st.sampled_from([0.0, 0.5, 1.0]),
            gate=st.booleans(),
        ),
        st.builds(CampaignGroup, count=st.integers(1, 4)),
    ),
    max_size=3,
).map(tuple)
specs = st.builds(
    CampaignSpec,
    kind=st.just(campaign.UPDATE),
    artefact=st.just(ARTEFACT),
    groups=groups,
    batch_size=st.integers(0, 4),
    failure_threshold=st.sampled_from([-1.0, 0.0, 0.5, 1.0]),
    attempts_max=st.integers(1, 3),
    order_within_ms=st.sampled_from([600_000, 7_200_000]),
    rate=st.builds(
        CampaignRate, st.integers(0, 5), st.just(200), st.integers(0, 2), st.integers(0, 60)
    ),
    window=st.none() | st.just(TimeWindow(13 * 60, 15 * 60)),
    any_time=st.booleans(),
    stagger_ms=st.sampled_from([0, 12 * HOUR]),
    priority=st.integers(-1, 1),
    continuous=st.booleans(),
    end_after_ms=st.sampled_from([DAY, 5 * DAY]),
)
rotations = st.builds(
    CampaignSpec,
    kind=st.just(campaign.ROTATION),
    selection=st.sampled_from(["all", "expiring"]),
    expiring_days=st.just(3),
    attempts_max=st.integers(1, 2),
    groups=groups,
    end_after_ms=st.just(5 * DAY),
)


class CampaignsComparedWithAModel(RuleBasedStateMachine):
    """What an onlooker counts, beside the machine."""

    def __init__(self) -> None:
        super().__init__()
        self.fleets = Fleets().created(
            json.dumps({"updatePolicy": {"batchSize": 3, "timeWindow": window_of(0)}})
        )
        self.open: dict[str, Any] = {}
        self.ended: dict[tuple[str, str], list[str]] = {}

    def take(self, records: list[Any]) -> None:
        """Judge what the machine did in one step, at the instant at which it did it."""
        reasons = {
            one.values["order"]: one.reason
            for one in records
            if isinstance(one, Decision) and one.name == "DeviceChosen"
        }
        batch = self.fleets.fleet.config.update_policy.batch_size
        for one in (each for each in records if isinstance(each, Decision)):
            if one.name == "DeviceFinished":
                key = (one.values["campaign"], one.values["device"])
                self.ended.setdefault(key, []).append(one.values["outcome"])
            if one.name in ("DeviceFinished", "MemberLeft") or one.reason == "retried":
                self.open.pop(one.values["device"], None)
        for order in orders(records):
            assert order.device_id not in self.open, "one campaign at a time"
            self.open[order.device_id] = order
            assert len(self.open) <= batch, "never more in work than batchSize"
            row = self.fleets.campaign(order.campaign_id)
            of_campaign = [
                one for one in self.open.values() if one.campaign_id == order.campaign_id
            ]
            assert len(of_campaign) <= (row.spec.batch_size or batch)
            window, zone = campaign.window(row, self.fleets.fleet)
            assert reasons[order.order_id] == "expiry-wins" or windows.is_open(
                window, zone, self.fleets.stage.now
            ), "never outside the window"
            assert row.state not in (campaign.PAUSED, campaign.COMPLETED, campaign.ABORTED)

    def add(self, event: Any) -> None:
        """Answer one event."""
        self.take(self.fleets.add(event))

    @rule(device=devices, days=st.sampled_from([1, 2, 90]))
    def joins(self, device: str, days: int) -> None:
        """A device joins, or its certificate changes."""
        self.add(events.DeviceAdded(FLEET, device, "operator", "ops"))
        end = self.fleets.stage.now + days * DAY
        self.add(events.MemberReported(FLEET, device, True, "none", end - 90 * DAY, end, CAUSE))

    @rule()
    def all_join(self) -> None:
        """Every device joins."""
        for one in DEVICES:
            self.joins(one, 90)

    @rule(device=devices)
    def leaves(self, device: str) -> None:
        """A device leaves."""
        self.add(events.DeviceRemoved(FLEET, device, "ordered", "ops"))

    @rule(device=devices, health=st.sampled_from(["connected", "silent", "gone"]))
    def health_changes(self, device: str, health: str) -> None:
        """A device is there or away."""
        self.add(events.HealthReported(FLEET, device, health, "none", CAUSE))

    @rule(device=devices, days=st.sampled_from([1, 2, 20]))
    def nears(self, device: str, days: int) -> None:
        """A certificate nears its end."""
        end = self.fleets.stage.now + days * DAY
        self.add(events.CertificateNeared(FLEET, device, end - 90 * DAY, end, CAUSE))

    @rule(campaign_id=campaigns, spec=specs | rotations)
    def ordered(self, campaign_id: str, spec: CampaignSpec) -> None:
        """A campaign is ordered, or its id is taken."""
        self.add(events.CampaignOrdered(FLEET, campaign_id, spec, None, "ops"))

    @rule(
        campaign_id=campaigns,
        kind=st.sampled_from(
            [events.CampaignPaused, events.CampaignResumed, events.CampaignAborted]
        ),
    )
    def moved(self, campaign_id: str, kind: Any) -> None:
        """A person pauses, resumes or aborts."""
        self.add(kind(FLEET, campaign_id, "ops"))

    @rule(campaign_id=campaigns, group=st.integers(0, 3))
    def gate(self, campaign_id: str, group: int) -> None:
        """A person lets a group begin."""
        self.add(events.GateOpened(FLEET, campaign_id, group, "ops"))

    @rule(
        device=devices,
        outcome=st.sampled_from(["succeeded", "succeeded", "failed"]),
        reason=st.sampled_from(["none", "rolled-back"]),
    )
    def ends(self, device: str, outcome: str, reason: str) -> None:
        """A device ends its order."""
        order = self.open.get(device)
        if order is not None:
            self.take(self.fleets.end(order, outcome, reason))

    @rule(device=devices, said=st.lists(st.sampled_from([*Progress, "?"]), max_size=4))
    def goes_on(self, device: str, said: list[str]) -> None:
        """A device is further with its order, or says so again, or in another order."""
        order = self.open.get(device)
        if order is None:
            return
        for word in said:
            before = self.fleets.member(device).order
            assert before is not None
            assert self.fleets.progress(order, word) == [], "nothing follows from a word"
            after = self.fleets.member(device).order
            assert after is not None
            places = [PLACES.get(one, -1) for one in (before.progress, word, after.progress)]
            assert places[2] == max(places[:2]), "never back"
            assert after.deadline_at == before.deadline_at, "a word extends nothing"

    @rule(outcome=st.sampled_from(["succeeded", "failed"]))
    def all_end(self, outcome: str) -> None:
        """Whoever is in work ends."""
        for order in list(self.open.values()):
            self.take(self.fleets.end(order, outcome))

    @rule(batch=st.integers(1, 6), window=st.integers(0, len(WINDOWS) - 1))
    def configured(self, batch: int, window: int) -> None:
        """Batch size and window change. A smaller batch holds once enough have ended."""
        if batch < len(self.open):
            batch = len(self.open)
        patch = {"updatePolicy": {"batchSize": batch, "timeWindow": window_of(window)}}
        self.add(events.FleetConfigChanged(FLEET, json.dumps(patch), 0, None, "ops"))

    @rule(span=st.sampled_from([1_000, 600_000, HOUR, 5 * HOUR, DAY]))
    def passes(self, span: int) -> None:
        """Time passes, deadline by deadline."""
        stage = self.fleets.stage
        until = stage.now + span
        for _ in range(10_000):
            at = stage.deadlines.first()
            if not at or at > until:
                break
            self.take_outputs(stage.pass_time(max(at, stage.now)))
        else:
            raise AssertionError("something is due for ever")
        self.take_outputs(stage.pass_time(until))

    def take_outputs(self, outputs: list[Any]) -> None:
        """Judge outputs of a waking."""
        self.take([one.record for one in outputs])

    @invariant()
    def the_rows_agree_with_the_onlooker(self) -> None:
        """Orders, counts, queues and references all say the same."""
        stage, row = self.fleets.stage, self.fleets.fleet
        rows = dict(stage.rows.items())
        held = {r.device_id: r for r in rows.values() if isinstance(r, MemberRow)}
        working = {name: one.order.order_id for name, one in held.items() if one.order}
        assert working == {name: one.order_id for name, one in self.open.items()}
        assert row.in_work == len(working)
        assert row.members == len(held)
        assert row.confirmed == sum(one.confirmed for one in held.values())
        waiting = {key for key in rows if key.startswith(b"queue:")}
        assert waiting == {one.key for each in held.values() for one in each.queued}
        for ref in row.campaigns:
            self.counts_are_whole(self.fleets.campaign(ref.campaign_id), rows)
            self.words_are_counted(self.fleets.campaign(ref.campaign_id), held)

    def words_are_counted(self, one: fleet_states.CampaignRow, held: dict[str, MemberRow]) -> None:
        """Each device in work counts under its last word, and nobody else does."""
        orders = [each.order for each in held.values() if each.order]
        said = [each.progress for each in orders if each.campaign_id == one.campaign_id]
        for word in IN_WORK:
            assert getattr(one.progress_counts, word) == said.count(word)
        assert all(0 <= group.rolled_back <= group.failed for group in one.groups)

    def counts_are_whole(self, one: fleet_states.CampaignRow, rows: dict[bytes, Any]) -> None:
        """Everybody enrolled waits, is in work, or has ended in one way; thresholds hold."""
        for group in one.groups:
            assert min(group.queued, group.in_work, group.dropped) >= 0
            assert group.enrolled == (
                group.queued + group.in_work + group.succeeded + group.failed
                + group.timed_out + group.dropped
            )  # fmt: skip
        prefix = ring.queue(FLEET, one.campaign_id)
        assert campaign.queued(one) == sum(key.startswith(prefix) for key in rows)
        for name in ("urgent", *(f"{number:02d}" for number in range(len(one.groups)))):
            lane = ring.lane(FLEET, one.campaign_id, name)
            least = min((key for key in rows if key.startswith(lane)), default=None)
            assert least is None or least > enrolment.floor(one, name), "nobody is overlooked"
        urgent = ring.lane(FLEET, one.campaign_id, "urgent")
        assert one.urgent == sum(key.startswith(urgent) for key in rows)
        assert campaign.in_work(one) == sum(
            order.campaign_id == one.campaign_id for order in self.open.values()
        )
        if one.state in campaign.ORDERING:
            assert not campaign.must_halt(one, self.fleets.fleet), "halts by the threshold"

    def teardown(self) -> None:
        """Every campaign ends, whatever went before, and every row survives its round trip."""
        for _ in range(3):
            self.passes(40 * DAY)
        assert [one for one in self.fleets.fleet.campaigns if not one.automatic] == []
        for campaign_id in CAMPAIGNS:
            row = self.fleets.campaign(campaign_id)
            if row is not None:
                assert row.state in (campaign.COMPLETED, campaign.ABORTED, campaign.EXPIRED)
        assert self.open == {}
        for key, one in self.fleets.stage.rows.items():
            assert codec.decode(codec.encode(one)) == one, key


def window_of(number: int) -> dict[str, str]:
    """Return a window as a user writes it."""
    start, end = WINDOWS[number]
    return {"start": start, "end": end}


TestCampaigns = CampaignsComparedWithAModel.TestCase
TestCampaigns.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
