"""The processes of the local stack, in the order of their start, and how each is seen ready."""

import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from client.local import kafka, setup, topics
from client.local.layout import HOST, Layout
from pki import revocation

KAFKA_ROOM_MIN = 64 << 20
"""A Kafka that meets a full disk in the middle of a write dies, and cannot recover without room."""


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
    libs, plugin = setup.tools(layout)
    setup.identities(layout)
    return [
        _kafka(layout, libs),
        _mosquitto(layout, plugin),
        _issuer(layout),
        *(_bridge(layout, number) for number in range(layout.bridges)),
        _coap(layout),
        _est(layout),
        *(_worker(layout, number) for number in range(layout.workers)),
    ]


def listens(port: int) -> bool:
    """Tell whether something accepts connections on a port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((HOST, port)) == 0


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
        lambda: topics.create_topics(layout.bootstrap, layout.partitions),
        stop_seconds=30.0,
        volume=layout.kafka_dir / "data",
        room_min=KAFKA_ROOM_MIN,
    )


def _mosquitto(layout: Layout, plugin: Path) -> Process:
    # started by root, mosquitto would change to a user who cannot read our files
    user = "root" if os.geteuid() == 0 else None
    configuration = setup.broker(layout, plugin, user)
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    return Process(
        "mosquitto",
        ("mosquitto", "-c", str(configuration)),
        lambda: listens(layout.device_port) and listens(layout.service_port),
        env={"PATH": path},
    )


def _issuer(layout: Layout) -> Process:
    port = layout.metrics_port
    options = {
        "--bootstrap": layout.bootstrap,
        "--pki": layout.pki_dir,
        "--lifetime-days": layout.lifetime_days,
        "--issuer-id": "issuer-0",
        "--session-timeout-seconds": layout.session_timeout_seconds,
        "--metrics-port": port,
    }
    return Process("issuer", _python("pki", "issuer", options), lambda: listens(port))


def _bridge(layout: Layout, number: int) -> Process:
    port = layout.metrics_port + 10 + number
    options = {
        "--bootstrap": layout.bootstrap,
        "--mqtt-host": "localhost",
        "--mqtt-port": layout.service_port,
        "--ca": layout.pki_dir / "service-ca" / "ca.pem",
        "--cert": layout.services_dir / "bridge.pem",
        "--key": layout.services_dir / "bridge.key",
        "--secret-file": layout.stamp_secret,
        "--buckets": layout.buckets,
        "--bridge-id": f"bridge-{number}",
        "--session-timeout-seconds": layout.session_timeout_seconds,
        "--metrics-port": port,
    }
    argv = _python("bridges", "mqtt", options)
    return Process(f"bridge-{number}", argv, lambda: listens(port))


def _coap(layout: Layout) -> Process:
    port = layout.metrics_port + 5
    options = {
        "--bootstrap": layout.bootstrap,
        "--host": HOST,
        "--port": layout.coap_port,
        "--plain-port": layout.coap_plain_port,
        "--renewal-port": layout.coap_renewal_port,
        "--cert": layout.services_dir / "coap.pem",
        "--key": layout.services_dir / "coap.key",
        "--device-ca": layout.pki_dir / "device-ca" / "ca.pem",
        "--revocation-list": layout.pki_dir / "device-ca" / revocation.FILE,
        "--metrics-port": port,
    }
    argv = (
        *_python("bridges", "coap", options),
        *("--dtls", *layout.dtls),
        *("--ca-certificates", *map(str, layout.ca_certificates)),
    )
    return Process("coap", argv, lambda: listens(layout.coap_port))


def _est(layout: Layout) -> Process:
    options = {
        "--bootstrap": layout.bootstrap,
        "--host": HOST,
        "--port": layout.est_port,
        "--cert": layout.services_dir / "est.pem",
        "--key": layout.services_dir / "est.key",
        "--device-ca": layout.pki_dir / "device-ca" / "ca.pem",
        "--revocation-list": layout.pki_dir / "device-ca" / revocation.FILE,
        "--metrics-port": layout.metrics_port + 6,
    }
    words = ("--ca-certificates", *map(str, layout.ca_certificates))
    argv = (*_python("bridges", "est", options), *words)
    return Process("est", argv, lambda: listens(layout.est_port))


def _worker(layout: Layout, number: int) -> Process:
    port = layout.metrics_port + 20 + number
    options = {
        "--bootstrap": layout.bootstrap,
        "--data-dir": layout.data_dir / f"worker-{number}",
        "--snapshots": layout.data_dir / "snapshots",
        "--session-timeout-seconds": layout.session_timeout_seconds,
        "--metrics-port": port,
    }
    argv = _python("streams", "worker", options)
    return Process(f"worker-{number}", argv, lambda: listens(port))


def _python(module: str, role: str, options: dict[str, object]) -> tuple[str, ...]:
    words = [str(word) for pair in options.items() for word in pair]
    return (sys.executable, "-m", module, role, *words)
