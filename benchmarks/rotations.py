"""Rotations on the whole stack: many devices at once, from the command to the proof of use.

Kafka, mosquitto with the plugin, bridge, worker, issuer and devices share the machine. Instants
are the broker's: from RotateCertificate's record to the decision CertificateProven. The issuer's
and the worker's CPU is what the kernel counted for them meanwhile.
"""

import argparse
import asyncio
import logging
import os
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Producer

from client.demo import fleet as demo
from client.fleet import Fleet
from client.local import supervisor
from client.local.layout import Layout
from client.local.ports import on_free_ports
from device.simulator import Plan, Simulator
from pki import authority
from schemas import codec
from schemas.commands import RotateCertificate
from schemas.decisions import Decision, DecisionName
from schemas.events import (
    CertificateIssued,
    CommandAnswered,
    RotationOrdered,
    SigningRequested,
)
from schemas.states import Idle, Policy
from schemas.topics import DECISIONS, DEVICE_COMMANDS, DEVICE_EVENTS, PARTITIONER

RATE = 0.02
"""Reports per second and device meanwhile."""
POLICY = Policy(days_before_expiry=1, stagger_ms=0, grace_ms=2_000)
READY_SECONDS = 300.0
LOOK_SECONDS = 1.0
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Round:
    """One repetition: seconds of each device, all of them in how many, CPU seconds by process."""

    seconds: list[float]
    wall: float
    cpu: dict[str, float]
    stages: dict[str, float]

    def line(self, number: int) -> str:
        """Return it as a line."""
        cuts = statistics.quantiles(self.seconds, n=100)
        count = len(self.seconds)
        cpu = ", ".join(
            f"{name} {used / count * 1000:.1f} ms" for name, used in sorted(self.cpu.items())
        )
        stages = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in self.stages.items())
        return (
            f"round {number}: {count} rotations, {count / self.wall:.1f}/s, command to proof "
            f"p50 {cuts[49]:.2f} s, p99 {cuts[98]:.2f} s; medians: {stages}; "
            f"CPU per rotation: {cpu}"
        )


def cpu_seconds(layout: Layout) -> dict[str, float]:
    """Return the CPU seconds of each process of the stack, and of this one: the devices."""
    used = {"devices": sum(resource.getrusage(resource.RUSAGE_SELF)[:2])}
    listed = supervisor.status(layout)["processes"]
    assert isinstance(listed, list)
    for one in listed:
        fields = Path(f"/proc/{one['pid']}/stat").read_text().rpartition(")")[2].split()
        used[one["name"]] = (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND
    return used


async def until(what: str, condition: object, within: float = READY_SECONDS) -> None:
    """Wait for a blocking condition. Raises SystemExit where it does not come true."""
    assert callable(condition)
    deadline = time.monotonic() + within
    while not await asyncio.to_thread(condition):
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: not within {within:.0f} s")
        await asyncio.sleep(LOOK_SECONDS)


def order(bootstrap: str, devices: list[str], number: int) -> None:
    """Order a rotation of every device, all in one batch."""
    producer = Producer({"bootstrap.servers": bootstrap, "partitioner": PARTITIONER})
    for name in devices:
        event = RotationOrdered(name, f"bench-{number}-{name}", "benchmark")
        producer.produce(DEVICE_EVENTS, codec.encode(event), name)
    producer.flush()


def ended(fleet: Fleet, count: int, rotations: int) -> bool:
    """Tell whether every device has rotated so often, and none is under way."""
    rows = list(fleet.devices().values())
    done = [one for one in rows if one.rotations == rotations and isinstance(one.rotation, Idle)]
    return len(done) == count


async def one_round(fleet: Fleet, layout: Layout, devices: list[str], number: int) -> Round:
    """Order a rotation of every device at once and wait for the last one."""
    before, began = cpu_seconds(layout), time.time() * 1000
    await asyncio.to_thread(order, layout.bootstrap, devices, number)
    await until("all rotations", lambda: ended(fleet, len(devices), number))
    after = cpu_seconds(layout)
    instants = await asyncio.to_thread(milestones, fleet, began)
    asked, proven = instants["command"], instants["proof"]
    seconds = [(proven[name] - asked[name]) / 1000 for name in devices]
    wall = (max(proven.values()) - min(asked.values())) / 1000
    stages = {
        f"to {name}": statistics.median(at[one] - asked[one] for one in devices) / 1000
        for name, at in instants.items()
        if name != "command"
    }
    return Round(seconds, wall, {name: after[name] - before[name] for name in before}, stages)


def milestones(fleet: Fleet, began: float) -> dict[str, dict[str, int]]:
    """Return when each device reached which point of its rotation, by the broker's clock."""
    found: dict[str, dict[str, int]] = {
        name: {} for name in ("command", "request", "certificate", "installed", "proof")
    }
    kinds = {SigningRequested: "request", CertificateIssued: "certificate"}
    for one in fleet.read(DEVICE_COMMANDS):
        if isinstance(one.record, RotateCertificate) and one.at >= began:
            found["command"].setdefault(one.record.device_id, one.at)
    for one in fleet.read(DEVICE_EVENTS):
        name = kinds.get(type(one.record))
        if isinstance(one.record, CommandAnswered) and one.record.outcome == "done":
            name = "installed"
        if name and one.at >= began:
            found[name].setdefault(one.record.device_id, one.at)
    for one in fleet.read(DECISIONS):
        record = one.record
        if not isinstance(record, Decision) or one.at < began:
            continue
        if record.name == DecisionName.CERTIFICATE_PROVEN:
            found["proof"].setdefault(record.subject.removeprefix("device:"), one.at)
    return found


async def measure(layout: Layout, directory: Path, count: int, rounds: int) -> None:
    """Run a stack and its devices, and print each round and the memory of the devices."""
    started, stopping = asyncio.Event(), asyncio.Event()
    stack = supervisor.Supervisor(layout, lambda _: None)
    running = asyncio.create_task(stack.run(started, stopping))
    await asyncio.wait(
        [running, asyncio.create_task(started.wait())], return_when=asyncio.FIRST_COMPLETED
    )
    fleet = Fleet(layout.bootstrap, actor="benchmark")
    await asyncio.to_thread(fleet.activate, POLICY)
    ca_file = layout.pki_dir / "service-ca" / "ca.pem"
    plan = Plan(directory, "localhost", layout.device_port, ca_file, count, RATE)
    simulator = Simulator(plan)
    authorities = authority.load(layout.pki_dir)
    await asyncio.to_thread(demo.enrol, authorities, directory, simulator.behaviours, fleet)
    small = resident_mib()
    living = asyncio.create_task(simulator.run())
    await until("connections", lambda: simulator.ledger.counts["connected"] >= count)
    sys.stdout.write(
        f"{count} devices connected: {(resident_mib() - small) / count * 1024:.0f} KiB each\n"
    )
    for number in range(1, rounds + 1):
        found = await one_round(fleet, layout, list(simulator.behaviours), number)
        sys.stdout.write(found.line(number) + "\n")
        sys.stdout.flush()
    simulator.stop()
    await living
    stopping.set()
    await running


def resident_mib() -> float:
    """Return this process's resident memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rotations", description=__doc__)
    parser.add_argument("--devices", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="fleetcert-bench-") as name:
        layout = on_free_ports(Layout(data_dir=Path(name) / "stack"))
        asyncio.run(measure(layout, Path(name) / "devices", options.devices, options.rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
