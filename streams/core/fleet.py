"""The fleet machine: composed of membership, campaign (enrolment, dispatch) and statistics.

Rules: an event of an unknown fleet changes nothing. Every choice is a decision with a reason. All
that waits for time waits by a deadline of its own row; nothing is scanned but a campaign's next
devices. A step's outputs are bounded; longer work goes on by CampaignContinued.
"""

from typing import assert_never, get_args

from schemas import fleet_events as events
from schemas.decisions import DecisionName, Severity
from schemas.fleet_states import (
    CampaignRef,
    CampaignRow,
    CampaignSpec,
    FleetDefaultsRow,
    FleetRow,
    MemberRow,
)
from schemas.reasons import Reason
from schemas.records import changed
from schemas.topics import FLEET_EVENTS
from streams.core import (
    campaign,
    dispatch,
    enrolment,
    fleet_config,
    membership,
    ring,
    statistics,
    windows,
)
from streams.core.rows import Rows
from streams.core.turn import Turn
from streams.core.wide import WideMachine
from streams.core.work import Work, refuse

CORE_VERSION = 1
"""Raised with every change of what a fold gives; an older worker refuses a newer history."""
CAMPAIGNS_MAX = 8
"""Open campaigns of one fleet."""
AUTOMATIC = "rotation"
"""Begins the ids of campaigns that start themselves; a number follows."""
ROTATION_PRIORITY = 100
ROTATION_ATTEMPTS = 5
ROTATION_BACKOFF_MS = 3_600_000


def step(turn: Turn, rows: Rows, event: events.FleetKeyed) -> None:
    """Answer one event."""
    if isinstance(event, events.FleetCreated):
        made = membership.create(turn, rows, event)
        if made is not None:
            _put(made)
        return
    row: FleetRow | None = rows.get(ring.fleet_key(event.fleet_id))
    if row is None:
        refuse(turn, event.fleet_id, Reason.UNKNOWN_FLEET, type(event).__name__)
        return
    work = Work(turn, rows, row)
    membership.inherit(work)
    if isinstance(event, OfCampaigns):
        _of_campaign(work, event)
    else:
        _of_members(work, event)
    _put(work)


def due(turn: Turn, rows: Rows, key: bytes) -> None:
    """Do what is due on one row: a fleet's window, a campaign, a member's deadline."""
    row = rows.get(key)
    if not isinstance(row, FleetRow | CampaignRow | MemberRow):
        return
    fleet = rows.get(ring.fleet_key(row.fleet_id))
    if fleet is None:
        return
    work = Work(turn, rows, fleet)
    membership.inherit(work)
    if isinstance(row, FleetRow):
        statistics.close_window(work)
    elif isinstance(row, MemberRow):
        _member_due(work, row)
    if not isinstance(row, FleetRow):
        dispatch.advance(work)
    _put(work)


def activate_defaults(turn: Turn, rows: Rows, event: events.FleetDefaultsActivated) -> None:
    """Let all fleets inherit a configuration; each takes it when it is next worked on."""
    before: FleetDefaultsRow = rows.get(ring.DEFAULTS_KEY) or FleetDefaultsRow()
    if event.number <= before.number:
        return
    subject = f"partition:{turn.position.partition}"
    try:
        overrides = fleet_config.patched("{}", event.config)
        config = fleet_config.resolved(overrides)
        wrong = campaign.zone_objection(event.zone)
        missing = fleet_config.zone_missing(config, (event.zone,) if event.zone else ())
        if wrong or missing:
            raise fleet_config.Objection(wrong or f"no table of offsets for {missing}")
    except fleet_config.Objection as error:
        turn.decide(
            DecisionName.EVENT_REFUSED,
            Reason.INVALID_CONFIG,
            subject,
            severity=Severity.WARNING,
            values={"what": "FleetDefaultsActivated", "detail": str(error)},
        )
        return
    rows.put(ring.DEFAULTS_KEY, FleetDefaultsRow(-1, 0, event.number, overrides, event.zone))


OfCampaigns = (
    events.CampaignOrdered
    | events.CampaignPaused
    | events.CampaignResumed
    | events.CampaignAborted
    | events.GateOpened
    | events.CampaignContinued
)
OfMembers = (
    events.FleetConfigChanged
    | events.FleetConfigRolledBack
    | events.MembershipChanged
    | events.DeviceAdded
    | events.DeviceMoved
    | events.DeviceRemoved
    | events.MemberReported
    | events.HealthReported
    | events.CertificateNeared
    | events.OrderEnded
    | events.OrderProgressed
    | events.FleetTotalsReported
)


def _of_members(work: Work, event: OfMembers) -> None:
    match event:
        case events.FleetConfigChanged():
            membership.change_config(work, event)
        case events.FleetConfigRolledBack():
            membership.roll_back(work, event)
        case events.MembershipChanged():
            membership.change_query(work, event)
        case events.DeviceAdded():
            membership.add(work, event.device_id, event.source)
        case events.DeviceMoved():
            membership.add(work, event.device_id, membership.OPERATOR, event.from_fleet_id)
        case events.DeviceRemoved():
            membership.removed(work, event)
        case events.MemberReported():
            membership.reported(work, event)
        case events.HealthReported():
            _health(work, event)
        case events.CertificateNeared():
            _neared(work, event)
        case events.OrderEnded() | events.OrderProgressed():
            _of_order(work, event)
        case events.FleetTotalsReported():
            statistics.reported(work, event)
        case _:
            assert_never(event)


def _of_campaign(work: Work, event: OfCampaigns) -> None:
    if isinstance(event, events.CampaignOrdered):
        _campaign_ordered(work, event)
        return
    row = work.campaign(event.campaign_id)
    what = type(event).__name__
    if row is None or row.state not in (*campaign.OPEN, campaign.ENDING):
        why = Reason.UNKNOWN_CAMPAIGN if row is None else Reason.WRONG_STATE
        work.refuse(why, what, event.campaign_id)
        return
    if isinstance(event, events.CampaignContinued):
        work.keep_campaign(changed(row, continuing=False))
    elif isinstance(event, events.GateOpened):
        if not 0 <= event.group < max(1, len(row.spec.groups) + 1):
            work.refuse(Reason.INVALID_CAMPAIGN, what, f"there is no group {event.group}")
            return
        work.keep_campaign(changed(row, gate_group=max(row.gate_group, event.group)))
    else:
        after = _moved(work, row, event)
        if after is None:
            work.refuse(Reason.WRONG_STATE, what, f"{row.campaign_id} is {row.state}")
            return
        work.keep_campaign(after)
    dispatch.advance(work)


def _moved(
    work: Work,
    row: CampaignRow,
    event: events.CampaignPaused | events.CampaignResumed | events.CampaignAborted,
) -> CampaignRow | None:
    """Return the campaign as a person wants it, None where its state does not allow that."""
    match event:
        case events.CampaignPaused():
            if row.state not in campaign.MOVES or campaign.PAUSED not in campaign.MOVES[row.state]:
                return None
            return campaign.enter(work, row, campaign.PAUSED, Reason.ORDERED)
        case events.CampaignAborted():
            if row.state not in campaign.OPEN:
                return None
            return campaign.end(work, row, campaign.ABORTED, Reason.ORDERED)
        case events.CampaignResumed():
            return _resumed(work, row)
        case _:
            assert_never(event)


def _resumed(work: Work, row: CampaignRow) -> CampaignRow | None:
    if row.state not in (campaign.PAUSED, campaign.HALTED):
        return None
    if not row.started_at:
        start_at = max(work.now, row.spec.start_at)
        row = campaign.enter(work, row, campaign.PLANNED, Reason.ORDERED)
        return changed(row, next_due_at=start_at)
    stuck = row.state == campaign.HALTED and row.reason == Reason.SUCCESS_THRESHOLD.value
    row = campaign.enter(work, campaign.forgive(row), campaign.RUNNING, Reason.ORDERED)
    return dispatch.force_open(work, row) if stuck else row


def _campaign_ordered(work: Work, event: events.CampaignOrdered) -> None:
    fleet = work.fleet
    wrong = campaign.objection(event.campaign_id, event.spec, event.zone)
    if event.spec.selection == campaign.NEARED:
        wrong = wrong or "selection neared is for campaigns that start themselves"
    if wrong:
        work.refuse(Reason.INVALID_CAMPAIGN, "CampaignOrdered", wrong)
    elif work.campaign(event.campaign_id) is not None:
        work.refuse(Reason.CAMPAIGN_EXISTS, "CampaignOrdered", event.campaign_id)
    elif len(fleet.campaigns) >= CAMPAIGNS_MAX:
        detail = f"{CAMPAIGNS_MAX} campaigns are open"
        work.refuse(Reason.TOO_MANY_CAMPAIGNS, "CampaignOrdered", detail)
    else:
        _add(work, campaign.new(work, event.campaign_id, event.spec, event.zone, event.actor))
        dispatch.advance(work)


def _add(work: Work, row: CampaignRow) -> None:
    """Open a campaign, behind those of the same priority."""
    work.keep_campaign(row)
    ref = CampaignRef(row.campaign_id, row.spec.priority, row.automatic)
    refs = sorted((*work.fleet.campaigns, ref), key=lambda one: -one.priority)
    work.fleet = changed(work.fleet, campaigns=tuple(refs))
    values = {"campaign": row.campaign_id, "to": row.state, "kind": row.spec.kind}
    why = Reason.NEAR_EXPIRY if row.automatic else Reason.ORDERED
    work.say(DecisionName.CAMPAIGN_CHANGED, why, values)


def _neared(work: Work, event: events.CertificateNeared) -> None:
    """A certificate nears its end: the fleet's automatic campaign takes the device."""
    member = work.member(event.device_id)
    if member is None or not member.confirmed:
        work.refuse(Reason.NOT_A_MEMBER, "CertificateNeared", event.device_id)
        return
    days = (event.not_after_at - work.now) // windows.DAY_MS
    values = {"device": event.device_id, "days": days, "not_after_at": event.not_after_at}
    if not work.fleet.config.cert_rotation.enabled:
        name = DecisionName.CERTIFICATE_NEARED_EXPIRY
        work.say(name, Reason.ROTATION_DISABLED, values, Severity.WARNING)
        return
    work.say(DecisionName.CERTIFICATE_NEARED_EXPIRY, Reason.NEAR_EXPIRY, values)
    row = _automatic(work)
    if row is not None:
        last = event.not_after_at + row.spec.order_within_ms
        row = dispatch.enrol_late(work, row, event.device_id)
        work.keep_campaign(changed(row, end_at=max(row.end_at, last)))
    dispatch.advance(work)


def _automatic(work: Work) -> CampaignRow | None:
    """Return the automatic campaign that takes devices, a new one where there is none."""
    found = None
    for ref in work.fleet.campaigns:
        row = work.campaign(ref.campaign_id) if ref.automatic else None
        if row is None or row.state not in campaign.OPEN:
            continue
        found = row
        if work.now < row.ordered_at + dispatch.ACCEPTS_MS:
            return row
    if found is not None and len(work.fleet.campaigns) >= CAMPAIGNS_MAX:
        return found
    number = work.fleet.campaign_counter + 1
    while work.campaign(f"{AUTOMATIC}-{number}") is not None:  # an operator named one so
        number += 1
    work.fleet = changed(work.fleet, campaign_counter=number)
    spec = CampaignSpec(
        kind=campaign.ROTATION,
        selection=campaign.NEARED,
        attempts_max=ROTATION_ATTEMPTS,
        backoff_ms=ROTATION_BACKOFF_MS,
        backoff_max_ms=windows.DAY_MS,
        priority=ROTATION_PRIORITY,
        continuous=True,
    )
    row = campaign.new(work, f"{AUTOMATIC}-{number}", spec, None, "expiry watch", automatic=True)
    row = changed(row, reason=Reason.NEAR_EXPIRY.value)
    _add(work, row)
    dispatch.advance(work)
    return work.campaign(row.campaign_id)


def _of_order(work: Work, event: events.OrderEnded | events.OrderProgressed) -> None:
    """A device's word about its order in work; one that has ended is late."""
    member = work.member(event.device_id)
    order = member.order if member else None
    if member is None or order is None or order.order_id != event.order_id:
        work.refuse(Reason.LATE, type(event).__name__, f"{event.device_id} {event.order_id}")
        return
    if isinstance(event, events.OrderProgressed):
        dispatch.progressed(work, member, order, event.progress)
        return
    good = event.outcome == campaign.SUCCEEDED
    outcome = campaign.SUCCEEDED if good else campaign.FAILED
    dispatch.ended(work, member, outcome, membership.reason_of(event.reason))
    dispatch.advance(work)


def _member_due(work: Work, member: MemberRow) -> None:
    if member.order is not None and work.now >= member.order.deadline_at:
        dispatch.ended(work, member, campaign.TIMED_OUT, Reason.TIMED_OUT)
    elif member.urgent_at and work.now >= member.urgent_at:
        work.keep_member(enrolment.make_urgent(work, member))


def _health(work: Work, event: events.HealthReported) -> None:
    """Keep a member's health; one that is back is ready where a campaign had put it off."""
    member = work.member(event.device_id)
    if member is None:
        work.refuse(Reason.NOT_A_MEMBER, "HealthReported", event.device_id)
        return
    if member.health == event.health:
        return
    values = {"device": event.device_id, "from": member.health, "to": event.health}
    work.say(DecisionName.HEALTH_CHANGED, membership.reason_of(event.reason), values)
    back = member.health in dispatch.AWAY and event.health not in dispatch.AWAY
    member = changed(member, health=event.health, health_reason=event.reason)
    if back and member.order is None:
        work.keep_member(enrolment.release(work, member))
        dispatch.advance(work)
    else:
        work.keep_member(member)


def _put(work: Work) -> None:
    """Put the fleet's row back, woken at its own deadline."""
    key = ring.fleet_key(work.fleet_id)
    if work.rows.get(key) is not work.fleet:
        row = changed(work.fleet, next_due_at=statistics.due_at(work.fleet))
        work.rows.put(key, row)


MACHINE = WideMachine(
    topic=FLEET_EVENTS,
    version=CORE_VERSION,
    step=step,
    due=due,
    told=activate_defaults,
    subject=lambda event: str(event.fleet_id),
    keyed=frozenset(get_args(events.FleetKeyed)),
    broadcasts=frozenset({events.FleetDefaultsActivated}),
)
