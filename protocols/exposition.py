"""Prometheus' text format 0.0.4, and the endpoint that answers in it: one per process.

Why not prometheus_client's own: it ends every counter's name with `_total`, as OpenMetrics demands,
and answers in OpenMetrics where it is asked to. The text format demands no ending, so a counter is
exposed here under the name that it was declared by (docs/decisions, "Exact metric names").
"""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import CollectorRegistry
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PATH = "/metrics"
REQUEST_SECONDS = 5.0
"""A client that is slower than this loses its connection."""
TOTAL, CREATED = "_total", "_created"


class Declared(Protocol):
    """What is declared of a metric."""

    @property
    def name(self) -> str:
        """The exact name of its samples."""

    @property
    def help(self) -> str:
        """What it says."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of its labels."""

    @property
    def buckets(self) -> tuple[float, ...]:
        """A histogram's upper bounds."""


class Registry(CollectorRegistry):
    """The metrics of one process, those of the process itself and of Python included."""

    def __init__(self) -> None:
        super().__init__()
        self.exact: set[str] = set()
        """Counters whose names do not end with `_total`."""
        ProcessCollector(registry=self)
        PlatformCollector(registry=self)
        GCCollector(registry=self)

    def counter(self, declared: Declared) -> Counter:
        """Make a counter that is exposed under exactly its name."""
        self.keep_exact(declared)
        return Counter(declared.name, declared.help, declared.labels, registry=self)

    def gauge(self, declared: Declared) -> Gauge:
        """Make a gauge."""
        return Gauge(declared.name, declared.help, declared.labels, registry=self)

    def histogram(self, declared: Declared) -> Histogram:
        """Make a histogram."""
        return Histogram(
            declared.name,
            declared.help,
            declared.labels,
            registry=self,
            buckets=declared.buckets,
        )

    def keep_exact(self, declared: Declared) -> None:
        """Expose a counter under its own name where that does not end with `_total`."""
        if not declared.name.endswith(TOTAL):
            self.exact.add(declared.name)


def shown_from_the_start(counter: Counter, *values: str | tuple[str, ...]) -> None:
    """Show zero for these values of the labels: a rate cannot see a series' first sample."""
    for one in values:
        counter.labels(*((one,) if isinstance(one, str) else one))


def gauges(declared: Declared) -> GaugeMetricFamily:
    """Return a family of a collector's own gauges."""
    return GaugeMetricFamily(declared.name, declared.help, labels=declared.labels)


def counters(declared: Declared) -> CounterMetricFamily:
    """Return a family of a collector's own counters."""
    return CounterMetricFamily(declared.name, declared.help, labels=declared.labels)


def text(registry: Registry) -> str:
    """Return all that the registry has, in the text format."""
    return "".join(line for one in registry.collect() for line in _family(one, registry.exact))


class Endpoint:
    """Answers `GET /metrics` from a thread until it is closed."""

    def __init__(self, registry: Registry, port: int, host: str) -> None:
        handler = type("Handler", (_Handler,), {"registry": registry})
        self._server = ThreadingHTTPServer((host, port), handler)
        self._server.daemon_threads = True
        name = f"metrics-{port}"
        threading.Thread(target=self._server.serve_forever, name=name, daemon=True).start()

    def close(self) -> None:
        """Answer no more, and give the port back."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    registry: Registry
    timeout = REQUEST_SECONDS

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != PATH:
            self.send_error(404, f"the metrics are at {PATH}")
            return
        body = text(self.registry).encode()
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: a scrape is no event."""


def _family(family: Metric, exact: set[str]) -> Iterator[str]:
    name, kind = family.name, family.type
    if kind == "counter" and name not in exact:
        name += TOTAL
    kind = "untyped" if kind == "unknown" else kind
    documentation = family.documentation.replace("\\", r"\\").replace("\n", r"\n")
    yield f"# HELP {name} {documentation}\n# TYPE {name} {kind}\n"
    for sample in family.samples:
        if not sample.name.endswith(CREATED):  # of OpenMetrics; the text format has none
            yield _line(name if kind == "counter" else sample.name, sample)


def _line(name: str, sample: Sample) -> str:
    labels = ",".join(f'{key}="{_escaped(value)}"' for key, value in sorted(sample.labels.items()))
    return f"{name}{{{labels}}} {_number(sample)}\n" if labels else f"{name} {_number(sample)}\n"


def _number(sample: Sample) -> str:
    return str(floatToGoString(sample.value))  # type: ignore[no-untyped-call]


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
