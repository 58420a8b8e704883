"""One campaign by itself: its states, its groups, its counts, and when it halts or goes on.

    planned → running ⇄ gated, paused, halted → ending → completed, aborted, expired

`MOVES` is the table that the docs' diagram is drawn from; `enter` allows no other move. Devices in
work always finish: pausing and halting stop new orders only, and a campaign that ends waits in
`ending` until nobody is in work and the queue is empty. Every campaign has a last instant.
"""

from dataclasses import fields

from schemas.artefact import Artefact
from schemas.decisions import DecisionName, Severity
from schemas.envelope import is_fleet_id
from schemas.fleet_states import (
    CampaignGroup,
    CampaignRow,
    CampaignSpec,
    FleetRow,
    GroupCounts,
    MemberOrder,
    TimeWindow,
    ZoneTable,
)
from schemas.reasons import Reason
from schemas.records import changed
from streams.core import ring, windows
from streams.core.policy import SPAN_MAX_MS
from streams.core.work import Work

GROUPS_MAX = 20
BATCH_MAX = 10_000
ATTEMPTS_MAX = 20
RATE_MAX = 100_000
OFFSETS_MAX = 256
DEFERRALS_MAX = 3
"""How often a device that is away is put off before it is ordered all the same."""

PLANNED = "planned"
RUNNING = "running"
GATED = "gated"
PAUSED = "paused"
HALTED = "halted"
ENDING = "ending"
COMPLETED = "completed"
ABORTED = "aborted"
EXPIRED = "expired"

MOVES: dict[str, frozenset[str]] = {
    PLANNED: frozenset({RUNNING, PAUSED, ENDING}),
    RUNNING: frozenset({GATED, PAUSED, HALTED, ENDING}),
    GATED: frozenset({RUNNING, PAUSED, HALTED, ENDING}),
    PAUSED: frozenset({PLANNED, RUNNING, ENDING}),
    HALTED: frozenset({RUNNING, PAUSED, ENDING}),
    ENDING: frozenset({COMPLETED, ABORTED, EXPIRED}),
}
OPEN = (PLANNED, RUNNING, GATED, PAUSED, HALTED)
ORDERING = (RUNNING, GATED)
"""States in which devices are ordered."""

SUCCEEDED = "succeeded"
FAILED = "failed"
TIMED_OUT = "timed-out"
OUTCOMES = (SUCCEEDED, FAILED, TIMED_OUT)

ROTATION = "rotation"
UPDATE = "update"
ALL, EXPIRING, NEARED = "all", "expiring", "neared"

LIMITS: dict[str, tuple[int, int]] = {
    "batch_size": (0, BATCH_MAX),
    "finished_min": (1, 1_000_000),
    "attempts_max": (1, ATTEMPTS_MAX),
    "expiring_days": (0, 36_500),
    "priority": (-1_000_000, 1_000_000),
    "start_at": (0, 1 << 53),
    "stagger_ms": (0, windows.SPREAD_MAX_MS),
    "backoff_ms": (1, SPAN_MAX_MS),
    "backoff_max_ms": (1, SPAN_MAX_MS),
    "order_within_ms": (1_000, SPAN_MAX_MS),
    "end_after_ms": (1_000, SPAN_MAX_MS),
}


def enter(work: Work, row: CampaignRow, state: str, reason: Reason) -> CampaignRow:
    """Move the campaign to a state; say so, loudly where it halts."""
    assert state in MOVES[row.state], f"{row.state} → {state}"
    work.say(
        DecisionName.CAMPAIGN_CHANGED,
        reason,
        {"campaign": row.campaign_id, "from": row.state, "to": state, **figures(row)},
        Severity.CRITICAL if state == HALTED else Severity.INFO,
    )
    return changed(row, state=state, reason=reason.value, waits="")


def end(work: Work, row: CampaignRow, ends_as: str, reason: Reason) -> CampaignRow:
    """Begin the campaign's end: nobody new is ordered, the queue is cleared."""
    if row.state not in OPEN:
        return row
    return changed(enter(work, row, ENDING, reason), ends_as=ends_as)


def in_work(row: CampaignRow) -> int:
    """Return how many devices are in work."""
    return sum(one.in_work for one in row.groups)


def queued(row: CampaignRow) -> int:
    """Return how many devices wait."""
    return sum(one.queued for one in row.groups)


def succeeded(row: CampaignRow) -> int:
    """Return how many devices succeeded."""
    return sum(one.succeeded for one in row.groups)


def failed(row: CampaignRow) -> int:
    """Return how many devices failed; one that timed out has failed."""
    return sum(one.failed + one.timed_out for one in row.groups)


def figures(row: CampaignRow) -> dict[str, object]:
    """Return the campaign's counts, for decisions."""
    return {
        "enrolled": row.enrolled,
        "queued": queued(row),
        "in_work": in_work(row),
        "succeeded": succeeded(row),
        "failed": failed(row),
    }


def count(row: CampaignRow, group: int, **by: int) -> CampaignRow:
    """Return the campaign with counts of one group changed by so much."""
    one = row.groups[group]
    return with_group(
        row, group, **{name: getattr(one, name) + delta for name, delta in by.items()}
    )


def progressed(row: CampaignRow, known: str, said: str) -> CampaignRow:
    """Return the campaign with a device in work moved on from a word to another, empty for none."""
    by = {one: (one == said) - (one == known) for one in (said, known) if one}
    counts = {name: getattr(row.progress_counts, name) + delta for name, delta in by.items()}
    return changed(row, progress_counts=changed(row.progress_counts, **counts))


def out_of_work(row: CampaignRow, order: MemberOrder) -> CampaignRow:
    """Return the campaign with the device of an order no longer in work; it is counted further."""
    return progressed(count(row, order.group, in_work=-1), order.progress, "")


def with_group(row: CampaignRow, group: int, **values: int | bytes) -> CampaignRow:
    """Return the campaign with some fields of one group changed."""
    one = changed(row.groups[group], **values)
    return changed(row, groups=(*row.groups[:group], one, *row.groups[group + 1 :]))


def group_for(row: CampaignRow) -> int:
    """Return the group of the device that is enrolled next: the first with room, else the last."""
    for number, one in enumerate(row.groups):
        if one.enrolled < one.size:
            return number
    return len(row.groups) - 1


def planned_groups(spec: CampaignSpec, members: int) -> tuple[GroupCounts, ...]:
    """Return the groups' sizes, and a last one of the rest. A percentage is rounded up."""
    left, groups = members, []
    for one in spec.groups:
        wanted = one.count or -(-members * one.percent // 100)
        size = min(left, wanted)
        left -= size
        groups.append(GroupCounts(size))
    return (*groups, GroupCounts(left))


def may_begin(row: CampaignRow, group: int, automatic: bool) -> bool:
    """Tell whether a group needs no person, or a person has let it begin."""
    specs = row.spec.groups
    needs = (group < len(specs) and specs[group].gate) or (group == 0 and not automatic)
    return not needs or row.gate_group >= group


def threshold_reached(row: CampaignRow) -> bool:
    """Tell whether the open groups have succeeded enough for the next one to open."""
    number = row.group
    one, size = row.groups[number], group_size(row, number)
    return one.succeeded >= row.spec.groups[number].success_threshold * size


def group_size(row: CampaignRow, number: int) -> int:
    """Return how many devices a group has: as planned until all are enrolled, less who left."""
    one = row.groups[number]
    whole = one.enrolled if row.enrolled_all else max(one.size, one.enrolled)
    return whole - one.dropped


def group_is_over(row: CampaignRow, number: int) -> bool:
    """Tell whether nobody of a group waits, is in work or is still to come."""
    one = row.groups[number]
    complete = row.enrolled_all or one.enrolled >= one.size
    return complete and not one.queued and not one.in_work


def must_halt(row: CampaignRow, fleet: FleetRow) -> bool:
    """Tell whether failed / finished is above the threshold, with enough finished to tell."""
    failures = failed(row) - row.forgiven_failed
    finished = succeeded(row) + failed(row) - row.forgiven_finished
    threshold = row.spec.failure_threshold
    if threshold < 0:
        threshold = fleet.config.update_policy.failure_threshold
    return finished >= row.spec.finished_min and failures > threshold * finished


def forgive(row: CampaignRow) -> CampaignRow:
    """Take what has failed so far out of the failure rate."""
    finished = succeeded(row) + failed(row)
    return changed(row, forgiven_finished=finished, forgiven_failed=failed(row))


def batch_size(row: CampaignRow, fleet: FleetRow) -> int:
    """Return how many devices the campaign may have in work."""
    whole = fleet.config.update_policy.batch_size
    return min(whole, row.spec.batch_size or whole)


def per_minute(row: CampaignRow) -> int:
    """Return the rate as it has grown, zero for no limit."""
    rate = row.spec.rate
    now = rate.per_minute
    if not now or not rate.grow_every or rate.growth_percent <= 100:
        return now
    most = rate.per_minute_max or RATE_MAX
    for _ in range(succeeded(row) // rate.grow_every):
        if now >= most:
            break
        now = max(now + 1, now * rate.growth_percent // 100)
    return min(now, most)


def window(row: CampaignRow, fleet: FleetRow) -> tuple[TimeWindow, ZoneTable]:
    """Return the window that binds the campaign, and its zone."""
    if row.spec.any_time:
        return windows.ALWAYS, windows.UTC
    if row.spec.window is not None:
        return row.spec.window, row.zone or windows.UTC
    return fleet.config.update_policy.time_window, fleet.zone or windows.UTC


def new(
    work: Work,
    campaign_id: str,
    spec: CampaignSpec,
    zone: ZoneTable | None,
    actor: str,
    *,
    automatic: bool = False,
) -> CampaignRow:
    """Return a campaign that is planned."""
    start_at = max(work.now, spec.start_at)
    return CampaignRow(
        fleet_id=work.fleet_id,
        campaign_id=campaign_id,
        applied_offset=-1,
        next_due_at=start_at,
        spec=spec,
        zone=zone,
        automatic=automatic,
        actor=actor,
        state=PLANNED,
        reason=Reason.ORDERED.value,
        waits="",
        ends_as="",
        ordered_at=work.now,
        started_at=0,
        ended_at=0,
        end_at=start_at + spec.end_after_ms,
        origin=f"{ring.place(f'{work.fleet_id}/{campaign_id}'):016x}",
        cursor=b"",
        wrapped=False,
        enrolled_all=False,
        enrolled=0,
        passed_over=0,
        group=-1,
        gate_group=-1,
        groups=(),
        urgent=0,
        urgent_floor=b"",
        next_order_at=0,
        orders=0,
        forgiven_finished=0,
        forgiven_failed=0,
        continuing=False,
        duration_sum_ms=0,
    )


def objection(campaign_id: str, spec: CampaignSpec, zone: ZoneTable | None) -> str:
    """Return what is wrong with a campaign, empty where nothing is."""
    if not is_fleet_id(campaign_id):
        return f"campaign id {campaign_id!r}: letters, digits, '.', '_', '-', at most 64"
    if spec.kind not in (ROTATION, UPDATE):
        return f"kind is {spec.kind!r}, expected rotation or update"
    if (spec.kind == UPDATE) is not (spec.artefact is not None):
        return "an update needs an artefact, a rotation has none"
    if spec.selection not in (ALL, EXPIRING, NEARED):
        return f"selection is {spec.selection!r}, expected all, expiring or neared"
    for name, (least, most) in LIMITS.items():
        if not least <= getattr(spec, name) <= most:
            return f"{name} is {getattr(spec, name)}, not within {least} to {most}"
    if spec.failure_threshold > 1 or spec.failure_threshold != spec.failure_threshold:
        return f"failure_threshold is {spec.failure_threshold}, not within 0 to 1"
    return (
        _groups_objection(spec.groups)
        or _rate_objection(spec)
        or _window_objection(spec.window, zone)
        or _artefact_objection(spec.artefact)
    )


def zone_objection(zone: ZoneTable | None) -> str:
    """Return what is wrong with a table of offsets, empty where nothing is."""
    if zone is None:
        return ""
    starts = [one.from_at for one in zone.offsets]
    if len(starts) > OFFSETS_MAX or starts != sorted(set(starts)):
        return f"the offsets of {zone.zone} are not at most {OFFSETS_MAX} in order"
    if any(abs(one.offset_ms) > 2 * windows.DAY_MS for one in zone.offsets):
        return f"an offset of {zone.zone} is more than two days"
    return ""


def _groups_objection(groups: tuple[CampaignGroup, ...]) -> str:
    if len(groups) > GROUPS_MAX:
        return f"{len(groups)} groups, at most {GROUPS_MAX}"
    for number, one in enumerate(groups):
        if (one.percent == 0) is (one.count == 0) or not 0 <= one.percent <= 100 or one.count < 0:
            return f"group {number}: either a percentage of 1 to 100 or a count"
        if not 0 <= one.success_threshold <= 1:
            return f"group {number}: success_threshold is not within 0 to 1"
    return ""


def _rate_objection(spec: CampaignSpec) -> str:
    for one in fields(spec.rate):
        if not 0 <= getattr(spec.rate, one.name) <= RATE_MAX:
            return f"rate.{one.name} is not within 0 to {RATE_MAX}"
    return ""


def _window_objection(window: TimeWindow | None, zone: ZoneTable | None) -> str:
    if window is None:
        return ""
    inside = 0 <= window.start_minute < 1_440 and 0 <= window.end_minute <= 1_440
    if not inside or window.start_minute == window.end_minute:
        return "window: start and end are not two different times of a day"
    if not window.days or any(not 0 <= one <= 6 for one in window.days):
        return "window: no days, or days outside 0 to 6"
    if window.time_zone != "UTC" and (zone is None or zone.zone != window.time_zone):
        return f"window: no table of offsets came with time zone {window.time_zone}"
    return zone_objection(zone)


def _artefact_objection(artefact: Artefact | None) -> str:
    if artefact is None:
        return ""
    if len(artefact.sha256) != 32:
        return f"artefact: the SHA-256 has {len(artefact.sha256)} bytes, not 32"
    if artefact.size < 0 or not artefact.version or not artefact.uri:
        return "artefact: size, version and uri are needed"
    return ""
