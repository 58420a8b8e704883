"""A real Kafka for tests: a container where an engine answers, else a process of this machine."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import docker
from testcontainers.core.container import DockerContainer

from client.local import kafka, launch
from tests.helpers.ports import free_ports
from tests.helpers.wait import until

IMAGE = "apache/kafka:4.3.1"
READY_SECONDS = 60.0
TOOLS = Path(__file__).parents[2] / "var" / "tools"


class KafkaProcess:
    """One broker on free ports, its data in `directory`; can be stopped, woken and killed."""

    def __init__(self, directory: Path) -> None:
        self._libs = kafka.install(TOOLS)
        port, controller = free_ports(2)
        self.bootstrap = f"127.0.0.1:{port}"
        data = directory / "data"
        self._properties = kafka.configure(port, controller, data, directory / "kafka.properties")
        kafka.format_storage(self._libs, self._properties, data)
        self._log = directory / "kafka.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    launch.__file__,
                    str(os.getpid()),
                    *kafka.command(self._libs, self._properties),
                ],
                stdout=log,
                stderr=log,
            )
        assert kafka.ready(self.bootstrap, time.monotonic() + READY_SECONDS), self._log.read_text()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the broker."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it with SIGKILL; its data stays."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def kafka_process(directory: Path) -> Iterator[KafkaProcess]:
    """Run a broker as a process of this machine."""
    broker = KafkaProcess(directory)
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()


def engine_answers() -> bool:
    """Tell whether a container engine is reachable."""
    try:
        return bool(docker.from_env(timeout=3).ping())
    except docker.errors.DockerException:
        return False


@contextlib.contextmanager
def kafka_container() -> Iterator[str]:
    """Run the same broker from its image; yield its bootstrap address."""
    port, _ = free_ports(2)
    listeners = "PLAINTEXT://0.0.0.0:9092,CONTROLLER://localhost:9093"
    settings = {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "KAFKA_LISTENERS": listeners,
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://127.0.0.1:{port}",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR": "1",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    }
    container = DockerContainer(IMAGE).with_bind_ports(9092, port)
    for name, value in settings.items():
        container = container.with_env(name, value)
    with container:
        bootstrap = f"127.0.0.1:{port}"
        until(
            lambda: kafka.ready(bootstrap, time.monotonic() + 1),
            within=READY_SECONDS,
            describe="Kafka in a container",
        )
        yield bootstrap


@contextlib.contextmanager
def kafka_for_tests(directory: Path) -> Iterator[str]:
    """Yield a bootstrap address: of a container where that is possible, else of a process."""
    if engine_answers():
        with kafka_container() as bootstrap:
            yield bootstrap
    else:
        with kafka_process(directory) as broker:
            yield broker.bootstrap
