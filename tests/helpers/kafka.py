"""A real Kafka for tests: a container where an engine answers, else a process of this machine."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import docker
from testcontainers.core.container import DockerContainer

from client.local import kafka, launch
from client.local.ports import free_ports
from configuration.cluster import Cluster

IMAGE = "apache/kafka:4.3.1"
READY_SECONDS = 60.0
TOOLS = Path(__file__).parents[2] / "var" / "tools"


class KafkaBroker(Protocol):
    """One broker on a free port; can be stopped, woken, killed and started on its data again."""

    bootstrap: str

    def start(self) -> None:
        """Start it and wait until it answers."""

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the broker."""

    def kill(self) -> None:
        """Kill it with SIGKILL; its data stays."""


class KafkaProcess:
    """A process of this machine, its data in `directory`.

    `further` gives properties that go before the usual ones, by the address of the plain listener
    and the controller's port; `log_more` are lines of log4j2 that follow the usual ones.
    """

    def __init__(
        self,
        directory: Path,
        further: Callable[[str, int], Mapping[str, str]] = lambda *own: {},
        log_more: str = "",
    ) -> None:
        self._libs = kafka.install(TOOLS)
        port, self.controller_port = free_ports(2)
        self.bootstrap = f"127.0.0.1:{port}"
        self.data = data = directory / "data"
        controller = self.controller_port
        self._properties = kafka.configure(port, controller, data, directory / "kafka.properties")
        with self._properties.open("a") as file:
            file.writelines(
                f"{name}={one}\n" for name, one in further(self.bootstrap, controller).items()
            )
        kafka.format_storage(self._libs, self._properties, data)
        usual = kafka.command(self._libs, self._properties)
        logging = directory / "log4j2.properties"
        logging.write_text((kafka._DEPLOY / logging.name).read_text() + log_more)
        self._command = (*usual[:-4], f"-Dlog4j2.configurationFile={logging}", *usual[-4:])
        self._log = directory / "kafka.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, launch.__file__, str(os.getpid()), *self._command],
                stdout=log,
                stderr=log,
            )
        assert kafka.ready(Cluster(self.bootstrap), time.monotonic() + READY_SECONDS), (
            self._log.read_text()
        )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the broker."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it with SIGKILL; its data stays."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()


def second_broker(first: KafkaProcess, directory: Path) -> KafkaProcess:
    """Return a broker, node 2, that joins the cluster of the first, which is its controller."""
    directory.mkdir(parents=True)
    own_id, id_of_all = (kafka._cluster_file(one) for one in (directory / "data", first.data))
    own_id.write_text(id_of_all.read_text())

    def joining(bootstrap: str, _controller: int) -> Mapping[str, str]:
        return {
            "process.roles": "broker",
            "node.id": "2",
            "controller.quorum.voters": f"1@127.0.0.1:{first.controller_port}",
            "listeners": f"PLAINTEXT://{bootstrap}",
        }

    return KafkaProcess(directory, joining)


class KafkaContainer:
    """The same broker from its image, its data in the container."""

    def __init__(self) -> None:
        (port,) = free_ports(1)
        self.bootstrap = f"127.0.0.1:{port}"
        settings = kafka.SINGLE_NODE | {
            "node.id": "1",
            "process.roles": "broker,controller",
            "controller.quorum.voters": "1@localhost:9093",
            # a transaction's coordinator calls its own broker; the published port is not inside
            "listeners": "HOST://0.0.0.0:9092,INSIDE://localhost:9094,CONTROLLER://localhost:9093",
            "advertised.listeners": f"HOST://{self.bootstrap},INSIDE://localhost:9094",
            "inter.broker.listener.name": "INSIDE",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": ",".join(
                f"{one}:PLAINTEXT" for one in ("HOST", "INSIDE", "CONTROLLER")
            ),
        }
        self._container = DockerContainer(IMAGE).with_bind_ports(9092, port)
        for name, value in settings.items():
            self._container.with_env(f"KAFKA_{name.upper().replace('.', '_')}", value)
        self._started = False

    def start(self) -> None:
        """Start it and wait until it answers."""
        if self._started:
            self._container.get_wrapped_container().start()
        else:
            self._container.start()
            self._started = True
        logs = self._container.get_logs
        assert kafka.ready(Cluster(self.bootstrap), time.monotonic() + READY_SECONDS), logs()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the broker."""
        self._container.get_wrapped_container().kill(signal=number.name)

    def kill(self) -> None:
        """Kill it with SIGKILL; its data stays."""
        container = self._container.get_wrapped_container()
        container.kill()
        container.wait()

    def remove(self) -> None:
        """Remove it and its data."""
        if self._started:
            self._container.stop()


def engine_answers() -> bool:
    """Tell whether a container engine is reachable."""
    try:
        return bool(docker.from_env(timeout=3).ping())
    except docker.errors.DockerException:
        return False


def way() -> str:
    """Say where Kafka runs for the tests."""
    if engine_answers():
        return "a container engine answers: Kafka runs from its image, docker-compose.yml is tested"
    return "no container engine answers: Kafka runs as a process, docker-compose.yml is not tested"


@contextlib.contextmanager
def kafka_broker(directory: Path) -> Iterator[KafkaBroker]:
    """Run a broker: in a container where an engine answers, else as a process."""
    if engine_answers():
        container = KafkaContainer()
        try:
            container.start()
            yield container
        finally:
            container.remove()
    else:
        process = KafkaProcess(directory)
        process.start()
        try:
            yield process
        finally:
            process.kill()
