"""What the benchmarks of the bridge share: Kafka, the broker with its plugin, devices that load."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from bridges.mqtt.broker import config
from client.local import setup, topics
from client.local.layout import Layout
from client.local.ports import free_ports
from client.local.processes import listens
from configuration.cluster import Cluster
from device.provision import DeviceCa, provision
from pki import authority
from schemas.topics import DEVICE_EVENTS
from tests.helpers.kafka import TOOLS, KafkaProcess
from tests.helpers.wait import until

BUILT = Path(__file__).parents[1] / "var" / "bench"
HERE = Path(__file__).parent
VALID_SECONDS = 86_400
RATE_MAX = 1_000_000
"""Of one device: the limit is on, and never reached."""
TICKS = os.sysconf("SC_CLK_TCK")


def go_program(name: str) -> Path:
    """Build one of the Go programs beside this file, where that was not done; return it."""
    target = BUILT / name
    newest = max(one.stat().st_mtime for one in (HERE / name).iterdir())
    if not target.exists() or target.stat().st_mtime < newest:
        command = ["go", "build", "-mod=mod", "-o", str(target), "."]
        subprocess.run(command, cwd=HERE / name, check=True)
    return target


def line(load: subprocess.Popen[str]) -> str:
    """Return the next line that the load generator says."""
    assert load.stdout is not None
    said = load.stdout.readline().strip()
    if not said:
        raise SystemExit("the load generator has ended")
    return said


def go(load: subprocess.Popen[str]) -> None:
    """Let the load generator go on."""
    assert load.stdin is not None
    load.stdin.write("\n")
    load.stdin.flush()


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def peak_mib(pid: int) -> float:
    """Return the most memory that a process held."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"no VmHWM of {pid}")


class Rig:
    """Kafka for all runs; a broker, sessions and topic anew for each."""

    def __init__(self, directory: Path, devices: int, buckets: int, partitions: int) -> None:
        device_port, service_port = free_ports(2)
        self.partitions = partitions
        self.kafka = KafkaProcess(directory / "kafka")
        self.kafka.start()
        self.layout = Layout(
            data_dir=directory,
            tools_dir=TOOLS,
            device_port=device_port,
            service_port=service_port,
            buckets=buckets,
        )
        self.layout.log_dir.mkdir(parents=True, exist_ok=True)
        _, self._plugin = setup.tools(self.layout)
        setup.identities(self.layout)
        self._devices_file = self._provision(devices)
        self._admin = AdminClient({"bootstrap.servers": self.kafka.bootstrap})
        topics.create_topics(Cluster(self.kafka.bootstrap), partitions)

    def _provision(self, count: int) -> Path:
        made = authority.load(self.layout.pki_dir).device
        ca = DeviceCa(made.certificate, made.key)
        lines = []
        for number in range(count):
            name = f"device-{number}"
            folder = self.layout.data_dir / "devices" / name
            one = provision(ca, name, folder, VALID_SECONDS)
            lines.append(f"{name},{one.certificate_file},{one.key_file}")
        listed = self.layout.data_dir / "devices.csv"
        listed.write_text("\n".join(lines))
        return listed

    @property
    def ca(self) -> Path:
        """Who signed the broker."""
        return self.layout.pki_dir / "service-ca" / "ca.pem"

    @property
    def certificate(self) -> tuple[Path, Path]:
        """The bridge's certificate and key."""
        return self.layout.services_dir / "bridge.pem", self.layout.services_dir / "bridge.key"

    @contextlib.contextmanager
    def broker(self) -> Iterator[int]:
        """Run a broker without any past; give its process id."""
        user = "root" if os.geteuid() == 0 else None
        made = setup.broker_settings(self.layout, self._plugin, user)
        data = self.layout.data_dir / f"mosquitto-{time.monotonic_ns()}"
        settings = replace(
            made,
            data_dir=data,
            max_queued_messages=0,
            saved_changes=1_000_000_000,
            device_rate_max=RATE_MAX,
            device_burst_max=RATE_MAX,
        )
        path = config.write(settings)
        with self.process(["mosquitto", "-c", str(path)], "mosquitto") as running:
            ports = (self.layout.device_port, self.layout.service_port)
            until(lambda: all(listens(one) for one in ports), describe="mosquitto listens")
            yield running.pid

    @contextlib.contextmanager
    def process(
        self, command: list[str], name: str, environment: dict[str, str] | None = None
    ) -> Iterator[subprocess.Popen[str]]:
        """Run a program; end it at the end. Its standard input and output are pipes."""
        path = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])
        with (self.layout.log_dir / f"{name}.log").open("ab") as log:
            running = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if name == "load" else log,
                stderr=log,
                env={**os.environ, "PATH": path, **(environment or {})},
                text=True,
            )
        try:
            yield running
        finally:
            running.terminate()
            try:
                running.wait(10)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()

    def load(self, command: str, **options: object) -> list[str]:
        """Return the command line of the load generator."""
        words = [str(go_program("load")), command, f"-ca={self.ca}"]
        port = self.layout.service_port if command == "session" else self.layout.device_port
        words += [f"-addr=localhost:{port}", f"-devices={self._devices_file}"]
        return words + [f"-{key}={str(value).lower()}" for key, value in options.items()]

    def bridge_command(self, name: str, metrics_port: int = 0) -> list[str]:
        """Return the command line of our bridge."""
        certificate, key = self.certificate
        options = {
            "--bootstrap": self.kafka.bootstrap,
            "--mqtt-host": "localhost",
            "--mqtt-port": self.layout.service_port,
            "--ca": self.ca,
            "--cert": certificate,
            "--key": key,
            "--secret-file": self.layout.stamp_secret,
            "--buckets": self.layout.buckets,
            "--bridge-id": name,
            "--group": f"bench-{time.monotonic_ns()}",
            "--metrics-port": metrics_port,
            "--heartbeat-seconds": 0,  # a record of every device is counted, and no other
        }
        words = [str(word) for pair in options.items() for word in pair]
        return [sys.executable, "-m", "bridges", "mqtt", *words]

    def topic(self, name: str) -> str:
        """Make a topic for a peer; return its name."""
        if name != DEVICE_EVENTS:
            for future in self._admin.create_topics([NewTopic(name, self.partitions, 1)]).values():
                future.result()
        return name

    def records(self, topic: str) -> int:
        """Return how many records were ever written to a topic."""
        wanted = {TopicPartition(topic, one): OffsetSpec.latest() for one in range(self.partitions)}
        while True:
            try:
                return sum(one.result().offset for one in self._admin.list_offsets(wanted).values())
            except KafkaException:  # a new topic has no leader yet
                continue

    def close(self) -> None:
        """End Kafka."""
        self.kafka.kill()


__all__ = ["Rig", "cpu_seconds", "go", "go_program", "line", "peak_mib"]
