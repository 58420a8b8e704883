"""From the bridge's receipt to the row: `python -m benchmarks.latency [--rates 100 5000]`.

A whole local stack: devices publish over TLS, mosquitto stamps, the bridge records, a worker folds.
An event's time begins at `received_at`, the bridge's clock, and ends when a consumer that reads
committed records has the first row of that device whose `applied_offset` covers the event.
Records are kept as they come and decoded afterwards, so that measuring costs little meanwhile. A
run ends when the worker has applied all; where that took longer than a commit, the parts of the
machine did not keep up with the rate, and the line says by how many seconds.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import Consumer

from benchmarks.rig import VALID_SECONDS, go_program
from client.lag import lag
from device.provision import DeviceCa, provision
from schemas import codec
from schemas.events import DeviceReported
from schemas.states import DeviceRow
from schemas.topics import DEVICE_EVENTS, DEVICE_STATE
from tests.helpers.stack import RunningStack, running_stack
from tests.helpers.wait import until

WARM_SECONDS = 3.0
"""Of each run, left out: connections, the first batches."""
SETTLE_SECONDS = 3.0
DRAIN_SECONDS = 120.0
TICKS_MAX = 5
"""Records that are there at any time: the clock's, until the next commit."""
KEPT_UP_SECONDS = 3.0
"""The worker commits each second: what is drained by then was never far behind."""


@dataclass
class Watcher:
    """Reads two topics from now on, and keeps what comes with the time it came."""

    bootstrap: str
    events: list[tuple[int, int, bytes]] = field(default_factory=list)
    rows: list[tuple[float, int, bytes]] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Read until stopped."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": f"latency-{time.monotonic_ns()}",
                "auto.offset.reset": "latest",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 5,
            }
        )
        consumer.subscribe([DEVICE_EVENTS, DEVICE_STATE])
        while not self.stopping.is_set():
            for one in consumer.consume(500, 0.05):
                now = time.time() * 1000
                if one.error() is not None:
                    continue
                if one.topic() == DEVICE_EVENTS:
                    self.events.append((one.partition(), one.offset(), one.value()))
                elif one.value():
                    self.rows.append((now, one.partition(), one.value()))
        consumer.close()


def latencies(watcher: Watcher) -> list[float]:
    """Return the milliseconds of each report that has a row."""
    waiting: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for _, offset, value in watcher.events:
        event = codec.decode(value)
        if isinstance(event, DeviceReported):
            waiting[event.device_id].append((offset, event.evidence.received_at))
    for events in waiting.values():
        events.sort(reverse=True)
    found: list[float] = []
    for came, _, value in watcher.rows:
        row = codec.decode(value)
        if not isinstance(row, DeviceRow):
            continue
        events = waiting[row.device_id]
        while events and events[-1][0] <= row.applied_offset:
            found.append(came - events.pop()[1])
    missed = sum(len(one) for one in waiting.values())
    if missed:
        raise SystemExit(f"{missed} events have no row: the benchmark would measure nonsense")
    return found


def provisioned(stack: RunningStack, folder: Path, count: int) -> Path:
    """Make, register and list devices for the load generator."""
    made = stack.authorities.device
    ca, lines = DeviceCa(made.certificate, made.key), []
    for number in range(count):
        name = f"device-{number}"
        one = provision(ca, name, folder / name, VALID_SECONDS)
        stack.fleet.register(name, certificate=one.certificate_file.read_bytes(), wait=False)
        lines.append(f"{name},{one.certificate_file},{one.key_file}")
    stack.fleet.flush()
    listed = folder / "devices.csv"
    listed.write_text("\n".join(lines))
    return listed


@dataclass(frozen=True)
class Run:
    """Milliseconds of each report after the warm-up, and how long the rows took to catch up."""

    latencies: list[float]
    behind_seconds: float


def drained(stack: RunningStack) -> bool:
    """Tell whether the worker has applied all that was published."""
    group = stack.layout.configuration.worker.group
    behind = lag(stack.cluster, group, DEVICE_EVENTS).values()
    return bool(behind) and max(behind) <= TICKS_MAX


def once(stack: RunningStack, devices: Path, rate: int, seconds: float) -> Run:
    """Publish at a rate; return what was seen once all is applied."""
    command = [
        str(go_program("load")),
        "publish",
        f"-addr=localhost:{stack.layout.device_port}",
        f"-ca={stack.layout.pki_dir / 'service-ca' / 'ca.pem'}",
        f"-devices={devices}",
        f"-n={int(rate * (seconds + WARM_SECONDS))}",
        f"-rate={rate}",
        f"-numbered={str(True).lower()}",
        f"-boot={time.time_ns() // 1_000_000}",
    ]
    watcher = Watcher(stack.layout.bootstrap)
    thread = threading.Thread(target=watcher.run)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as load:
        assert load.stdin is not None
        assert load.stdout is not None
        load.stdout.readline()  # ready
        thread.start()
        time.sleep(SETTLE_SECONDS)  # the consumer has its place at the end of the topics
        load.stdin.write("\n")
        load.stdin.flush()
        load.stdout.readline()  # published
        published = time.monotonic()
        until(lambda: drained(stack), within=DRAIN_SECONDS, describe="all is applied")
        behind = time.monotonic() - published
        time.sleep(SETTLE_SECONDS)
        load.stdin.write("\n")
        load.stdin.flush()
    watcher.stopping.set()
    thread.join()
    return Run(latencies(watcher)[int(rate * WARM_SECONDS) :], behind)


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__)
    parser.add_argument("--rates", type=int, nargs="+", default=[100, 5_000])
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--devices", type=int, default=50)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args(argv)
    with (
        tempfile.TemporaryDirectory() as folder,
        running_stack(Path(folder, "stack"), partitions=2) as stack,
    ):
        devices = provisioned(stack, Path(folder), options.devices)
        until(
            lambda: len(stack.fleet.ids()) >= options.devices,
            within=60,
            describe="every device has a row",
        )
        for rate in options.rates:
            runs = [once(stack, devices, rate, options.seconds) for _ in range(options.repetitions)]
            for name, part in (("p50", 50), ("p99", 99)):
                values = [statistics.quantiles(one.latencies, n=100)[part - 1] for one in runs]
                sys.stdout.write(
                    f"{rate} events/s, {name}: {statistics.median(values):.0f} ms "
                    f"({min(values):.0f} to {max(values):.0f})\n"
                )
            behind = statistics.median(one.behind_seconds for one in runs)
            if behind > KEPT_UP_SECONDS:
                sys.stdout.write(f"{rate} events/s: not kept up with, {behind:.0f} s behind\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
