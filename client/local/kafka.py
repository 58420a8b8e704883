"""One Kafka broker in KRaft mode from Maven artefacts: install, format, configure, wait for it.

A single broker acknowledges from the page cache: a kill loses nothing, a power cut may.
"""

import os
import re
import shutil
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from client.local.errors import LocalError
from configuration.cluster import Cluster
from pki import files

KAFKA_VERSION = "4.3.1"
HEAP_MIB = 512
INSTALL_SECONDS_MAX = 600
FORMAT_SECONDS_MAX = 60
REQUEST_SECONDS_MAX = 5.0
PACKAGES_ADVICE = "install the Debian packages `default-jre-headless maven`"

_DEPLOY = Path(__file__).resolve().parents[2] / "deploy" / "kafka"
_POM = _DEPLOY / "pom.xml"


def install(tools_dir: Path) -> Path:
    """Return the directory of Kafka's jars under `tools_dir`; download them once, by Maven.

    Raises LocalError when Java or Maven is missing or the download fails.
    """
    _need("java")
    there = installed(tools_dir)
    if there is not None:
        return there
    _need("mvn")
    libs, pom = _libs(tools_dir), _pom_text()
    fresh = libs.with_name(f"libs-{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    command = [
        "mvn",
        "-q",
        "-B",
        "-f",
        str(_POM),
        "dependency:copy-dependencies",
        "-DincludeScope=runtime",
        f"-DoutputDirectory={fresh.resolve()}",
    ]
    _run(command, INSTALL_SECONDS_MAX, "Kafka could not be downloaded by Maven")
    (fresh / ".complete").write_text(pom)
    shutil.rmtree(libs, ignore_errors=True)
    fresh.rename(libs)
    return libs


def installed(tools_dir: Path) -> Path | None:
    """Return the directory of Kafka's jars where they are all there. Raises LocalError."""
    libs = _libs(tools_dir)
    stamp = libs / ".complete"
    return libs if stamp.exists() and stamp.read_text() == _pom_text() else None


def _libs(tools_dir: Path) -> Path:
    return tools_dir / f"kafka-{KAFKA_VERSION}" / "libs"


def server_properties(port: int, controller_port: int, data_dir: Path) -> str:
    """Return the broker's configuration: one node, loopback only, nothing created unasked."""
    lines = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "log.dirs": str(data_dir.resolve()),
        **SINGLE_NODE,
    }
    return "".join(f"{key}={value}\n" for key, value in lines.items())


SINGLE_NODE = {
    "auto.create.topics.enable": "false",
    "num.partitions": "1",
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "transaction.max.timeout.ms": "900000",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.min.heartbeat.interval.ms": "100",
    "controlled.shutdown.enable": "true",
    # a broker that was killed may register again only when its old session is over: 9 s by default
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
}


def configure(port: int, controller_port: int, data_dir: Path, target: Path) -> Path:
    """Write the configuration to `target` and return it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    data_dir.mkdir(parents=True, exist_ok=True)
    target.write_text(server_properties(port, controller_port, data_dir))
    return target


def format_storage(libs: Path, properties: Path, data_dir: Path) -> None:
    """Format `data_dir` for a new cluster unless it has been formatted before.

    The cluster's id is kept beside it, first: a format that was cut off is done again with the same
    id, and data of another cluster is known. Raises LocalError.
    """
    if wrong := objection(data_dir):
        raise LocalError(f"Kafka's data: {wrong}")
    mark, stamp = _cluster_file(data_dir), data_dir / ".formatted"
    if stamp.exists():
        if not mark.exists():  # formatted before ids were kept
            files.write(mark, _cluster_of(data_dir).encode())
        return
    if not mark.exists():
        made = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        files.write(mark, f"K{made[1:]}".encode())
    command = [
        *_java(libs, 128),
        "kafka.tools.StorageTool",
        "format",
        "--ignore-formatted",
        "--cluster-id",
        mark.read_text(),
        "--config",
        str(properties),
    ]
    _run(command, FORMAT_SECONDS_MAX, f"Kafka could not format {data_dir}")
    stamp.touch()


def objection(data_dir: Path) -> str:
    """Return why `data_dir` is not this stack's, "" where it is or holds nothing.

    Kafka itself would take any cluster's data and go on with it.
    """
    there, mark = _cluster_of(data_dir), _cluster_file(data_dir)
    ours = mark.read_text() if mark.exists() else ""
    if not there or there == ours or (not ours and (data_dir / ".formatted").exists()):
        return ""
    if not ours:
        return f"{data_dir} holds cluster {there}, which this stack has not made"
    return f"{data_dir} holds cluster {there}, this stack's is {ours}"


def _cluster_of(data_dir: Path) -> str:
    """Return the id of the cluster whose data this is, "" for none."""
    properties = data_dir / "meta.properties"
    if not properties.exists():
        return ""
    found = re.search(r"^cluster\.id=(\S+)", properties.read_text(), re.MULTILINE)
    return found[1] if found else "without an id"


def _cluster_file(data_dir: Path) -> Path:
    return data_dir.parent / "cluster.id"


def command(libs: Path, properties: Path) -> tuple[str, ...]:
    """Return the command line that runs the broker in the foreground."""
    return (*_java(libs, HEAP_MIB), "kafka.Kafka", str(properties))


def ready(cluster: Cluster, deadline: float) -> bool:
    """Return whether a broker answers at `cluster` before `deadline` (of time.monotonic)."""
    admin = admin_client(cluster)
    while True:
        if answers(admin, min(REQUEST_SECONDS_MAX, max(0.1, deadline - time.monotonic()))):
            return True
        if time.monotonic() >= deadline:
            return False


def answers(admin: AdminClient, seconds: float = REQUEST_SECONDS_MAX) -> bool:
    """Return whether a broker answers a metadata request within `seconds`."""
    try:
        return bool(admin.list_topics(timeout=seconds).brokers)
    except KafkaException:
        return False


def admin_client(cluster: Cluster) -> AdminClient:
    """Return an AdminClient that reconnects quickly and keeps librdkafka's chatter off stderr."""
    return AdminClient(
        cluster.settings(
            {
                "reconnect.backoff.ms": 50,
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,
                "socket.timeout.ms": 10_000,
            }
        )
    )


def _java(libs: Path, heap_mib: int) -> list[str]:
    flags = [
        "-XX:+UseSerialGC",
        "-XX:+ExitOnOutOfMemoryError",
        "-Djava.awt.headless=true",
        f"-Dlog4j2.configurationFile={_DEPLOY / 'log4j2.properties'}",
    ]
    return ["java", f"-Xmx{heap_mib}m", *flags, "-cp", f"{libs}/*"]


def _pom_text() -> str:
    try:
        return _POM.read_text()
    except OSError as error:
        raise LocalError(f"{_POM} cannot be read: run from a checkout of fleetcert") from error


def _need(program: str) -> None:
    if shutil.which(program) is None:
        raise LocalError(f"`{program}` is not on the PATH: {PACKAGES_ADVICE}")


def _run(command: list[str], seconds: int, failure: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise LocalError(f"{failure}: no end after {seconds} s") from error
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise LocalError(f"{failure} (exit {done.returncode}):\n{tail}")
