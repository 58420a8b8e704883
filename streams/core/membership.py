"""Fleets and who is in them: created, configured, rolled back; devices added, moved, removed.

Rules: a device is in one fleet. The device machine is the judge: a fleet asks with FleetAssigned,
the answer is MemberReported, and until it comes the member is not confirmed and takes part in
nothing. A fleet never has more members than maxDevices. A configuration is accepted whole or
refused whole; every accepted change is a version.
"""

from schemas import fleet_events as events
from schemas.decisions import DecisionName
from schemas.envelope import Cause, is_device_id, is_fleet_id
from schemas.fleet_orders import FleetAssigned, FleetUnassigned
from schemas.fleet_states import (
    ConfigVersion,
    ExpiryRow,
    FleetConfig,
    FleetHistoryRow,
    FleetRow,
    FleetSums,
    MemberRow,
    ZoneTable,
)
from schemas.reasons import Reason
from schemas.records import changed
from streams.core import campaign, dispatch, fleet_config, query, ring
from streams.core.rows import Rows
from streams.core.turn import Turn
from streams.core.windows import DAY_MS
from streams.core.work import Work, refuse

DEVICES_PER_EVENT_MAX = 300
"""Devices that one FleetCreated may bring; more come as DeviceAdded."""
VERSIONS_MAX = 32
"""Configuration versions that a fleet remembers."""
NAME_CHARACTERS_MAX = 256
OPERATOR, QUERY = "operator", "query"
_TOLD_BY_DEVICES = (Reason.MOVED, Reason.DEVICE_RETIRED, Reason.REPLACED)
"""Why the device machine has let a device leave by itself."""


def create(turn: Turn, rows: Rows, event: events.FleetCreated) -> Work | None:
    """Make a fleet, or say why not."""
    fleet_id = event.fleet_id
    if rows.get(ring.fleet_key(fleet_id)) is not None:
        refuse(turn, fleet_id, Reason.FLEET_EXISTS, "FleetCreated")
        return None
    work = Work(turn, rows, _empty(turn, event))
    wrong = _objection(event)
    config, overrides = None, "{}"
    if not wrong:
        config, overrides, wrong = _configured(work, "{}", event.config, event.zone)
    if config is None:
        refuse(turn, fleet_id, Reason.INVALID_CONFIG, "FleetCreated", wrong)
        return None
    if len(set(event.devices)) > config.max_devices:
        detail = f"{len(event.devices)} devices, maxDevices is {config.max_devices}"
        refuse(turn, fleet_id, Reason.FLEET_FULL, "FleetCreated", detail)
        return None
    _accept(work, config, overrides, event.config, event.zone, event.actor)
    work.say(
        DecisionName.FLEET_ACCEPTED,
        Reason.ORDERED,
        {"name": event.name, "actor": event.actor, "devices": len(event.devices)},
    )
    for device_id in event.devices:
        add(work, device_id, OPERATOR)
    return work


def change_config(work: Work, event: events.FleetConfigChanged) -> None:
    """Merge a patch into the fleet's configuration, or say why not."""
    version = work.fleet.config_version
    if event.expected_version and event.expected_version != version:
        detail = f"expected version {event.expected_version}, it is {version}"
        work.refuse(Reason.VERSION_CONFLICT, "FleetConfigChanged", detail)
        return
    _change(work, _overrides(work), event.patch, event.zone, event.actor)


def roll_back(work: Work, event: events.FleetConfigRolledBack) -> None:
    """Set the configuration to what it was at a version; this is a new version."""
    history: FleetHistoryRow | None = work.rows.get(ring.history_key(work.fleet_id))
    for one in history.versions if history else ():
        if one.version == event.version:
            _change(work, "{}", one.overrides, event.zone, event.actor)
            return
    detail = f"version {event.version}; the last {VERSIONS_MAX} are kept"
    work.refuse(Reason.UNKNOWN_VERSION, "FleetConfigRolledBack", detail)


def change_query(work: Work, event: events.MembershipChanged) -> None:
    """Set which devices the fleet takes by itself. Members stay until they are removed."""
    wrong = query.objection(event.membership)
    if wrong:
        work.refuse(Reason.INVALID_CONFIG, "MembershipChanged", wrong)
        return
    work.fleet = changed(work.fleet, membership=event.membership)
    values = {"membership": event.membership, "actor": event.actor}
    work.say(DecisionName.FLEET_CONFIG_ACCEPTED, Reason.ORDERED, values)
    work.tell_devices()


def inherit(work: Work) -> None:
    """Take what all fleets inherit, where that has changed since the fleet last looked."""
    defaults = work.defaults()
    if defaults.number == work.fleet.defaults_number:
        return
    zone = work.fleet.zone
    fleet = changed(work.fleet, defaults_number=defaults.number)
    try:
        config = fleet_config.resolved(defaults.overrides, _overrides(work))
    except fleet_config.Objection:  # a window whose start is inherited and whose end is its own
        config = fleet.config
    name = config.update_policy.time_window.time_zone
    if defaults.zone is not None and defaults.zone.zone == name:
        zone = defaults.zone
    work.fleet = changed(fleet, config=config, zone=zone)
    work.tell_devices()


def add(work: Work, device_id: str, source: str, from_fleet_id: str = "") -> None:
    """Take a device into the fleet if there is room; the device machine has the last word."""
    fleet = work.fleet
    if not is_device_id(device_id):
        work.refuse(Reason.MALFORMED, "DeviceAdded", f"{device_id[:80]!r} is no device id")
        return
    if work.member(device_id) is not None:
        work.refuse(Reason.REPEATED, "DeviceAdded", device_id)
        return
    if fleet.members >= fleet.config.max_devices:
        detail = f"{device_id}: maxDevices is {fleet.config.max_devices}"
        work.refuse(Reason.FLEET_FULL, "DeviceAdded", detail)
        return
    work.fleet = changed(fleet, members=fleet.members + 1)
    work.keep_member(
        MemberRow(
            fleet_id=fleet.fleet_id,
            device_id=device_id,
            applied_offset=-1,
            next_due_at=0,
            joined_at=work.now,
            confirmed=False,
            source=source,
            not_before_at=0,
            not_after_at=0,
            urgent_at=0,
            health="",
            health_reason="",
            queued=(),
            order=None,
            last=None,
        )
    )
    cause = work.cause()
    assert cause is not None
    work.to_device(FleetAssigned(device_id, fleet.fleet_id, from_fleet_id, cause))


def removed(work: Work, event: events.DeviceRemoved) -> None:
    """Let a device go: an operator's wish, or the device machine's word, which need not be told."""
    known = reason_of(event.reason)
    if known is Reason.UNMATCHED:
        member = work.member(event.device_id)
        if member is not None and member.source == QUERY:
            remove(work, event.device_id, known, tell=True)
    elif known in _TOLD_BY_DEVICES:
        remove(work, event.device_id, known, tell=False)
    else:
        remove(work, event.device_id, Reason.ORDERED, tell=True)


def remove(work: Work, device_id: str, reason: Reason, *, tell: bool) -> None:
    """Let a device go, out of every campaign too; `tell` the device machine."""
    member = work.member(device_id)
    if member is None:
        work.refuse(Reason.NOT_A_MEMBER, "DeviceRemoved", device_id)
        return
    dispatch.dropped(work, member)
    work.rows.delete(ring.member_key(work.fleet_id, device_id))
    _count(work, member, None)
    work.fleet = changed(work.fleet, members=work.fleet.members - 1)
    work.say(DecisionName.MEMBER_LEFT, reason, {"device": device_id})
    if tell:
        cause = work.cause()
        assert cause is not None
        work.to_device(FleetUnassigned(device_id, work.fleet_id, cause, reason.value))
    dispatch.advance(work)


def reported(work: Work, event: events.MemberReported) -> None:
    """The device machine agreed, refused, or told of another certificate."""
    member = work.member(event.device_id)
    if member is None:
        if event.accepted:
            _let_go(work, event.device_id, event.cause)
        return
    if not event.accepted:
        remove(work, event.device_id, reason_of(event.reason), tell=False)
        return
    after = changed(
        member,
        confirmed=True,
        not_before_at=event.not_before_at,
        not_after_at=event.not_after_at,
    )
    _count(work, member, after)
    work.keep_member(after)
    if member.confirmed:
        if after.not_after_at != member.not_after_at:
            days = (after.not_after_at - work.now) // DAY_MS
            values = {"device": event.device_id, "not_after_at": after.not_after_at, "days": days}
            work.say(DecisionName.CERTIFICATE_PROVEN, Reason.PROVEN_IN_USE, values)
        return
    reason = Reason.MATCHED if member.source == QUERY else Reason.ORDERED
    work.say(DecisionName.MEMBER_ADDED, reason, {"device": event.device_id})
    for ref in work.fleet.campaigns:
        row = work.campaign(ref.campaign_id)
        if row is None or not row.started_at or row.state not in campaign.OPEN:
            continue
        if row.spec.continuous and row.spec.selection != campaign.NEARED:
            dispatch.enrol_late(work, row, event.device_id)
    dispatch.advance(work)


def _count(work: Work, before: MemberRow, after: MemberRow | None) -> None:
    """Keep the sums over confirmed members and their order of expiry."""
    fleet = work.fleet
    old = before.not_after_at if before.confirmed else 0
    new = after.not_after_at if after else 0
    if old != new:
        if old:
            work.rows.delete(ring.expiry_key(fleet.fleet_id, old, before.device_id))
        if new:
            row = ExpiryRow(before.device_id)
            work.rows.put(ring.expiry_key(fleet.fleet_id, new, before.device_id), row)
    work.fleet = changed(
        fleet,
        confirmed=fleet.confirmed + (after is not None) - before.confirmed,
        not_after_sum_seconds=fleet.not_after_sum_seconds - old // 1000 + new // 1000,
    )


def _let_go(work: Work, device_id: str, answers: Cause) -> None:
    cause = work.cause(answers)
    if cause is not None:
        work.to_device(FleetUnassigned(device_id, work.fleet_id, cause))


def _change(work: Work, base: str, patch: str, zone: ZoneTable | None, actor: str) -> None:
    config, overrides, wrong = _configured(work, base, patch, zone)
    if config is None:
        work.refuse(Reason.INVALID_CONFIG, "FleetConfigChanged", wrong)
        return
    _accept(work, config, overrides, patch, zone, actor)
    dispatch.advance(work)


def _configured(
    work: Work, base: str, patch: str, zone: ZoneTable | None
) -> tuple[FleetConfig | None, str, str]:
    """Return the configuration, the fleet's own part of it, and what is wrong with it."""
    defaults = work.defaults()
    try:
        overrides = fleet_config.patched(base, patch)
        config = fleet_config.resolved(defaults.overrides, overrides)
    except fleet_config.Objection as error:
        return None, base, str(error)
    known = tuple(one for one in (zone, work.fleet.zone, defaults.zone) if one is not None)
    missing = fleet_config.zone_missing(config, known)
    if missing:
        return (
            None,
            base,
            (f"updatePolicy.timeWindow.timeZone is {missing!r}: no table of its offsets came"),
        )
    wrong = campaign.zone_objection(zone)
    return (None, base, wrong) if wrong else (config, overrides, "")


def _accept(
    work: Work,
    config: FleetConfig,
    overrides: str,
    patch: str,
    zone: ZoneTable | None,
    actor: str,
) -> None:
    fleet, defaults = work.fleet, work.defaults()
    version = fleet.config_version + 1
    name = config.update_policy.time_window.time_zone
    tables = [one for one in (zone, fleet.zone, defaults.zone) if one and one.zone == name]
    work.fleet = changed(
        fleet,
        config=config,
        config_version=version,
        zone=tables[0] if tables else None,
        defaults_number=defaults.number,
    )
    key = ring.history_key(work.fleet_id)
    history: FleetHistoryRow = work.rows.get(key) or FleetHistoryRow(work.fleet_id, -1, 0, ())
    made = ConfigVersion(version, patch, overrides, actor, work.now)
    versions = (*history.versions, made)[-VERSIONS_MAX:]
    work.rows.put(key, changed(history, versions=versions))
    values = {"version": version, "patch": patch, "actor": actor}
    work.say(DecisionName.FLEET_CONFIG_ACCEPTED, Reason.ORDERED, values)
    work.tell_devices()


def _overrides(work: Work) -> str:
    history: FleetHistoryRow | None = work.rows.get(ring.history_key(work.fleet_id))
    return history.versions[-1].overrides if history and history.versions else "{}"


def _objection(event: events.FleetCreated) -> str:
    if not is_fleet_id(event.fleet_id):
        return f"fleet id {event.fleet_id[:80]!r}: letters, digits, '.', '_', '-', at most 64"
    if len(event.name) > NAME_CHARACTERS_MAX:
        return f"the name has {len(event.name)} characters, at most {NAME_CHARACTERS_MAX}"
    if len(event.tags) > query.TAGS_MAX or not all(query.is_tag(one) for one in event.tags):
        return f"tags: at most {query.TAGS_MAX}, each a name or name=value"
    if len(event.devices) > DEVICES_PER_EVENT_MAX:
        return f"{len(event.devices)} devices at once, at most {DEVICES_PER_EVENT_MAX}"
    return query.objection(event.membership)


def _empty(turn: Turn, event: events.FleetCreated) -> FleetRow:
    return FleetRow(
        fleet_id=event.fleet_id,
        applied_offset=-1,
        next_due_at=0,
        name=event.name,
        tags=event.tags,
        membership=event.membership,
        created_at=turn.now,
        config=FleetConfig(),
        config_version=0,
        defaults_number=0,
        zone=None,
        members=0,
        confirmed=0,
        not_after_sum_seconds=0,
        in_work=0,
        campaigns=(),
        campaigns_ended=(),
        campaign_counter=0,
        sums=(),
        window_started_at=0,
        window_base=FleetSums(-1),
        watches=(),
    )


def reason_of(text: str) -> Reason:
    """Return the Reason of this value, NONE where it is not in the list."""
    try:
        return Reason(text)
    except ValueError:
        return Reason.NONE
