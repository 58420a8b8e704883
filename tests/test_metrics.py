"""The metrics' catalogue: the names that were promised, and what each process really shows."""

import re
from collections.abc import Callable

import pytest

from bridges.coap.meter import Meter as CoapMeter
from bridges.est.meter import Meter as EstMeter
from bridges.meter import Meter as MqttMeter
from client.local.meter import Meter as StackMeter
from pki.meter import PrometheusMeter as IssuerMeter
from protocols.exposition import Registry, text
from schemas.metrics import METRICS
from schemas.metrics.metric import Metric
from streams.meter import PrometheusMeter as WorkerMeter
from tests.helpers.scrape import Scrape

PROMISED = {
    "gauge": (
        "fleet_devices_total fleet_devices_connected fleet_cert_days_avg devices_connected "
        "devices_registered cert_days_remaining mqtt_connection_errors fleet_error_rate "
        "fleet_cert_rotations"
    ),
    "counter": "mqtt_messages_received mqtt_messages_sent fleet_alerts_total",
    "histogram": "mqtt_message_size fleet_update_duration",
}
"""The names and types that users go by: changing one breaks their dashboards."""
METERS: dict[str, Callable[[Registry], object]] = {
    "worker": WorkerMeter,
    "mqtt bridge": MqttMeter,
    "coap bridge": CoapMeter,
    "est door": EstMeter,
    "issuer": IssuerMeter,
    "supervisor": StackMeter,
}
BY_NAME = {one.name: one for one in METRICS}
OURS = re.compile(r"^(?!process_|python_)")


@pytest.mark.parametrize("kind", PROMISED)
def test_the_promised_names_have_their_types(kind: str) -> None:
    """Exactly these names, exactly these types."""
    assert {one: BY_NAME[one].kind for one in PROMISED[kind].split()} == dict.fromkeys(
        PROMISED[kind].split(), kind
    )


@pytest.mark.parametrize("process", METERS)
def test_a_process_shows_what_the_catalogue_says(process: str) -> None:
    """Each metric of the process with its type and its help, and no other."""
    registry = Registry()
    METERS[process](registry)
    shown = Scrape(text(registry))
    expected = [one for one in METRICS if process in one.process]
    assert {name: kind for name, kind in shown.kinds.items() if OURS.match(name)} == {
        one.name: one.kind for one in expected
    }
    assert {one.name: shown.helps[one.name] for one in expected} == {
        one.name: one.help for one in expected
    }


@pytest.mark.parametrize("metric", METRICS, ids=lambda one: one.name)
def test_a_metric_is_well_declared(metric: Metric) -> None:
    """Named once, with unit and help; no label names a device; buckets belong to histograms."""
    assert [one.name for one in METRICS].count(metric.name) == 1
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", metric.name)
    assert metric.unit
    assert metric.help.endswith(".")
    assert not {"device", "device_id", "address"} & set(metric.labels)
    assert bool(metric.buckets) is (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(metric.buckets)


def test_the_same_name_is_the_same_thing_everywhere() -> None:
    """What all doors count has the same labels in all."""
    registries = {process: Registry() for process in ("mqtt bridge", "coap bridge", "est door")}
    for process, registry in registries.items():
        meter = METERS[process](registry)
        assert isinstance(meter, MqttMeter | CoapMeter | EstMeter)
        meter.refused("malformed")
    values = {
        Scrape(text(one)).total("bridge_refused_total", reason="malformed")
        for one in registries.values()
    }
    assert values == {1.0}
