"""A fleet's figures, as metrics show them: kept by the rows that change, never by a scan.

A fleet's row has its sums; the keys of its expiry index have the ends of its members' certificates.
The days of the index are counted as keys come and go, and the first key gives the least. Campaigns
are counted by state as their rows change, until they have ended.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from schemas.fleet_states import CampaignRow, FleetRow
from streams.core import campaign, health, ring, statistics
from streams.core.windows import DAY_MS

FLEETS, EXPIRIES, CAMPAIGNS = b"fleet:", b"expiry:", b"campaign:"
UNENDED = (*campaign.OPEN, campaign.ENDING)


@dataclass(frozen=True, slots=True)
class FleetFigures:
    """One fleet at the end of a batch.

    `days` counts certificates by the day of their end, `campaigns` those not ended by state.
    `first_not_after_at` is zero where no member has a certificate. Several fleets add up.
    """

    fleets: int = 1
    devices: int = 0
    connected: int = 0
    degraded: int = 0
    silent: int = 0
    gone: int = 0
    confirmed: int = 0
    not_after_sum_seconds: int = 0
    first_not_after_at: int = 0
    rotations: int = 0
    finished: int = 0
    failed: int = 0
    window_finished: int = 0
    window_failed: int = 0
    latencies: tuple[int, ...] = ()
    in_work: int = 0
    days_before_expiry: int = 0
    error_rate_max: float = 0.0
    days: dict[int, int] = field(default_factory=dict)
    campaigns: dict[str, int] = field(default_factory=dict)

    def error_rate(self) -> float:
        """Return failed / finished of the open window, zero where there is too little to tell."""
        return self._breaches()[0].figure

    def latency_seconds(self) -> float:
        """Return the 95th percentile from command to reply, of the open window."""
        return self._breaches()[1].figure / 1000

    def days_mean(self, now: int) -> float | None:
        """Return the mean of the days until the certificates end; None where no time has come."""
        if not self.confirmed or not now:
            return None
        return (self.not_after_sum_seconds / self.confirmed * 1000 - now) / DAY_MS

    def days_least(self, now: int) -> float | None:
        """Return the days until the first certificate ends; None where no time has come."""
        if not self.first_not_after_at or not now:
            return None
        return (self.first_not_after_at - now) / DAY_MS

    def ending_within(self, days: int, now: int) -> int:
        """Return how many certificates end within so many days of today's midnight, UTC."""
        last = now // DAY_MS + days
        return sum(count for day, count in self.days.copy().items() if day < last)

    def _breaches(self) -> tuple[health.Breach, health.Breach]:
        return health.rates(self.window_finished, self.window_failed, self.latencies, 0.0, 0)


def of(
    row: FleetRow, first_not_after_at: int, days: dict[int, int], campaigns: dict[str, int]
) -> FleetFigures:
    """Return the figures of a fleet's row."""
    sums, base = statistics.total(row), row.window_base
    opened = bool(row.window_started_at)
    return FleetFigures(
        devices=row.members,
        connected=sums.connected,
        degraded=sums.degraded,
        silent=sums.silent,
        gone=sums.gone,
        confirmed=row.confirmed,
        not_after_sum_seconds=row.not_after_sum_seconds,
        first_not_after_at=first_not_after_at,
        rotations=sums.rotations,
        finished=sums.finished,
        failed=sums.failed,
        window_finished=sums.finished - base.finished if opened else 0,
        window_failed=sums.failed - base.failed if opened else 0,
        latencies=health.added(sums.latencies, base.latencies, -1) if opened else (),
        in_work=row.in_work,
        days_before_expiry=_days_before_expiry(row),
        error_rate_max=row.config.monitoring.alert_thresholds.error_rate,
        days=days,
        campaigns=campaigns,
    )


def together(all_of: Iterable[FleetFigures]) -> FleetFigures:
    """Return several fleets as one: sums, the first end of a certificate, the least threshold."""
    found = list(all_of)
    days: dict[int, int] = {}
    campaigns: Counter[str] = Counter()
    latencies: tuple[int, ...] = ()
    for one in found:
        campaigns.update(one.campaigns)
        latencies = health.added(latencies, one.latencies)
        for day, count in one.days.copy().items():
            days[day] = days.get(day, 0) + count
    summed = {
        name: sum(getattr(one, name) for one in found)
        for name in FleetFigures.__dataclass_fields__
        if name not in ("days", "latencies", "campaigns", *_NO_SUMS)
    }
    least = {
        name: min((getattr(one, name) for one in found if getattr(one, name)), default=0)
        for name in _NO_SUMS
    }
    return FleetFigures(
        **summed, **least, latencies=latencies, days=days, campaigns=dict(campaigns)
    )


class FleetView:
    """The figures of one partition's fleets, by fleet."""

    rows: tuple[bytes, ...] = (FLEETS, CAMPAIGNS)
    keys: tuple[bytes, ...] = (EXPIRIES,)

    def __init__(self) -> None:
        self.figures: dict[str, FleetFigures] = {}
        self._rows: dict[str, FleetRow] = {}
        self._days: dict[str, dict[int, int]] = {}
        self._campaigns: dict[str, dict[bytes, str]] = {}
        self._touched: set[str] = set()

    def row(self, key: bytes, row: FleetRow | CampaignRow | None) -> None:
        """Take the row of a fleet or of a campaign."""
        if key.startswith(CAMPAIGNS):
            assert not isinstance(row, FleetRow)
            self._campaign(key, row)
            return
        assert not isinstance(row, CampaignRow)
        fleet_id = key[len(FLEETS) :].decode()
        self._touched.add(fleet_id)
        if row is None:
            self._rows.pop(fleet_id, None)
        else:
            self._rows[fleet_id] = row

    def _campaign(self, key: bytes, row: CampaignRow | None) -> None:
        fleet_id = key[len(CAMPAIGNS) :].decode().split("/", 1)[0]
        self._touched.add(fleet_id)
        states = self._campaigns.setdefault(fleet_id, {})
        if row is not None and row.state in UNENDED:
            states[key] = row.state
        else:
            states.pop(key, None)

    def key(self, key: bytes, by: int) -> None:
        """Count a certificate by the day on which it ends."""
        fleet_id, instant, _ = key[len(EXPIRIES) :].decode().split("/", 2)
        self._touched.add(fleet_id)
        days, day = self._days.setdefault(fleet_id, {}), int(instant) // DAY_MS
        count = days.get(day, 0) + by
        if count:
            days[day] = count
        else:
            days.pop(day, None)

    def settle(self, first: Callable[[bytes], bytes | None]) -> None:
        """Show the fleets that have changed."""
        for fleet_id in self._touched:
            row = self._rows.get(fleet_id)
            if row is None:
                self.figures.pop(fleet_id, None)
                continue
            prefix = ring.expiries(fleet_id)
            key = first(prefix)
            first_at = 0 if key is None else ring.ready_at(key, prefix)
            days = self._days.setdefault(fleet_id, {})
            campaigns = Counter(self._campaigns.get(fleet_id, {}).values())
            self.figures[fleet_id] = of(row, first_at, days, dict(campaigns))
        self._touched.clear()


_NO_SUMS = ("first_not_after_at", "days_before_expiry", "error_rate_max")


def _days_before_expiry(row: FleetRow) -> int:
    rotation = row.config.cert_rotation
    return rotation.days_before_expiry if rotation.enabled else 0
