"""The endpoint: exact names, one format whoever asks, nothing else at other paths."""

import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from prometheus_client.parser import text_string_to_metric_families

from client.local.ports import free_ports
from protocols.exposition import CONTENT_TYPE, Endpoint, Registry, counters, gauges, text
from tests.helpers.scrape import Scrape, scrape

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@dataclass(frozen=True)
class Declared:
    """A metric for tests."""

    name: str
    help: str = "What it says."
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = (1.0, 5.0)


@pytest.fixture
def endpoint() -> Iterator[tuple[Registry, int]]:
    """A registry and the port that it is served on."""
    registry, (port,) = Registry(), free_ports(1)
    serving = Endpoint(registry, port, "127.0.0.1")
    yield registry, port
    serving.close()


@pytest.mark.parametrize("name", ["messages_received", "alerts_total"])
def test_a_counter_has_exactly_its_name(name: str) -> None:
    """With `_total` or without, in the type's line and in the sample."""
    registry = Registry()
    registry.counter(Declared(name, labels=("fleet",))).labels("pumps").inc(3)
    shown = Scrape(text(registry))
    assert shown.kinds[name] == "counter"
    assert shown.values(name, fleet="pumps") == [3.0]
    assert not [one for one in shown.names if one.endswith("_created")]
    assert f"{name}_total" not in shown.names


def test_a_histogram_has_buckets_sum_and_count() -> None:
    """Cumulative, as the format wants it."""
    registry = Registry()
    sizes = registry.histogram(Declared("size"))
    for one in (0.5, 3.0, 100.0):
        sizes.observe(one)
    shown = Scrape(text(registry))
    assert shown.kinds["size"] == "histogram"
    assert shown.values("size_bucket", le="1.0") == [1.0]
    assert shown.values("size_bucket", le="+Inf") == [3.0] == shown.values("size_count")
    assert shown.values("size_sum") == [103.5]


def test_what_is_written_is_read_by_another_parser() -> None:
    """Label values with quotes, backslashes and line ends come out as they went in."""
    value = 'a "quoted" \\ back\nslash'
    registry = Registry()
    registry.gauge(Declared("odd", labels=("what",))).labels(value).set(1.5)
    families = {one.name: one for one in text_string_to_metric_families(text(registry))}
    assert families["odd"].samples[0].labels == {"what": value}
    assert families["odd"].samples[0].value == 1.5
    assert {"process_resident_memory_bytes", "python_info"} <= set(families)


def test_families_of_a_collector_keep_their_labels() -> None:
    """What a collector makes anew at each question."""
    one, other = gauges(Declared("g", labels=("a",))), counters(Declared("c_total", labels=("a",)))
    one.add_metric(("x",), 1)
    other.add_metric(("x",), 2)
    assert one.samples[0].labels == other.samples[0].labels == {"a": "x"}


def test_the_format_is_the_same_whoever_asks(endpoint: tuple[Registry, int]) -> None:
    """Also a Prometheus that would rather have OpenMetrics, where `_total` is a must."""
    registry, port = endpoint
    registry.counter(Declared("messages_received")).inc()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics")
    request.add_header("Accept", OPENMETRICS)
    with urllib.request.urlopen(request, timeout=5) as answer:
        assert answer.headers["Content-Type"] == CONTENT_TYPE
        assert "\nmessages_received 1.0\n" in answer.read().decode()
    assert scrape(port).total("messages_received") == 1.0


def test_other_paths_say_where_the_metrics_are(endpoint: tuple[Registry, int]) -> None:
    """A 404 that helps."""
    with pytest.raises(urllib.error.HTTPError, match="the metrics are at /metrics"):
        urllib.request.urlopen(f"http://127.0.0.1:{endpoint[1]}/", timeout=5)
