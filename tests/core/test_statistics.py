"""A fleet's statistics: sums of sums, windows, alerts."""

from schemas import fleet_events as events
from schemas.decisions import Decision
from schemas.fleet_states import FleetSums
from streams.core import health, statistics
from tests.helpers.fleets import CAUSE, DAY, FLEET, HOUR, NOON, Fleets, decided, refused


def report(fleets: Fleets, partition: int = 0, **figures: object) -> list[object]:
    """Report the sums of one partition."""
    sums = FleetSums(partition, **figures)  # type: ignore[arg-type]
    return fleets.add(events.FleetTotalsReported(FLEET, sums, CAUSE))


def checked(records: list[object]) -> dict[str, str]:
    """Return the values of the one health check."""
    (found,) = [one for one in records if isinstance(one, Decision) and one.name == "FleetChecked"]
    return found.values


def test_partitions_add_up() -> None:
    """The last sums of each partition count; the fleet says what they give."""
    fleets = Fleets().created().joined(["a"], NOON + 10 * DAY).joined(["b"], NOON + 20 * DAY)
    report(fleets, 0, connected=1, rotations=4)
    report(fleets, 1, connected=5, gone=1)
    report(fleets, 0, connected=2, degraded=1, rotations=5)
    values = checked(fleets.wait(health.WINDOW_MS))
    expected = {
        "devices": "2", "connected": "7", "degraded": "1", "gone": "1", "rotations": "5",
        "cert_days_least": "9", "cert_days_mean": "14",
    }  # fmt: skip
    assert {name: values[name] for name in expected} == expected


def test_only_what_came_in_the_window_is_judged() -> None:
    """What only grows counts by its difference; two breaches raise, two quiet windows clear."""
    fleets = Fleets().created()
    report(fleets, finished=1_000)
    assert checked(fleets.wait(health.WINDOW_MS))["error_rate"] == "0.0"
    report(fleets, finished=1_010, failed=5)
    assert checked(fleets.wait(health.WINDOW_MS))["error_rate"] == "0.5"
    report(fleets, finished=1_020, failed=10)
    said = fleets.wait(health.WINDOW_MS)
    assert ("AlertRaised", "error-rate") in decided(said)
    assert ("AlertCleared", "recovered") not in decided(fleets.wait(health.WINDOW_MS))
    assert ("AlertCleared", "recovered") in decided(fleets.wait(health.WINDOW_MS))


def test_latency_is_the_95th_percentile_of_the_window() -> None:
    """Over all partitions, against alertThresholds.latency."""
    fleets = Fleets().created()
    slow = tuple(one * 10 for one in health.with_latency((), 4_000))
    report(fleets, 0, latencies=slow)
    assert float(checked(fleets.wait(health.WINDOW_MS))["latency"]) > 1_000
    report(fleets, 1, latencies=slow)
    assert ("AlertRaised", "latency") in decided(fleets.wait(health.WINDOW_MS))


def test_a_quiet_fleet_costs_nothing() -> None:
    """No window is open where nothing was reported, or nothing new in one."""
    fleets = Fleets().created()
    assert fleets.stage.deadlines.first() == 0
    report(fleets, connected=3)
    fleets.wait(2 * health.WINDOW_MS)
    assert fleets.stage.deadlines.first() == 0
    assert fleets.wait(HOUR) == []
    assert statistics.due_at(fleets.fleet) == 0


def test_absurd_sums_are_refused() -> None:
    """More buckets than there are, more partitions than a fleet keeps."""
    fleets = Fleets().created()
    assert refused(report(fleets, latencies=(1,) * (health.BUCKETS + 1)))[0] == "malformed"
    for number in range(statistics.PARTITIONS_MAX):
        report(fleets, number)
    assert refused(report(fleets, statistics.PARTITIONS_MAX))[0] == "malformed"
