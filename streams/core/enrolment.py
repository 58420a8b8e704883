"""Who takes part in a campaign, and when each one's turn is.

Members are enrolled once, in the order of the ring from the campaign's origin, a bounded number per
step. Enrolling puts a device into a lane of the queue under the instant from which it is ready:
the place on the ring, mapped onto the open time of the campaign's span, so that a fleet issued in
the same second does not come in the same hour. A rotation that no window can serve before the
certificate ends goes to the lane `urgent`, which windows do not bind.
"""

from schemas.decisions import DecisionName
from schemas.fleet_states import CampaignRow, MemberRow, QueuedIn, QueueRow
from schemas.reasons import Reason
from schemas.records import changed
from streams.core import backoff, campaign, ring, windows
from streams.core.work import Work

ENROL_MAX = 200
"""Members looked at in one step."""
URGENT = "urgent"
MARGIN_MS = windows.DAY_MS
"""A rotation must begin so long before the certificate's end, or a tenth of its lifetime."""
DEFER_MS = 3_600_000


def enrol_some(work: Work, row: CampaignRow) -> CampaignRow:
    """Enrol the next members of a campaign that enrols by itself."""
    if row.enrolled_all:
        return row
    prefix = ring.members(work.fleet_id)
    origin = prefix + row.origin.encode()
    after, wrapped, complete, left = row.cursor or origin, row.wrapped, False, ENROL_MAX
    while left and not complete:
        found = work.rows.scan(prefix, after, left)
        for key, member in found:
            if wrapped and key >= origin:
                complete = True
                break
            row = enrol(work, row, member)
            after = key
        if len(found) < left and not complete:
            complete, wrapped, after = wrapped, True, prefix
        left -= len(found)
    row = changed(row, cursor=after, wrapped=wrapped, enrolled_all=complete)
    if complete:
        work.say(
            DecisionName.CAMPAIGN_CHANGED,
            Reason.NONE,
            {
                "campaign": row.campaign_id,
                "to": "all-enrolled",
                "passed_over": row.passed_over,
                **campaign.figures(row),
            },
        )
    return work.keep_campaign(row)


def enrol(work: Work, row: CampaignRow, member: MemberRow) -> CampaignRow:
    """Enrol one member if the campaign is for it and has not had it."""
    if not _meant(work, row, member):
        return changed(row, passed_over=row.passed_over + 1)
    group = campaign.group_for(row)
    row = changed(campaign.count(row, group, enrolled=1, queued=1), enrolled=row.enrolled + 1)
    waiting = QueueRow(member.device_id, group, 1, 0)
    row, member = _enqueue(work, row, member, waiting, _turn_at(work, row, member))
    work.keep_member(member)
    return row


def retry(work: Work, row: CampaignRow, member: MemberRow, group: int, attempt: int) -> CampaignRow:
    """Queue a device again after a failed attempt: later each time, with a derived jitter."""
    spec = row.spec
    wait = backoff.wait_ms(member.device_id, attempt - 1, spec.backoff_ms, spec.backoff_max_ms)
    row = campaign.count(row, group, queued=1)
    waiting = QueueRow(member.device_id, group, attempt, 0)
    row, member = _enqueue(work, row, member, waiting, work.now + wait)
    work.keep_member(member)
    return row


def put_off(
    work: Work, row: CampaignRow, member: MemberRow, key: bytes, waiting: QueueRow
) -> CampaignRow:
    """Let a device wait that is busy, until its order's deadline, or away, for DEFER_MS."""
    row, member = take(work, row, member, key)
    row = campaign.count(row, waiting.group, queued=1)
    if member.order is not None:
        at = member.order.deadline_at + 1
    else:
        at, waiting = work.now + DEFER_MS, changed(waiting, deferrals=waiting.deferrals + 1)
    row, member = _enqueue(work, row, member, waiting, at, held=True)
    work.keep_member(member)
    return row


def take(
    work: Work, row: CampaignRow, member: MemberRow, key: bytes
) -> tuple[CampaignRow, MemberRow]:
    """Take a device out of the queue; the caller counts it further and puts both rows."""
    waiting: QueueRow = work.rows.get(key)
    work.rows.delete(key)
    urgent = key.startswith(ring.lane(work.fleet_id, row.campaign_id, URGENT))
    row = changed(campaign.count(row, waiting.group, queued=-1), urgent=row.urgent - urgent)
    queued = tuple(one for one in member.queued if one.key != key)
    return row, changed(member, queued=queued, urgent_at=member.urgent_at if queued else 0)


def release(work: Work, member: MemberRow) -> MemberRow:
    """The device is free or back: where a campaign waited for it, it is ready at once."""
    for one in member.queued:
        row = work.campaign(one.campaign_id) if one.held else None
        waiting = work.rows.get(one.key)
        if row is None or waiting is None:
            continue
        row, member = take(work, row, member, one.key)
        row = campaign.count(row, waiting.group, queued=1)
        row, member = _enqueue(work, row, member, waiting, work.now)
        work.keep_campaign(row)
    return member


def leave_all(work: Work, member: MemberRow) -> MemberRow:
    """Take a member that leaves the fleet out of every queue; each counts it as dropped."""
    for one in member.queued:
        row = work.campaign(one.campaign_id)
        waiting = work.rows.get(one.key)
        if row is None or waiting is None:
            continue
        row, member = take(work, row, member, one.key)
        work.keep_campaign(campaign.count(row, waiting.group, dropped=1))
    return member


def make_urgent(work: Work, member: MemberRow) -> MemberRow:
    """The last window before the certificate's end has closed: windows bind no longer."""
    member = changed(member, urgent_at=0)
    for one in member.queued:
        row = work.campaign(one.campaign_id)
        waiting = work.rows.get(one.key)
        if row is None or waiting is None or row.spec.kind != campaign.ROTATION:
            continue
        if _is_urgent(work, one):
            continue
        row, member = take(work, row, member, one.key)
        row = campaign.count(row, waiting.group, queued=1)
        row, member = _enqueue(work, row, member, waiting, work.now, held=one.held)
        work.keep_campaign(row)
    return member


def clear_some(work: Work, row: CampaignRow) -> CampaignRow:
    """Take the next devices out of the queue of a campaign that ends."""
    prefix = ring.queue(work.fleet_id, row.campaign_id)
    for key, waiting in work.rows.scan(prefix, b"", ENROL_MAX):
        member = work.member(waiting.device_id)
        if member is None:
            work.rows.delete(key)
            continue
        row, member = take(work, row, member, key)
        row = campaign.count(row, waiting.group, dropped=1)
        work.keep_member(member)
    return work.keep_campaign(row)


def _meant(work: Work, row: CampaignRow, member: MemberRow) -> bool:
    spec = row.spec
    if not member.confirmed or any(one.campaign_id == row.campaign_id for one in member.queued):
        return False
    if member.order is not None and member.order.campaign_id == row.campaign_id:
        return False
    had = member.last is not None and member.last.campaign_id == row.campaign_id
    if had and spec.selection != campaign.NEARED:  # its next certificate nears its end, too
        return False
    if not spec.continuous and member.joined_at > row.started_at:
        return False
    if spec.selection == campaign.EXPIRING:
        return 0 < member.not_after_at <= work.now + spec.expiring_days * windows.DAY_MS
    return True


def _turn_at(work: Work, row: CampaignRow, member: MemberRow) -> int:
    """Return when a device is ready, by its place on the ring."""
    now = work.now
    span = row.spec.stagger_ms
    if row.automatic and work.fleet.config.cert_rotation.staggered:
        span = max(0, _must_begin_at(member) - now) // 2
    if not span:
        return now
    place = ring.distance(row.origin, member.device_id)
    begin = now if row.automatic else row.started_at
    window, zone = campaign.window(row, work.fleet)
    at = windows.spread(window, zone, begin, begin + span, place)
    at = at or begin + span * place // windows.RING
    if row.spec.kind == campaign.ROTATION and member.not_after_at:
        at = min(at, _must_begin_at(member))
    return max(now, at)


def _must_begin_at(member: MemberRow) -> int:
    lifetime = member.not_after_at - member.not_before_at
    return member.not_after_at - min(MARGIN_MS, max(0, lifetime // 10))


def _enqueue(
    work: Work,
    row: CampaignRow,
    member: MemberRow,
    waiting: QueueRow,
    ready_at: int,
    *,
    held: bool = False,
) -> tuple[CampaignRow, MemberRow]:
    """Put a device into its lane; the caller has counted it and puts both rows."""
    name, urgent_at = group_lane(waiting.group), 0
    if row.spec.kind == campaign.ROTATION and member.not_after_at and not row.spec.any_time:
        window, zone = campaign.window(row, work.fleet)
        must = _must_begin_at(member)
        urgent_at = windows.last_chance(window, zone, work.now, must) if must > work.now else 0
        if not urgent_at:
            name = URGENT
            row = changed(row, urgent=row.urgent + 1)
    prefix = ring.lane(work.fleet_id, row.campaign_id, name)
    key = ring.queue_key(prefix, ready_at, row.origin, member.device_id)
    work.rows.put(key, waiting)
    row = _lowered(row, name, waiting.group, prefix + ring.instant(ready_at))
    queued = (*member.queued, QueuedIn(row.campaign_id, key, held))
    earliest = min((one for one in (member.urgent_at, urgent_at) if one), default=0)
    return row, changed(member, queued=queued, urgent_at=earliest)


def group_lane(group: int) -> str:
    """Return the name of a group's lane."""
    return f"{group:02d}"


def floor(row: CampaignRow, name: str) -> bytes:
    """Return a key at or before which nobody waits in a lane."""
    return row.urgent_floor if name == URGENT else row.groups[int(name)].floor


def raised(row: CampaignRow, name: str, key: bytes) -> CampaignRow:
    """The first of a lane leaves it: nobody is left at or before its key."""
    if name == URGENT:
        return changed(row, urgent_floor=key)
    return campaign.with_group(row, int(name), floor=key)


def _lowered(row: CampaignRow, name: str, group: int, below: bytes) -> CampaignRow:
    """Somebody enters a lane: its floor lies below."""
    if below >= floor(row, name):
        return row
    if name == URGENT:
        return changed(row, urgent_floor=below)
    return campaign.with_group(row, group, floor=below)


def _is_urgent(work: Work, place: QueuedIn) -> bool:
    return place.key.startswith(ring.lane(work.fleet_id, place.campaign_id, URGENT))
