"""A fleet's life on the stack, and what is shown of it: each promised metric by its value.

Beside the stack a real Prometheus runs with the rules of deploy/; every query of the dashboards and
of the rules is asked of it.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from client.demo import fleet as demo
from client.fleets import Fleets
from device.simulator import Plan, Simulator, behaviours
from schemas import codec
from schemas.decisions import Decision, DecisionName
from schemas.envelope import Evidence
from schemas.events import SessionOpened
from schemas.topics import DECISIONS, DEVICE_EVENTS, PARTITIONER
from streams.core import certificate
from streams.core.statistics import total
from tests.helpers.prometheus import Prometheus, prometheus
from tests.helpers.promql import DASHBOARDS, RULES, as_grafana_sends, asked, named, rules
from tests.helpers.scrape import Scrape, scrape
from tests.helpers.stack import RunningStack
from tests.helpers.wait import until

FLEET, PREFIX, COUNT = "dials", "dial", 3
DEVICES = [f"{PREFIX}-{number:05d}" for number in range(1, COUNT + 1)]
CONFIG = {
    "updatePolicy": {"batchSize": 1, "timeWindow": {"start": "00:00", "end": "24:00"}},
    "certRotation": {"staggered": False},
    "monitoring": {"metricsInterval": 1_000},
}
UPDATE = {
    "kind": "update",
    "artefact": {"version": "2", "uri": "https://updates/2", "sha256": "ab" * 32},
}
PIPELINE = {
    "IssuerAway",
    "IssuerQueueGrows",
    "RevocationListEnds",
    "WorkerLags",
    "TimeAhead",
    "WorkerAway",
    "WorkerStandsStill",
    "RecordsSetAside",
    "DeadlinesLate",
    "KafkaAway",
    "BrokerAway",
    "ProcessAway",
    "VolumeFull",
}
"""Alerts that a stack which is well does not raise, however its devices behave."""
DAY_SECONDS = 86_400
WITHIN = 90.0


def ports(stack: RunningStack) -> dict[str, int]:
    """Return the ports of all endpoints by job."""
    first = stack.layout.metrics_port
    return {
        "issuer": first,
        "coap": first + 5,
        "est": first + 6,
        "bridge": first + 10,
        "worker": first + 20,
        "supervisor": stack.layout.supervisor_port,
    }


def nobody_is_there(stack: RunningStack) -> bool:
    """Tell whether no device has a session over MQTT: what is counted from now on is ours."""
    rows = stack.fleet.devices().values()
    return not any(one.connected and one.door == "mqtt" for one in rows)


@asynccontextmanager
async def living(stack: RunningStack, directory: Path) -> AsyncIterator[Simulator]:
    """Let the devices live; all they said is recorded at the end."""
    ca = stack.layout.pki_dir / "service-ca" / "ca.pem"
    port = stack.layout.device_port
    plan = Plan(directory, "localhost", port, ca, COUNT, prefix=PREFIX)
    demo.enrol(stack.authorities, directory, behaviours(plan), stack.fleet, near_expiry=0)
    simulator = Simulator(plan)
    running = asyncio.create_task(simulator.run())
    try:
        yield simulator
    finally:
        simulator.stop()
        await running


def lives(stack: RunningStack, fleets: Fleets) -> None:
    """Become a fleet, rotate one after the other, refuse an update, and be impersonated."""
    worker = ports(stack)["worker"]
    fleets.create(FLEET, devices=tuple(DEVICES), config=CONFIG)
    until(
        lambda: scrape(worker).total("fleet_devices_connected", fleet=FLEET) == COUNT,
        within=WITHIN,
        describe="all members are shown as connected",
    )
    fleets.update_config(FLEET, {"certRotation": {"daysBeforeExpiry": 90}})
    until(
        lambda: all(stack.fleet.device(one).rotations == 1 for one in DEVICES),
        within=WITHIN,
        describe="all have rotated",
    )
    done = stack.command("campaign", "create", FLEET, "fw", "--spec", json.dumps(UPDATE))
    assert done.returncode == 0, done.stderr
    watched = stack.command("campaign", "watch", FLEET, "fw")
    assert "completed" in watched.stdout, watched.stderr
    impersonate(stack, DEVICES[0])


def impersonate(stack: RunningStack, device_id: str) -> None:
    """Write what a door would, of a session under a certificate that nobody knows; and garbage."""
    now = time.time_ns() // 1_000_000
    evidence = Evidence(b"?" * 32, "10.0.0.9", "stranger", 1, "mqtt", now)
    producer = Producer({"bootstrap.servers": stack.layout.bootstrap, "partitioner": PARTITIONER})
    for value in (codec.encode(SessionOpened(device_id, evidence)), b"garbage"):
        producer.produce(DEVICE_EVENTS, value, device_id)
    assert producer.flush(WITHIN) == 0


def finished(stack: RunningStack) -> list[Decision]:
    """Return the decisions that ended an order of the fleet."""
    found = [one.record for one in stack.fleet.read(DECISIONS, key=f"fleet:{FLEET}".encode())]
    return [
        one
        for one in found
        if isinstance(one, Decision) and one.name == DecisionName.DEVICE_FINISHED.value
    ]


def registered(stack: RunningStack) -> int:
    """Return how many devices there are; other tests have retired some of theirs."""
    return sum(not one.retired_at for one in stack.fleet.devices().values())


def assert_devices(stack: RunningStack, shown: Scrape) -> None:
    """The stack's devices are those of the rows."""
    assert shown.total("devices_registered") == registered(stack)
    rows = stack.fleet.devices().values()
    assert shown.total("devices_connected") == sum(one.connected for one in rows)


def assert_fleet(stack: RunningStack, fleets: Fleets, shown: Scrape) -> None:
    """The fleet's gauges are those of its row and of its members' certificates."""
    row = fleets.fleet(FLEET)
    sums, base = total(row), row.window_base
    assert shown.total("fleet_devices_total", fleet=FLEET) == COUNT
    assert shown.by("fleet_devices_health", "health", fleet=FLEET) == {
        "connected": COUNT - 1,
        "degraded": 1,
        "silent": 0,
        "gone": 0,
    }
    assert shown.total("fleet_cert_rotations", fleet=FLEET) == COUNT
    failed, ended = sums.failed - base.failed, sums.finished - base.finished
    assert failed == COUNT, "each device refused the update"
    assert shown.total("fleet_error_rate", fleet=FLEET) == failed / ended
    assert shown.total("fleet_results_failed_total", fleet=FLEET) == sums.failed
    held = [certificate.active(stack.fleet.device(one)) for one in DEVICES]
    days = [one.not_after_at / 1000 / DAY_SECONDS - time.time() / DAY_SECONDS for one in held]
    assert shown.total("cert_days_remaining", fleet=FLEET) == pytest.approx(min(days), abs=0.01)
    assert shown.total("fleet_cert_days_avg", fleet=FLEET) == pytest.approx(
        sum(days) / COUNT, abs=0.01
    )


def assert_orders(stack: RunningStack, shown: Scrape) -> None:
    """Every order is measured once, as its decision says."""
    for outcome in ("succeeded", "failed"):
        labels = {"fleet": FLEET, "outcome": outcome}
        ended = [one for one in finished(stack) if one.values["outcome"] == outcome]
        assert len(ended) == COUNT
        assert shown.total("fleet_update_duration_count", **labels) == COUNT
        seconds = sum(int(one.values["duration_ms"]) for one in ended) / 1000
        assert shown.total("fleet_update_duration_sum", **labels) == pytest.approx(seconds)


def said(stack: RunningStack) -> int:
    """Return how many records the MQTT door wrote about the devices."""
    return sum(
        getattr(found.record, "evidence", None) is not None
        and found.record.evidence.session != "stranger"
        for one in DEVICES
        for found in stack.fleet.read(DEVICE_EVENTS, key=one.encode())
    )


def assert_traffic(stack: RunningStack, before: Scrape, after: Scrape) -> None:
    """Each message from a device is a record, or a hint that nobody reads."""

    def more(name: str, **labels: str) -> float:
        return after.total(name, **labels) - before.total(name, **labels)

    assert more("mqtt_messages_received") == said(stack) + more("mqtt_hints_total")
    assert more("mqtt_message_size_count") == more("mqtt_messages_received")
    assert more("mqtt_message_size_sum") > more("mqtt_messages_received")
    assert more("mqtt_messages_sent") > 3 * COUNT, "two commands of a rotation, and an update"
    assert after.total("mqtt_buckets_served") == after.total("mqtt_buckets") == 8
    assert after.kinds["mqtt_connection_errors"] == "gauge"


def assert_queries(running: Prometheus) -> None:
    """Every query is answered, and every metric that it names has data from the stack."""
    expressions = {
        as_grafana_sends(expression, f"{FLEET}|_other", "1m")
        for path in DASHBOARDS
        for _, expression in asked(path)
    } | {one["expr"] for path in RULES for one in rules(path)}
    for one in sorted(expressions):
        running.query(one)
    names = sorted({name for one in expressions for name in named(one)})
    until(
        lambda: not without_data(running, names),
        within=30,
        describe=lambda: f"data for {without_data(running, names)}",
    )
    states = [one["health"] for group in running.ask("rules")["groups"] for one in group["rules"]]
    assert set(states) == {"ok"}


def assert_alerts(running: Prometheus) -> None:
    """What was done to the fleet is told, and nothing is said of a pipeline that is well."""

    def told() -> set[str]:
        return {one["labels"]["alertname"] for one in running.ask("alerts")["alerts"]}

    expected = {"DeadLetters", "FleetErrorRate"}
    until(lambda: expected <= told(), within=20, describe=lambda: f"{expected} among {told()}")
    until(
        lambda: not told() & PIPELINE,
        within=20,
        describe=lambda: f"none of {told() & PIPELINE}",
    )


def without_data(running: Prometheus, names: list[str]) -> list[str]:
    """Return the metrics of which Prometheus has nothing."""
    return [one for one in names if not running.query(f"count({one})")]


def true(check: Any, *arguments: Any) -> str:
    """Return what is wrong by an assertion; empty where it holds."""
    try:
        check(*arguments)
    except AssertionError as error:
        return str(error) or repr(error)
    return ""


@pytest.mark.usefixtures("short_grace")
async def test_each_promised_metric_has_its_value(stack: RunningStack, tmp_path: Path) -> None:
    """By a fleet that rotates, refuses an update and is impersonated; and all queries have data."""
    jobs = ports(stack)
    until(lambda: nobody_is_there(stack), within=20, describe="the devices of others have left")
    before = {job: scrape(port) for job, port in jobs.items()}

    def shown(job: str = "worker") -> Scrape:
        return scrape(jobs[job])

    with (
        prometheus(tmp_path / "prometheus", jobs) as running,
        Fleets(stack.layout.bootstrap) as fleets,
    ):
        until(
            lambda: running.health() == dict.fromkeys(jobs, "up"),
            within=30,
            describe="each endpoint was read: what follows grows from there",
        )
        async with living(stack, tmp_path / "devices"):
            await asyncio.to_thread(lives, stack, fleets)
            for check in (
                lambda: assert_devices(stack, shown()),
                lambda: assert_fleet(stack, fleets, shown()),
                lambda: assert_orders(stack, shown()),
            ):
                await asyncio.to_thread(
                    until,
                    lambda: not true(check),  # noqa: B023 - it has run when the loop goes on
                    30,
                    lambda: true(check),  # noqa: B023
                )
        now = shown()
        alerts = {"fleet": FLEET, "rule": "fingerprint-unknown", "severity": "critical"}
        assert now.total("fleet_alerts_total", **alerts) == 1
        letters = "stream_dead_letters_total"
        assert now.total(letters) == before["worker"].total(letters) + 1
        until(
            lambda: not true(assert_traffic, stack, before["bridge"], shown("bridge")),
            within=20,
            describe=lambda: true(assert_traffic, stack, before["bridge"], shown("bridge")),
        )
        assert running.health() == dict.fromkeys(jobs, "up")
        assert_queries(running)
        assert_alerts(running)
        assert running.value("fleetcert:devices_registered:sum") == registered(stack)
        metadata = running.ask("metadata", metric="mqtt_messages_received")
        assert metadata["mqtt_messages_received"][0]["type"] == "counter"
