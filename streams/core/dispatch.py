"""Who is ordered next: the campaigns of a fleet served in turn, the highest priority first.

`advance` is called whenever something may have become possible: a device finished, time passed, a
person let go on. It orders at most ORDERS_MAX devices per step and otherwise says, once for each
change, why nobody is ordered. What one step may not finish goes on with `CampaignContinued`.

Invariants (tests hold them): no more in work than batchSize, per fleet and per campaign; no order
while the window is closed, but for the lane `urgent`; one order per device at a time; every
campaign ends.
"""

from schemas.decisions import DecisionName, Severity
from schemas.events import RotationOrdered
from schemas.fleet_events import CampaignContinued
from schemas.fleet_orders import UpdateOrdered
from schemas.fleet_states import CampaignRow, MemberOrder, MemberResult, MemberRow, QueueRow
from schemas.progress import is_further
from schemas.reasons import Reason
from schemas.records import changed
from streams.core import campaign, enrolment, ring, windows
from streams.core.work import Work

ORDERS_MAX = 30
"""Orders of one step: with their decisions they fit what waking one row may put out."""
CATCH_UP_MS = 1_000
"""How much of a missed rate may be made up: the clock ticks once a second."""
ACCEPTS_MS = 7 * windows.DAY_MS
"""How long an automatic campaign takes further devices."""
ENDED_KEPT_MAX = 20
"""Campaigns that are over and still have their row."""
AWAY = ("silent", "gone")
_MAY_COMPLETE = (*campaign.ORDERING, campaign.PAUSED)
"""A halted campaign waits for a person, whoever is left."""


def advance(work: Work) -> None:
    """Serve the fleet's campaigns, the highest priority first."""
    room = ORDERS_MAX
    for ref in work.fleet.campaigns:
        row = work.campaign(ref.campaign_id)
        if row is not None:
            room -= _serve(work, row, max(0, room))


def ended(work: Work, member: MemberRow, outcome: str, reason: Reason) -> None:
    """A device's order ended: count it, queue the next attempt, or finish with the device."""
    order = member.order
    assert order is not None
    row = work.campaign(order.campaign_id)
    member = changed(member, order=None)
    work.fleet = changed(work.fleet, in_work=work.fleet.in_work - 1)
    if row is None:
        work.keep_member(enrolment.release(work, member))
        return
    row = campaign.out_of_work(row, order)
    goes_on = row.state in campaign.OPEN
    if outcome != campaign.SUCCEEDED and order.attempt < row.spec.attempts_max and goes_on:
        values = _about(row, member.device_id, order.attempt + 1)
        work.say(DecisionName.DEVICE_DEFERRED, Reason.RETRIED, {**values, "why": reason.value})
        member = enrolment.release(work, member)
        work.keep_campaign(enrolment.retry(work, row, member, order.group, order.attempt + 1))
        return
    took = work.now - order.ordered_at
    back = int(outcome == campaign.FAILED and reason is Reason.ROLLED_BACK)
    row = campaign.count(row, order.group, **{outcome.replace("-", "_"): 1}, rolled_back=back)
    row = changed(row, duration_sum_ms=row.duration_sum_ms + took)
    bad = outcome != campaign.SUCCEEDED
    work.say(
        DecisionName.DEVICE_FINISHED,
        reason,
        {
            **_about(row, member.device_id, order.attempt),
            "outcome": outcome,
            "order": order.order_id,
            "duration_ms": took,
        },
        Severity.WARNING if bad else Severity.INFO,
    )
    last = MemberResult(row.campaign_id, outcome, reason.value, order.attempt, work.now)
    if row.state in campaign.ORDERING and campaign.must_halt(row, work.fleet):
        row = campaign.enter(work, row, campaign.HALTED, Reason.FAILURE_THRESHOLD)
    work.keep_campaign(row)
    work.keep_member(enrolment.release(work, changed(member, last=last)))


def progressed(work: Work, member: MemberRow, order: MemberOrder, said: str) -> None:
    """A device is further with its order: keep and count that. Its deadline stays where it is."""
    if not is_further(said, order.progress):
        return
    row = work.campaign(order.campaign_id)
    if row is not None:
        work.keep_campaign(campaign.progressed(row, order.progress, said))
    further = changed(order, progress=said, progress_at=work.now)
    work.keep_member(changed(member, order=further))


def enrol_late(work: Work, row: CampaignRow, device_id: str) -> CampaignRow:
    """Enrol a member that joined, or reported, while the campaign runs."""
    member = work.member(device_id)
    return row if member is None else work.keep_campaign(enrolment.enrol(work, row, member))


def dropped(work: Work, member: MemberRow) -> None:
    """A member leaves the fleet: out of work and of every queue."""
    order = member.order
    if order is not None:
        work.fleet = changed(work.fleet, in_work=work.fleet.in_work - 1)
        row = work.campaign(order.campaign_id)
        if row is not None:
            row = campaign.out_of_work(row, order)
            work.keep_campaign(campaign.count(row, order.group, dropped=1))
    enrolment.leave_all(work, member)


def _serve(work: Work, row: CampaignRow, room: int) -> int:
    """Move one campaign on; return how many devices were looked at."""
    row, more = _settle(work, row)
    looked, due_at = 0, 0
    if row.state in campaign.ORDERING:
        row, looked, due_at, full = _order_some(work, row, room)
        more |= full
    if more and not row.continuing:
        cause = work.cause()
        assert cause is not None
        work.to_itself(CampaignContinued(work.fleet_id, row.campaign_id, cause))
        row = changed(row, continuing=True)
    work.keep_campaign(changed(row, next_due_at=_due_at(work, row, due_at)))
    return looked


def _settle(work: Work, row: CampaignRow) -> tuple[CampaignRow, bool]:
    """Begin, enrol, open groups, end. Tells whether there is more than this step may do."""
    if row.state in campaign.OPEN and work.now >= row.end_at:
        row = campaign.end(work, row, campaign.EXPIRED, Reason.END_REACHED)
    if row.state == campaign.PLANNED and work.now >= row.next_due_at:
        row = _begin(work, row)
    if row.state in campaign.ORDERING:
        if not row.enrolled_all and not row.continuing:
            row = enrolment.enrol_some(work, row)
        row = _open_groups(work, row)
    if row.state in _MAY_COMPLETE and _all_done(work, row):
        row = campaign.end(work, row, campaign.COMPLETED, Reason.ALL_DONE)
    if row.state == campaign.ENDING:
        return _finish(work, row)
    return row, row.state in campaign.ORDERING and not row.enrolled_all


def _begin(work: Work, row: CampaignRow) -> CampaignRow:
    groups = campaign.planned_groups(row.spec, work.fleet.confirmed)
    own = row.spec.selection == campaign.NEARED
    row = changed(row, started_at=work.now, groups=groups, enrolled_all=own)
    return campaign.enter(work, row, campaign.RUNNING, Reason(row.reason))


def _open_groups(work: Work, row: CampaignRow) -> CampaignRow:
    """Open every group that may open now; halt where one is over and has not succeeded."""
    automatic = row.automatic or work.fleet.config.update_policy.automatic
    while row.group + 1 < len(row.groups):
        following = row.group + 1
        if row.group >= 0 and not campaign.threshold_reached(row):
            if campaign.group_is_over(row, row.group):
                row = campaign.enter(work, row, campaign.HALTED, Reason.SUCCESS_THRESHOLD)
            return row
        if not campaign.may_begin(row, following, automatic):
            if row.state == campaign.RUNNING:
                row = campaign.enter(work, row, campaign.GATED, Reason.GATE_CLOSED)
            return row
        row = _opened(work, row, following)
    return row


def _opened(work: Work, row: CampaignRow, group: int) -> CampaignRow:
    if row.state == campaign.GATED:
        row = campaign.enter(work, row, campaign.RUNNING, Reason.ORDERED)
    values = {"campaign": row.campaign_id, "group": group, "size": row.groups[group].size}
    work.say(DecisionName.GROUP_OPENED, Reason.NONE, values)
    return changed(row, group=group)


def force_open(work: Work, row: CampaignRow) -> CampaignRow:
    """A person goes on behind a group that succeeded too little."""
    following = row.group + 1
    automatic = row.automatic or work.fleet.config.update_policy.automatic
    if following < len(row.groups) and campaign.may_begin(row, following, automatic):
        return _opened(work, row, following)
    return row


def _all_done(work: Work, row: CampaignRow) -> bool:
    if not row.started_at or not row.enrolled_all or row.group + 1 < len(row.groups):
        return False
    if campaign.queued(row) or campaign.in_work(row):
        return False
    if row.automatic:
        return work.now >= row.ordered_at + ACCEPTS_MS
    return not row.spec.continuous


def _finish(work: Work, row: CampaignRow) -> tuple[CampaignRow, bool]:
    """Clear the queue of a campaign that ends, and close it when nobody is in work."""
    if campaign.queued(row):
        row = enrolment.clear_some(work, row)
    if campaign.queued(row) or campaign.in_work(row):
        return row, campaign.queued(row) > 0
    row = campaign.enter(work, row, row.ends_as, Reason(row.reason))
    row = changed(row, ended_at=work.now)
    fleet = work.fleet
    kept = (*fleet.campaigns_ended, row.campaign_id)
    for old in kept[:-ENDED_KEPT_MAX]:
        work.rows.delete(ring.campaign_key(work.fleet_id, old))
    work.fleet = changed(
        fleet,
        campaigns=tuple(one for one in fleet.campaigns if one.campaign_id != row.campaign_id),
        campaigns_ended=kept[-ENDED_KEPT_MAX:],
    )
    return row, False


def _order_some(work: Work, row: CampaignRow, room: int) -> tuple[CampaignRow, int, int, bool]:
    """Order who may be ordered. Returns row, looked at, when to look again, whether room ended."""
    window, zone = campaign.window(row, work.fleet)
    is_open = windows.is_open(window, zone, work.now)
    looked = 0
    while True:
        waits, due_at = _obstacle(work, row)
        if waits is None:
            waits, due_at, found = _first_ready(work, row, is_open=is_open)
        if waits is Reason.WINDOW_CLOSED:
            opens = windows.next_opening(window, zone, work.now)
            due_at = min(one for one in (opens, due_at or opens) if one) if opens else due_at
        if waits is not None:
            return _waiting(work, row, waits), looked, due_at, False
        if looked >= room:
            return row, looked, 0, True
        looked += 1
        row = _try(work, row, found, in_window=is_open)


def _obstacle(work: Work, row: CampaignRow) -> tuple[Reason | None, int]:
    """Return why nobody of the campaign may be ordered now, and until when."""
    if not campaign.queued(row):
        return Reason.NOBODY_READY, 0
    whole = work.fleet.config.update_policy.batch_size
    if work.fleet.in_work >= whole or campaign.in_work(row) >= campaign.batch_size(row, work.fleet):
        return Reason.BATCH_FULL, 0
    if campaign.per_minute(row) and row.next_order_at > work.now:
        return Reason.RATE_LIMITED, row.next_order_at
    return None, 0


Found = tuple[bytes, str, QueueRow]
"""A place in a queue, its lane, and who waits there."""
_NOBODY: Found = (b"", "", QueueRow("", 0, 0, 0))


def _first_ready(
    work: Work, row: CampaignRow, *, is_open: bool
) -> tuple[Reason | None, int, Found]:
    """Return the first device of the open lanes that is ready, or why none is and until when."""
    lanes = [enrolment.URGENT] if row.urgent else []
    if is_open:
        groups = range(row.group + 1)
        lanes += [enrolment.group_lane(one) for one in groups if row.groups[one].queued]
    due_at = 0
    for name in lanes:
        prefix = ring.lane(work.fleet_id, row.campaign_id, name)
        for key, waiting in work.rows.scan(prefix, enrolment.floor(row, name), 1):
            at = ring.ready_at(key, prefix)
            if at <= work.now:
                return None, 0, (key, name, waiting)
            due_at = min(due_at or at, at)
    open_groups = sum(one.queued for one in row.groups[: row.group + 1]) > row.urgent
    why = Reason.NOBODY_READY if is_open or not open_groups else Reason.WINDOW_CLOSED
    return why, due_at, _NOBODY


def _try(work: Work, row: CampaignRow, found: Found, *, in_window: bool) -> CampaignRow:
    """Order one device, or put it off and say why."""
    key, name, waiting = found
    row = enrolment.raised(row, name, key)
    member = work.member(waiting.device_id)
    assert member is not None, "a member that leaves is taken out of every queue"
    if member.order is not None:
        values = {
            **_about(row, member.device_id, waiting.attempt),
            "busy": member.order.campaign_id,
        }
        work.say(DecisionName.DEVICE_DEFERRED, Reason.DEVICE_BUSY, values)
        return enrolment.put_off(work, row, member, key, waiting)
    away = member.health in AWAY and waiting.deferrals < campaign.DEFERRALS_MAX
    if away and name != enrolment.URGENT:
        values = {**_about(row, member.device_id, waiting.attempt), "health": member.health}
        work.say(DecisionName.DEVICE_DEFERRED, Reason.DEVICE_AWAY, values)
        return enrolment.put_off(work, row, member, key, waiting)
    row, member = enrolment.take(work, row, member, key)
    return _order(work, row, member, waiting, in_window=in_window)


def _order(
    work: Work, row: CampaignRow, member: MemberRow, waiting: QueueRow, *, in_window: bool
) -> CampaignRow:
    """Send one order down."""
    now, device_id = work.now, member.device_id
    order_id = work.turn.new_id("order")
    deadline_at = now + row.spec.order_within_ms
    order = MemberOrder(order_id, row.campaign_id, waiting.group, waiting.attempt, now, deadline_at)
    work.keep_member(changed(member, order=order))
    work.fleet = changed(work.fleet, in_work=work.fleet.in_work + 1)
    cause = work.cause()
    assert cause is not None
    where = (work.fleet_id, row.campaign_id)
    if row.spec.artefact is None:
        work.to_device(RotationOrdered(device_id, order_id, row.actor, *where, cause))
    else:
        work.to_device(
            UpdateOrdered(device_id, order_id, *where, row.spec.artefact, deadline_at, cause)
        )
    work.say(
        DecisionName.DEVICE_CHOSEN,
        Reason.NEXT_IN_LINE if in_window else Reason.EXPIRY_WINS,
        {**_about(row, device_id, waiting.attempt), "group": waiting.group, "order": order_id},
    )
    row = campaign.count(row, waiting.group, in_work=1)
    rate = campaign.per_minute(row)
    next_order_at = max(row.next_order_at, now - CATCH_UP_MS) + 60_000 // rate if rate else 0
    return changed(row, next_order_at=next_order_at, orders=row.orders + 1)


def _waiting(work: Work, row: CampaignRow, waits: Reason) -> CampaignRow:
    """Remember why the campaign waits, and say it where it is news to an operator."""
    if row.waits == waits.value:
        return row
    if waits is Reason.WINDOW_CLOSED:
        values = {"campaign": row.campaign_id, **campaign.figures(row)}
        work.say(DecisionName.CAMPAIGN_WAITED, waits, values)
    return changed(row, waits=waits.value)


def _due_at(work: Work, row: CampaignRow, due_at: int) -> int:
    """Return when the campaign wants to be woken."""
    if row.ended_at:
        return 0
    if row.state == campaign.PLANNED:
        return min(row.next_due_at, row.end_at)
    instants = [row.end_at] if row.state in campaign.OPEN else []
    if due_at:
        instants.append(due_at)
    accepts_until = row.ordered_at + ACCEPTS_MS
    if row.automatic and row.state in campaign.OPEN and accepts_until > work.now:
        instants.append(accepts_until)
    return min(instants, default=0)


def _about(row: CampaignRow, device_id: str, attempt: int) -> dict[str, object]:
    return {"campaign": row.campaign_id, "device": device_id, "attempt": attempt}
