"""The processes of the local stack, in the order of their start, and how each is seen ready."""

import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bridges import suites
from client.local import kafka, setup, topics
from client.local.layout import HOST, Layout
from configuration.iot import Coap, Est
from configuration.load import written
from pki import files, revocation

WILDCARDS = {"0.0.0.0": HOST, "::": "::1"}  # noqa: S104 - where to knock, not to listen
"""Where a listener on every address is reached."""
KAFKA_ROOM_MIN = 64 << 20
"""A Kafka that meets a full disk in the middle of a write dies, and cannot recover without room."""
WORKER_ROOM_MIN = 96 << 20
"""More than Kafka's and than the worker itself wants: on one volume the workers stop first."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process: how it is started, when it is ready, what follows its first start."""

    name: str
    argv: tuple[str, ...]
    ready: Callable[[], bool]
    started: Callable[[], None] = lambda: None
    stop_seconds: float = 15.0
    env: dict[str, str] = field(default_factory=dict)
    volume: Path | None = None
    """What it writes to: stopped while less than `room_min` bytes are free there."""
    room_min: int = 0


def processes(layout: Layout) -> list[Process]:
    """Prepare everything and return the processes. Raises LocalError."""
    if not layout.own_kafka:
        _topics(layout)  # before anything is made: a Kafka that refuses us ends it here
    libs, plugin = setup.tools(layout)
    setup.identities(layout)
    files.write(layout.configuration_file, written(layout.configuration).encode(), files.PRIVATE)
    return [
        *([_kafka(layout, libs)] if layout.own_kafka else []),
        _mosquitto(layout, plugin),
        _issuer(layout),
        *(_bridge(layout, number) for number in range(layout.bridges)),
        _coap(layout),
        _est(layout),
        *(_worker(layout, number) for number in range(layout.workers)),
    ]


def listens(port: int, host: str = HOST) -> bool:
    """Tell whether something accepts connections on a port of this machine."""
    try:
        socket.create_connection((WILDCARDS.get(host, host), port), 0.5).close()
    except OSError:
        return False
    return True


def _kafka(layout: Layout, libs: Path) -> Process:
    properties = layout.kafka_dir / "server.properties"
    kafka.configure(
        layout.kafka_port, layout.controller_port, layout.kafka_dir / "data", properties
    )
    kafka.format_storage(libs, properties, layout.kafka_dir / "data")
    return Process(
        "kafka",
        kafka.command(libs, properties),
        lambda: listens(layout.kafka_port),
        lambda: _topics(layout),
        stop_seconds=30.0,
        volume=layout.kafka_dir / "data",
        room_min=KAFKA_ROOM_MIN,
    )


def _topics(layout: Layout) -> None:
    """Create what is missing. Raises LocalError."""
    own, days = layout.configuration.kafka, layout.configuration.iot.monitoring.retention_days
    copies = 1 if layout.own_kafka else own.replication
    topics.create_topics(layout.cluster, layout.partitions, copies, days)


def _mosquitto(layout: Layout, plugin: Path) -> Process:
    # started by root, mosquitto would change to a user who cannot read our files
    user = "root" if os.geteuid() == 0 else None
    configuration, host = setup.broker(layout, plugin, user), layout.configuration.iot.mqtt.listen
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    return Process(
        "mosquitto",
        ("mosquitto", "-c", str(configuration)),
        lambda: listens(layout.device_port, host) and listens(layout.service_port, host),
        env={"PATH": path},
    )


def _issuer(layout: Layout) -> Process:
    port = layout.metrics_port
    options: dict[str, object] = {
        "--pki": layout.pki_dir,
        "--issuer-id": layout.configuration.issuer.id or "issuer-0",
        "--metrics-port": port,
    }
    return Process("issuer", _python(layout, "pki", "issuer", options), lambda: listens(port))


def _bridge(layout: Layout, number: int) -> Process:
    port, own = layout.metrics_port + 10 + number, layout.configuration.iot.mqtt
    options: dict[str, object] = {
        "--mqtt-port": layout.service_port,
        "--secret-file": layout.stamp_secret,
        "--buckets": layout.buckets,
        "--bridge-id": f"{own.client_id or 'bridge'}-{number}",
        "--metrics-port": port,
    }
    if own.tls.cert is None:
        options |= {
            "--ca": layout.pki_dir / "service-ca" / "ca.pem",
            "--cert": layout.services_dir / "bridge.pem",
            "--key": layout.services_dir / "bridge.key",
        }
    argv = _python(layout, "bridges", "mqtt", options)
    return Process(f"bridge-{number}", argv, lambda: listens(port), env=_suited(layout))


def _coap(layout: Layout) -> Process:
    port, own = layout.metrics_port + 5, layout.configuration.iot.coap
    options: dict[str, object] = {
        "--port": layout.coap_port,
        "--plain-port": layout.coap_plain_port,
        "--renewal-port": layout.coap_renewal_port,
        "--metrics-port": port,
    }
    argv = _python(layout, "bridges", "coap", options | _door(layout, "coap", own))
    ready = partial(listens, layout.coap_port, own.host)
    return Process("coap", argv, ready, env=_suited(layout))


def _est(layout: Layout) -> Process:
    own = layout.configuration.iot.est
    options: dict[str, object] = {
        "--port": layout.est_port,
        "--metrics-port": layout.metrics_port + 6,
    }
    argv = _python(layout, "bridges", "est", options | _door(layout, "est", own))
    ready = partial(listens, layout.est_port, own.host)
    return Process("est", argv, ready, env=_suited(layout))


def _door(layout: Layout, name: str, own: Coap | Est) -> dict[str, object]:
    """Return who a door is, whom it trusts and what it hands out: the stack's, unless said."""
    options: dict[str, object] = {}
    if own.tls.cert is None:
        options |= {
            "--cert": layout.services_dir / f"{name}.pem",
            "--key": layout.services_dir / f"{name}.key",
            "--device-ca": layout.pki_dir / "device-ca" / "ca.pem",
        }
    if own.revocation_list is None:
        options["--revocation-list"] = layout.pki_dir / "device-ca" / revocation.FILE
    if not own.ca_certificates:
        options["--ca-certificates"] = layout.ca_certificates
    return options


def _worker(layout: Layout, number: int) -> Process:
    port, data_dir = layout.metrics_port + 20 + number, layout.data_dir / f"worker-{number}"
    data_dir.mkdir(parents=True, exist_ok=True)
    options: dict[str, object] = {
        "--data-dir": data_dir,
        "--snapshots": layout.snapshots,
        "--metrics-port": port,
    }
    return Process(
        f"worker-{number}",
        _python(layout, "streams", "worker", options),
        lambda: listens(port),
        volume=data_dir,
        room_min=WORKER_ROOM_MIN,
    )


def _suited(layout: Layout) -> dict[str, str]:
    """Return what tells OpenSSL the suites: a bridge that finds them need not begin twice."""
    return {suites.VARIABLE: str(layout.openssl_file.resolve())}


def _python(layout: Layout, module: str, role: str, options: dict[str, object]) -> tuple[str, ...]:
    """Return a process's command: what the configuration says, and what is its own."""
    shared = {"--config": layout.configuration_file, "--bootstrap": layout.bootstrap}
    words: list[str] = []
    for name, value in (shared | options).items():
        words += [name, *map(str, value if isinstance(value, tuple) else (value,))]
    return (sys.executable, "-m", module, role, *words)
