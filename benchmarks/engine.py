"""The engine beside other stream processors on the same work: `python -m benchmarks.engine`.

The work is W1 (peers/work.py). Each peer runs in a process of its own against the same broker and
topic; measured is the CPU time of its process tree from its first record until all is stepped and
its offsets are committed. Afterwards the counts in its changelog must add up to all events. The
order of the peers turns with each repetition.
"""

import argparse
import io
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import fastavro
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks.broker import broker
from benchmarks.peers.work import SCHEMA, STATE
from benchmarks.processes import cpu_seconds, peak_mib

PEERS = Path(__file__).parent / "peers"
BUILT = Path("var/bench")
PARTITIONS = 4
DEVICES = 10_000
SETTLED_SECONDS = 1.0
STOCK_FAUST_SHARE = 10
"""Stock Faust gets a tenth of the events: it needs minutes for the rest."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One peer: its name, its command, the changelog it writes to, its share of the events."""

    name: str
    command: Callable[[], list[str]]
    changelog: str
    creates: bool = False
    share: int = 1


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of one peer gave. CPU seconds are per million events."""

    peer: str
    events: int
    seconds: float
    cpu: float
    broker_cpu: float
    peak_mib: float
    changelog: int


def venv(name: str) -> str:
    """Return the Python of a peer's own environment, made at first use."""
    folder, wanted = BUILT / name, PEERS / f"{name}-requirements.txt"
    stamp = folder / ".installed"
    if not stamp.exists() or stamp.read_text() != wanted.read_text():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(folder / "bin" / "pip"), "install", "--quiet", "-r", str(wanted)]
        subprocess.run(pip, check=True)
        stamp.write_text(wanted.read_text())
    return str((folder / "bin" / "python").absolute())


def kafka_streams() -> list[str]:
    """Return the command of the Java peer, compiled at first use."""
    folder, source = (BUILT / "kafka-streams").absolute(), PEERS / "kafka_streams"
    if not (folder / "W1.class").exists():
        libs = f"-DoutputDirectory={folder / 'libs'}"
        pom = str(source / "pom.xml")
        maven = ["mvn", "-q", "-B", "-f", pom, "dependency:copy-dependencies", libs]
        subprocess.run(maven, check=True)
        java = ["javac", "-cp", f"{folder}/libs/*", "-d", str(folder), str(source / "W1.java")]
        subprocess.run(java, check=True)
    return ["java", "-Xmx1g", "-cp", f"{folder}:{folder}/libs/*", "W1"]


def script(name: str, python: Callable[[], str] = lambda: sys.executable) -> list[str]:
    """Return the command of a Python peer."""
    return [python(), str(PEERS / name)]


ALL = (
    Peer("bare consumer + RocksDB", lambda: script("bare.py"), "{group}-changelog", creates=True),
    Peer("fleetcert engine", lambda: script("fleetcert.py"), "{group}-changelog", creates=True),
    Peer("Kafka Streams 4.3.1", kafka_streams, "{group}-state-changelog"),
    Peer(
        "Quix Streams 3.28",
        lambda: script("quix.py", lambda: venv("quix")),
        "changelog__{group}--{topic}--default",
    ),
    Peer(
        "stock Faust 0.15.3",
        lambda: script("stock_faust.py", lambda: venv("faust")),
        "{group}-state-changelog",
        share=STOCK_FAUST_SHARE,
    ),
)


def load(bootstrap: str, topic: str, events: int) -> None:
    """Write the readings: devices in turn, latencies from a fixed seed."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    create(admin, topic, {})
    schema, chance = fastavro.parse_schema(SCHEMA), random.Random(1)
    settings = {"linger.ms": 20, "compression.type": "lz4", "queue.buffering.max.messages": 10**6}
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, **settings})
    for number in range(events):
        device, buffer = f"device-{number % DEVICES:06}", io.BytesIO()
        reading = {"device": device, "at": number, "kind": "telemetry", "latency": chance.random()}
        fastavro.schemaless_writer(buffer, schema, reading)
        producer.produce(topic, buffer.getvalue(), device)
        if number % 1_000 == 0:
            producer.poll(0)
    if producer.flush(60):
        raise SystemExit("Kafka did not take the readings")


def create(admin: AdminClient, topic: str, config: dict[str, str]) -> None:
    """Create a topic of four partitions."""
    for future in admin.create_topics([NewTopic(topic, PARTITIONS, 1, config=config)]).values():
        future.result()


def measure(peer: Peer, bootstrap: str, broker_pid: int, topic: str, events: int) -> Run:
    """Run one peer once."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    group = f"w1-{uuid.uuid4().hex[:8]}"
    changelog = peer.changelog.format(group=group, topic=topic)
    if peer.creates:
        create(admin, changelog, {"cleanup.policy": "compact"})
    state = Path(tempfile.mkdtemp(prefix="fleetcert-w1-"))
    environment = os.environ | {
        "BOOTSTRAP": bootstrap,
        "TOPIC": topic,
        "GROUP": group,
        "CHANGELOG": changelog,
        "STATE_DIR": str(state),
        "EVENTS": str(events),
        "PYTHONPATH": os.pathsep.join([str(PEERS), str(Path.cwd())]),
        "PYTHONUNBUFFERED": "1",
    }
    log = (BUILT / "peers.log").open("ab")
    process = subprocess.Popen(
        peer.command(), env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
    )
    try:
        run = _watched(
            process, peer.name, events, broker_pid, lambda: committed(admin, group, topic)
        )
    finally:
        process.kill()
        process.wait()
        log.close()
        shutil.rmtree(state, ignore_errors=True)
    time.sleep(SETTLED_SECONDS)
    counted, written = verify(bootstrap, changelog)
    if counted != events:
        raise SystemExit(f"{peer.name}: the changelog counts {counted} of {events} events")
    return replace(run, changelog=written)


def _watched(
    process: subprocess.Popen[bytes],
    name: str,
    events: int,
    broker_pid: int,
    committed_now: Callable[[], int],
) -> Run:
    """Take the time and the CPU time between the peer's first record and its last commit."""
    begun: list[tuple[float, float, float]] = []
    done = threading.Event()

    def now() -> tuple[float, float, float]:
        return time.monotonic(), cpu_seconds(process.pid), cpu_seconds(broker_pid)

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            word = line.strip()
            if word == b"first" and not begun:
                begun.append(now())
            elif word == b"done":
                done.set()

    threading.Thread(target=listen, daemon=True).start()
    while not (done.is_set() and committed_now() >= events):
        if process.poll() is not None:
            raise SystemExit(f"{name} ended with {process.returncode}; see {BUILT}/peers.log")
        time.sleep(0.05)
    ended, million = now(), events / 1e6
    seconds, cpu, broker_cpu = (late - early for late, early in zip(ended, begun[0], strict=True))
    peak = peak_mib(process.pid)
    return Run(name, events, seconds, cpu / million, broker_cpu / million, peak, 0)


def committed(admin: AdminClient, group: str, topic: str) -> int:
    """Return the sum of a group's offsets."""
    wanted = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    asked = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group, wanted)])
    try:
        found = next(iter(asked.values())).result().topic_partitions
    except KafkaException:
        return 0
    return sum(max(0, one.offset) for one in found)


def verify(bootstrap: str, changelog: str) -> tuple[int, int]:
    """Return the sum of the counts of all devices, and the number of changelog records."""
    states: dict[tuple[int, bytes], bytes] = {}
    records = 0
    for message in _all(bootstrap, changelog):
        records += 1
        value = message.value()
        if value is not None and message.key() != b"@partition":
            states[message.partition(), message.key()] = value[-STATE.size :]
    return sum(STATE.unpack(state)[1] for state in states.values()), records


def _all(bootstrap: str, topic: str) -> Iterator[Any]:
    """Yield every committed record of a topic."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "unused",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
    ends = 0
    while ends < PARTITIONS:
        for message in consumer.consume(10_000, 1.0):
            if message.error() is None:
                yield message
            elif message.error().code() == KafkaError._PARTITION_EOF:
                ends += 1
    consumer.close()


def table(runs: list[Run]) -> str:
    """Return the medians with their spread, as a Markdown table."""
    lines = [
        "| W1 | events | thousand events/s | CPU s per million | broker's | MiB | changelog |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(one.peer for one in runs):
        ours = [one for one in runs if one.peer == name]
        rate = [one.events / one.seconds / 1e3 for one in ours]
        figures = [rate, *([getattr(one, what) for one in ours] for what in ("cpu", "broker_cpu"))]
        spread = " | ".join(
            f"{statistics.median(one):.2f} ({min(one):.2f} to {max(one):.2f})" for one in figures
        )
        peak = statistics.median(one.peak_mib for one in ours)
        written = statistics.median(one.changelog for one in ours)
        lines.append(f"| {name} | {ours[0].events} | {spread} | {peak:.0f} | {written:.0f} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--peers", default="", help="parts of names, separated by commas")
    parser.add_argument("--json", type=Path, help="write every run to this file")
    options = parser.parse_args(argv)
    wanted = [one for one in options.peers.split(",") if one]
    peers = [one for one in ALL if not wanted or any(word in one.name for word in wanted)]
    BUILT.mkdir(parents=True, exist_ok=True)
    for peer in peers:
        peer.command()  # install and compile before anything is measured
    runs: list[Run] = []
    with broker() as (bootstrap, pid):
        for events in {options.events // one.share for one in peers}:
            load(bootstrap, f"w1-{events}", events)
        for repetition in range(options.repetitions):
            turned = peers[repetition % len(peers) :] + peers[: repetition % len(peers)]
            for peer in turned:
                events = options.events // peer.share
                runs.append(measure(peer, bootstrap, pid, f"w1-{events}", events))
                sys.stderr.write(f"{json.dumps(asdict(runs[-1]))}\n")
    ordered = [run for peer in peers for run in runs if run.peer == peer.name]
    sys.stdout.write(f"{table(ordered)}\n")
    if options.json:
        options.json.write_text("".join(f"{json.dumps(asdict(one))}\n" for one in ordered))
    return 0


if __name__ == "__main__":
    sys.exit(main())
