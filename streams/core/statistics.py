"""A fleet's statistics: sums of sums, judged per window of machine time.

Each partition of the device table reports its sums when they changed; the fleet keeps the last of
each. What only grows (finished, failed, latencies) is judged by its difference since the window
began. A window is open only while something happens or an alert is: a quiet fleet costs nothing.
"""

from schemas import fleet_events as events
from schemas.decisions import DecisionName, Severity
from schemas.fleet_states import FleetRow, FleetSums
from schemas.reasons import Reason
from schemas.records import changed
from schemas.states import Watch
from streams.core import health, ring
from streams.core.windows import DAY_MS
from streams.core.work import Work

PARTITIONS_MAX = 1_024
"""Partitions of the device table that a fleet keeps sums of."""


def reported(work: Work, event: events.FleetTotalsReported) -> None:
    """Keep the sums of one partition; a window begins where none is open."""
    fleet, sums = work.fleet, event.sums
    others = tuple(one for one in fleet.sums if one.partition != sums.partition)
    if len(others) >= PARTITIONS_MAX or len(sums.latencies) > health.BUCKETS:
        work.refuse(Reason.MALFORMED, "FleetTotalsReported", f"partition {sums.partition}")
        return
    if not fleet.window_started_at:
        fleet = changed(fleet, window_started_at=work.now, window_base=total(fleet))
    work.fleet = changed(fleet, sums=(*others, sums))


def due_at(fleet: FleetRow) -> int:
    """Return when the open window ends, zero where none is open."""
    return fleet.window_started_at + health.WINDOW_MS if fleet.window_started_at else 0


def close_window(work: Work) -> None:
    """Judge the window if its time is over, and say how the fleet is."""
    fleet = work.fleet
    if not fleet.window_started_at or work.now < due_at(fleet):
        return
    now, base = total(fleet), fleet.window_base
    finished, failed = now.finished - base.finished, now.failed - base.failed
    latencies = health.added(now.latencies, base.latencies, -1)
    limits = fleet.config.monitoring.alert_thresholds
    breaches = health.rates(finished, failed, latencies, limits.error_rate, limits.latency_ms)
    watches = tuple(_judged(work, one) for one in breaches)
    told = {**statistics(work), "finished": finished, "failed": failed}
    told |= {one.reason.value.replace("-", "_"): one.figure for one in breaches}
    work.say(DecisionName.FLEET_CHECKED, Reason.NONE, told)
    alive = now != base or any(one.raised_at or one.breaches for one in watches)
    work.fleet = changed(
        fleet,
        watches=tuple(one for one in watches if one.raised_at or one.breaches),
        window_started_at=work.now if alive else 0,
        window_base=now,
    )


def statistics(work: Work) -> dict[str, object]:
    """Return a fleet's figures: members by health, days to expiry (mean and least), rotations."""
    fleet, sums = work.fleet, total(work.fleet)
    figures: dict[str, object] = {
        "devices": fleet.members,
        "connected": sums.connected,
        "degraded": sums.degraded,
        "silent": sums.silent,
        "gone": sums.gone,
        "rotations": sums.rotations,
        "in_work": fleet.in_work,
    }
    first = work.rows.scan(ring.expiries(fleet.fleet_id), b"", 1)
    if first and fleet.confirmed:
        prefix = ring.expiries(fleet.fleet_id)
        least = ring.ready_at(first[0][0], prefix) - work.now
        mean = fleet.not_after_sum_seconds // fleet.confirmed * 1000 - work.now
        figures |= {"cert_days_least": least // DAY_MS, "cert_days_mean": mean // DAY_MS}
    return figures


def total(fleet: FleetRow) -> FleetSums:
    """Return the sums over all partitions."""
    made = FleetSums(-1)
    for one in fleet.sums:
        made = FleetSums(
            -1,
            made.connected + one.connected,
            made.degraded + one.degraded,
            made.silent + one.silent,
            made.gone + one.gone,
            made.finished + one.finished,
            made.failed + one.failed,
            made.rotations + one.rotations,
            health.added(made.latencies, one.latencies),
        )
    return made


def _judged(work: Work, breach: health.Breach) -> Watch:
    rule = breach.reason.value
    before = next((one for one in work.fleet.watches if one.rule == rule), Watch(rule, 0, 0, 0))
    after, what = health.judged(before, breached=breach.breached, now=work.now)
    if what == "raised":
        work.say(
            DecisionName.ALERT_RAISED,
            breach.reason,
            {"figure": breach.figure, "limit": breach.limit},
            Severity.WARNING,
            rule,
        )
    elif what == "cleared":
        work.say(DecisionName.ALERT_CLEARED, Reason.RECOVERED, {}, rule=rule)
    return after
