"""Workers on a real Kafka: start them, feed them, hurt them, compare their rows with the replay."""

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from client.fleet import Fleet
from client.local.topics import create_topics
from configuration.cluster import Cluster
from schemas import codec
from schemas.decisions import Decision
from schemas.envelope import Evidence, Numbering
from schemas.events import CertificateFacts, DeviceRegistered, DeviceReported
from schemas.topics import BY_NAME, DECISIONS, DEVICE_EVENTS, PARTITIONER
from streams import replay
from streams.engine import history
from streams.engine.log import bounds, committed
from streams.engine.program import Program
from streams.engine.table import Place, TablePartition
from streams.programs import DEVICES, PROGRAMS
from tests.helpers.wait import until

DAY = 86_400_000
WITHIN = 40.0
SESSION_SECONDS = 3.0
DER = b"d" * 500
"""As large as a device's certificate."""


@dataclass(frozen=True)
class Rig:
    """The topics of one test, empty at its beginning, and a consumer group of its own."""

    bootstrap: str
    directory: Path
    application: str
    partitions: int
    devices: int = 20

    @property
    def snapshots(self) -> Path:
        """Where this test's workers write their marks."""
        return self.directory / "snapshots"

    @contextmanager
    def worker(
        self, name: str = "worker", fault: str = "", module: str = "streams", **options: object
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run a worker on the disk `name`, with a fault point where one is named."""
        process = self.start(name, fault, module, **options)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()

    def start(
        self, name: str = "worker", fault: str = "", module: str = "streams", **options: object
    ) -> subprocess.Popen[bytes]:
        """Start a worker; the caller ends it."""
        command = self.command(name, module, **options)
        environment = os.environ | {"FLEETCERT_FAULT": fault}
        with self.log(name).open("ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def command(self, name: str, module: str = "streams", **options: object) -> list[str]:
        """Return the command line of a worker."""
        values: dict[str, object] = {
            "bootstrap": self.bootstrap,
            "application": self.application,
            "data_dir": self.directory / name,
            "snapshots": self.snapshots,
            "session_timeout_seconds": SESSION_SECONDS,
            **options,
        }
        words = [f"--{key.replace('_', '-')}={value}" for key, value in values.items()]
        return [sys.executable, "-m", module, "worker", *words]

    def log(self, name: str = "worker") -> Path:
        """Return the file that a worker's log goes to."""
        return self.directory / f"{name}.log"

    def until_opened(self, name: str) -> None:
        """Wait until a worker that owns everything has opened it: each program's partitions."""
        wanted = self.partitions * len(PROGRAMS)
        until(
            lambda: self.log(name).read_text().count("partition.opened") == wanted,
            within=WITHIN,
            describe=f"{wanted} partitions are open",
        )

    def report(self, first: int, last: int, only: int = 0) -> None:
        """Write registrations where `first` is 1, and one report of each number per device.

        `only` so many devices report, all where it is zero.
        """
        settings = {"bootstrap.servers": self.bootstrap, "partitioner": PARTITIONER}
        producer = Producer(
            {**settings, "linger.ms": 20, "queue.buffering.max.messages": 1_000_000}
        )
        now = time.time_ns() // 1_000_000
        for number in range(self.devices) if first == 1 else ():
            fingerprint = number.to_bytes(32, "big")
            facts = CertificateFacts(
                fingerprint, fingerprint, f"{number:x}", now - 80 * DAY, now + 10 * DAY, DER
            )
            registered = DeviceRegistered(f"device-{number}", "pump", ("mqtt",), facts, "tests")
            producer.produce(DEVICE_EVENTS, codec.encode(registered), f"device-{number}")
            producer.poll(0)
        for sequence in range(first, last + 1):
            for number in range(only or self.devices):
                event = self.reported(number, sequence)
                producer.produce(DEVICE_EVENTS, codec.encode(event), event.device_id)
            producer.poll(0)
        assert producer.flush(WITHIN) == 0

    def reported(self, number: int, sequence: int) -> DeviceReported:
        """Return one report."""
        now = time.time_ns() // 1_000_000
        evidence = Evidence(number.to_bytes(32, "big"), "10.0.0.1", "s", sequence, "mqtt", now)
        numbering = Numbering(1, sequence)
        return DeviceReported(f"device-{number}", evidence, numbering, "reading", "", b"{}")

    def applied(self, sequence: int) -> bool:
        """Tell whether every device's row has this sequence."""
        rows = Fleet(self.bootstrap).devices()
        return len(rows) == self.devices and all(row.sequence == sequence for row in rows.values())

    def until_applied(self, sequence: int, within: float = WITHIN) -> None:
        """Wait until every device's row has this sequence."""
        until(lambda: self.applied(sequence), within=within, describe=f"{sequence} is applied")

    @contextmanager
    def owner(self, disk: str, program: Program[Any] = DEVICES) -> Iterator[TablePartition[Any]]:
        """Own partition 0 in this process, with the rows on `disk`."""
        place = Place(
            Cluster(self.bootstrap), self.application, self.directory / disk, self.snapshots
        )
        table: TablePartition[Any] = TablePartition(program, 0, place)
        try:
            table.open(threading.Event())
            yield table
        finally:
            table.close()

    def fold(self, table: TablePartition[Any]) -> None:
        """Apply what is not applied yet, and commit the offset as Faust would."""
        cluster, start = Cluster(self.bootstrap), table.row.applied_offset + 1
        end = bounds(cluster, DEVICE_EVENTS, 0).high
        table.apply([list(history.records(cluster, DEVICE_EVENTS, 0, start, end))])
        self.skip(table.row.applied_offset + 1)

    def skip(self, offset: int) -> None:
        """Commit an offset for the group."""
        group = {"bootstrap.servers": self.bootstrap, "group.id": self.application}
        consumer = Consumer(group)
        consumer.commit(offsets=[TopicPartition(DEVICE_EVENTS, 0, offset)], asynchronous=False)
        consumer.close()

    def until_ended(self, process: subprocess.Popen[bytes], within: float = WITHIN) -> int:
        """Wait until a worker has ended, and return its exit code."""
        until(lambda: process.poll() is not None, within=within, describe="the worker's end")
        return int(process.returncode)

    def committed(self, partition: int = 0) -> int:
        """Return the offset that the group has committed, zero for none."""
        return committed(Cluster(self.bootstrap), self.application, DEVICE_EVENTS, partition) or 0

    def assert_undisturbed(self) -> None:
        """The live rows are the replay's, and every decision of it stands there once."""
        expected: set[str] = set()

        def keep(output: object) -> None:
            record = getattr(output, "record", None)
            if isinstance(record, Decision):
                expected.add(record.decision_id)

        for partition in range(self.partitions):
            verdict = replay.verify(
                Cluster(self.bootstrap), partition, on_output=keep, snapshots=self.snapshots
            )
            assert verdict.identical, verdict.difference
        # Kafka ends a transaction partition by partition: a row may be seen before its decision
        until(lambda: expected <= set(self.decisions()), describe="all of its decisions are there")
        assert {one for one, count in self.decisions().items() if count > 1} == set()

    def decisions(self) -> Counter[str]:
        """Return how often each decision stands in its topic."""
        return Counter(
            found.record.decision_id
            for found in Fleet(self.bootstrap).read(DECISIONS)
            if isinstance(found.record, Decision)
        )


def rig(bootstrap: str, directory: Path, partitions: int = 1, devices: int = 20) -> Rig:
    """Make the topics anew and return a rig on them."""
    remove_topics(bootstrap)
    create_topics(Cluster(bootstrap), partitions)
    return Rig(bootstrap, directory, f"engine-{uuid.uuid4().hex[:8]}", partitions, devices)


def remove_topics(bootstrap: str) -> None:
    """Delete the topics of the catalogue, and wait until they are gone."""
    admin = AdminClient({"bootstrap.servers": bootstrap})

    def there() -> list[str]:
        return [name for name in admin.list_topics(timeout=10).topics if name in BY_NAME]

    names = there()
    if names:
        for future in admin.delete_topics(names).values():
            future.result()
    until(lambda: not there(), describe="the topics are gone")


def is_stopped(pid: int) -> bool:
    """Tell whether a process is stopped by a signal."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"
