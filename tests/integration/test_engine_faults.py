"""The engine's write order: killed or stopped between every two steps, the replay still agrees."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Producer

from client.fleet import Fleet
from client.local.topics import create_topics
from schemas import codec
from schemas.decisions import Decision
from schemas.envelope import Evidence, Numbering
from schemas.events import CertificateFacts, DeviceRegistered, DeviceReported
from schemas.states import PARTITION_KEY
from schemas.topics import DECISIONS, DEVICE_EVENTS, DEVICE_STATE, PARTITIONER
from streams import replay
from streams.engine.changelog import Changelog, Publication
from streams.engine.failure import EXIT_FAILED, EngineFailed
from streams.engine.faults import POINTS
from tests.helpers.kafka import KafkaProcess, kafka_process
from tests.helpers.wait import until

DEVICES = 20
DAY = 86_400_000
SESSION_SECONDS = "3"
WITHIN = 40.0


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[KafkaProcess]:
    """A Kafka of its own, with the topics."""
    with kafka_process(tmp_path / "kafka") as running:
        create_topics(running.bootstrap, 1)
        yield running


@contextmanager
def worker(
    broker: KafkaProcess, directory: Path, fault: str = ""
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker, with a fault point where one is named."""
    command = [sys.executable, "-m", "streams", "worker", "--bootstrap", broker.bootstrap]
    command += ["--data-dir", str(directory), "--session-timeout-seconds", SESSION_SECONDS]
    environment = os.environ | {"FLEETCERT_FAULT": fault}
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "worker.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def report(broker: KafkaProcess, first: int, last: int) -> None:
    """Write registrations where `first` is 1, and one report of each number per device."""
    producer = Producer({"bootstrap.servers": broker.bootstrap, "partitioner": PARTITIONER})
    now = time.time_ns() // 1_000_000
    for number in range(DEVICES):
        device, fingerprint = f"device-{number}", number.to_bytes(32, "big")
        if first == 1:
            facts = CertificateFacts(
                fingerprint, fingerprint, f"{number:x}", now - 80 * DAY, now + 10 * DAY, b"der"
            )
            registered = DeviceRegistered(device, "pump", ("mqtt",), facts, "tests")
            producer.produce(DEVICE_EVENTS, codec.encode(registered), device)
        for sequence in range(first, last + 1):
            evidence = Evidence(fingerprint, "10.0.0.1", "s", sequence, "mqtt", now)
            numbering = Numbering(1, sequence)
            reported = DeviceReported(device, evidence, numbering, "reading", "", b"{}")
            producer.produce(DEVICE_EVENTS, codec.encode(reported), device)
    producer.flush()


def applied(broker: KafkaProcess, sequence: int) -> bool:
    """Tell whether every device's row has this sequence."""
    rows = Fleet(broker.bootstrap).devices()
    return len(rows) == DEVICES and all(row.sequence == sequence for row in rows.values())


def assert_undisturbed(broker: KafkaProcess) -> None:
    """The live rows are the replay's, and every decision stands there once."""
    verdict = replay.verify(broker.bootstrap, 0)
    assert verdict.identical, verdict.difference
    live: Counter[str] = Counter(
        found.record.decision_id
        for found in Fleet(broker.bootstrap).read(DECISIONS)
        if isinstance(found.record, Decision)
    )
    assert {one for one, count in live.items() if count > 1} == set()
    expected: set[str] = set()

    def keep(output: object) -> None:
        record = getattr(output, "record", None)
        if isinstance(record, Decision):
            expected.add(record.decision_id)

    records = list(replay.history(broker.bootstrap, 0, verdict.applied_offset))
    replay.fold_history(0, records, on_output=keep)
    assert expected <= set(live)


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_between_two_steps_leaves_no_trace(
    broker: KafkaProcess, tmp_path: Path, point: str
) -> None:
    """Killed at the point: the next worker ends with the rows and decisions of the replay."""
    report(broker, 1, 3)
    with worker(broker, tmp_path / "worker", f"{point}:1") as first:
        until(lambda: first.poll() is not None, within=WITHIN, describe="the worker's death")
        assert first.returncode == -signal.SIGKILL
    report(broker, 4, 6)
    with worker(broker, tmp_path / "worker"):
        until(lambda: applied(broker, 6), within=WITHIN, describe="all applied")
        assert_undisturbed(broker)


@pytest.mark.parametrize("point", ["engine:after-step", "engine:in-transaction"])
def test_a_stopped_worker_that_wakes_is_fenced(
    broker: KafkaProcess, tmp_path: Path, point: str
) -> None:
    """SIGSTOP at the point, another worker takes over, SIGCONT: the sleeper's commit fails."""
    report(broker, 1, 3)
    with worker(broker, tmp_path / "sleeper", f"{point}:1:stop") as sleeper:
        until(lambda: _is_stopped(sleeper.pid), within=WITHIN, describe="the sleeper sleeps")
        with worker(broker, tmp_path / "second"):
            report(broker, 4, 6)
            until(lambda: applied(broker, 6), within=WITHIN, describe="all applied")
            sleeper.send_signal(signal.SIGCONT)
            until(lambda: sleeper.poll() is not None, within=WITHIN, describe="the sleeper's end")
            assert sleeper.returncode == EXIT_FAILED
            report(broker, 7, 8)
            until(lambda: applied(broker, 8), within=WITHIN, describe="all applied")
            assert_undisturbed(broker)


def test_rows_come_back_from_the_changelog_alone(broker: KafkaProcess, tmp_path: Path) -> None:
    """A worker with an empty disk recovers behind an aborted transaction and goes on."""
    report(broker, 1, 3)
    with worker(broker, tmp_path / "first"):
        until(lambda: applied(broker, 3), within=WITHIN, describe="all applied")
    stray = Changelog(broker.bootstrap, DEVICE_STATE, 0, "stray")
    stray.fence()
    with pytest.raises(EngineFailed):
        stray.commit([Publication(DEVICE_STATE, PARTITION_KEY, b"stray", 0)], _fail)
    Changelog(broker.bootstrap, DEVICE_STATE, 0, "stray").fence()
    report(broker, 4, 6)
    with worker(broker, tmp_path / "empty"):
        until(lambda: applied(broker, 6), within=WITHIN, describe="all applied")
        assert_undisturbed(broker)


def test_a_recovery_that_cannot_finish_fails_loudly(broker: KafkaProcess) -> None:
    """A deadline in the past is an EngineFailed that says where the reading stands."""
    changelog = Changelog(broker.bootstrap, DEVICE_STATE, 0, "tests")
    changelog.fence()
    with pytest.raises(EngineFailed, match="stands at 0 of"):
        list(changelog.read(0, within=-1.0))


def _fail() -> None:
    raise EngineFailed("injected")


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"
