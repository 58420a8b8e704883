"""The device machine's speed: `python -m benchmarks.machine [--events N] [--devices N]`.

A mixed history of many devices is folded in one process on one core, with what the worker does
between Kafka and RocksDB: every record decoded and stepped, every output and every changed row of a
batch encoded. `--profile` names the functions that take the time.
"""

import argparse
import cProfile
import hashlib
import heapq
import itertools
import pstats
import random
import statistics
import sys
import time
from collections import Counter
from operator import sub
from typing import Any

from schemas import codec, commands, events
from schemas.envelope import BROADCAST_KEY, Evidence, Numbering
from schemas.states import PARTITION_KEY, DeviceRow, PartitionRow
from streams.core.deadlines import Deadlines
from streams.core.device import MACHINE
from streams.core.machine import fold
from streams.core.partition import Partition
from streams.engine.memory import collect_rarely
from streams.engine.program import Record
from streams.programs import entry

BATCH = 5_000
"""Records of a batch: a quarter of what a worker may take at once."""
START = 1_800_000_000_000
DAY = 86_400_000
EVENTS_PER_SECOND = 1_000
SHARES = 16
ROTATIONS = 0.01
"""Rotations ordered per event: of a million events, 60,000 belong to 10,000 sagas."""
SESSIONS = 0.02
"""Sessions opened per event; half of them were closed before."""
ERRORS = 0.01


class Device:
    """One device of the history: what it numbers, and the certificate it holds."""

    def __init__(self, number: int) -> None:
        self.name = f"device-{number}"
        self.certificate = hashlib.sha256(self.name.encode()).digest()
        self.session, self.counter, self.sequence = f"{number:032x}", 0, 0

    def evidence(self, at: int) -> Evidence:
        """Return the evidence of its session."""
        self.counter += 1
        return Evidence(
            self.certificate, "10.20.30.40:50000", self.session, self.counter, "mqtt", at
        )

    def numbering(self) -> Numbering:
        """Return its next number."""
        self.sequence += 1
        return Numbering(1, self.sequence)

    def opened(self, chance: random.Random, at: int) -> events.SessionOpened:
        """Open another session."""
        self.session, self.counter = f"{chance.getrandbits(128):032x}", 0
        return events.SessionOpened(self.name, self.evidence(at))


class History:
    """Writes a history; the sagas in it follow what the machine asks for.

    A second fold runs beside, of all records but telemetry: it gives the commands to answer.
    """

    def __init__(self, devices: int, seed: int) -> None:
        self.records: list[Record] = []
        self.kinds: Counter[str] = Counter()
        self.at, self._chance = START, random.Random(seed)
        self._order = itertools.count()
        self._waiting: list[tuple[int, int, Any, Device]] = []
        self._rows: dict[bytes, DeviceRow] = {}
        self._shadow: Partition[DeviceRow] = Partition(
            0, PartitionRow(), self._rows.get, Deadlines()
        )
        self._devices = [Device(number) for number in range(devices)]
        self._tick()
        for device in self._devices:
            facts = self._facts(device.certificate, device.certificate)
            self._write(events.DeviceRegistered(device.name, "pump", ("mqtt",), facts, "bench"))

    def run(self, count: int) -> list[Record]:
        """Write until there are `count` records."""
        chance = self._chance
        while len(self.records) < count:
            if len(self.records) % EVENTS_PER_SECOND == 0:
                self._tick()
            elif self._waiting and self._waiting[0][0] <= self.at:
                _, _, command, device = heapq.heappop(self._waiting)
                self._obey(command, device)
            else:
                self._live(chance.choice(self._devices), chance.random())
            self.at += 1_000 // EVENTS_PER_SECOND
        return self.records

    def _live(self, device: Device, luck: float) -> None:
        """Let a device do what devices do most of the time: report."""
        if luck < ROTATIONS:
            order = events.RotationOrdered(device.name, f"order-{len(self.records)}", "bench")
            self._write(order)
        elif luck < ROTATIONS + SESSIONS:
            if self._chance.random() < 0.5:
                self._write(events.SessionClosed(device.name, device.evidence(self.at), 0))
            else:
                self._write(device.opened(self._chance, self.at))
        else:
            kind = "error" if self._chance.random() < ERRORS else "reading"
            report = events.DeviceReported(
                device.name,
                device.evidence(self.at),
                device.numbering(),
                kind,
                "application/json",
                b"x" * 100,
            )
            self._write(report)

    def _obey(self, command: Any, device: Device) -> None:
        """Do what the machine asked of device or issuer."""
        name, now = device.name, self.at
        if isinstance(command, commands.RotateCertificate):
            key = self._chance.randbytes(32)
            self._write(
                events.SigningRequested(
                    name, device.evidence(now), device.numbering(), command.command_id,
                    command.nonce, b"c" * 400, key + b"r" * 250, name, "P-256", key, True, True,
                    True, "bench",
                )
            )  # fmt: skip
        elif isinstance(command, commands.SignCertificate):
            fingerprint = hashlib.sha256(command.csr).digest()
            facts = self._facts(fingerprint, command.csr[:32])
            self._write(events.CertificateIssued(name, command.request_id, facts))
        elif isinstance(command, commands.InstallCertificate):
            done = events.CommandAnswered(
                name, device.evidence(now), device.numbering(), command.command_id, "done", ""
            )
            self._write(done)
            device.certificate = command.certificate[:32]
            self._write(device.opened(self._chance, now))
        elif isinstance(command, commands.RevokeCertificate):
            self._write(events.CertificateRevoked(name, command.fingerprint, command.serial, 1))

    def _tick(self) -> None:
        tick = events.ClockTicked(self.at, self.at, self._chance.randbytes(32))
        self._write(tick, BROADCAST_KEY)
        if self.at // 1_000 % 10 == 0:
            for share in range(SHARES):
                served = events.DoorServed("mqtt", share, SHARES, self.at, self.at)
                self._write(served, BROADCAST_KEY)

    def _write(self, event: Any, key: bytes | None = None) -> None:
        key = key or event.device_id.encode()
        record = Record(len(self.records), self.at, key, codec.encode(event))
        self.records.append(record)
        self.kinds[type(event).__name__] += 1
        if isinstance(event, events.DeviceReported):
            return
        folded = fold(MACHINE, self._shadow, [entry(record)])
        self._rows.update(folded.rows)
        for command in (one.record for one in folded.outputs):
            if isinstance(command, commands.ForDevice | commands.ForIssuer):
                device = self._devices[int(command.device_id.rpartition("-")[2])]
                after = self.at + self._chance.randrange(100, 3_000)
                heapq.heappush(self._waiting, (after, next(self._order), command, device))

    def _facts(self, fingerprint: bytes, spki: bytes) -> events.CertificateFacts:
        der = fingerprint + b"d" * 468
        return events.CertificateFacts(
            fingerprint, spki, fingerprint.hex()[:32], START - DAY, START + 90 * DAY, der
        )


PARTS = ("decode", "step", "encode rows", "encode outputs")


def once(history: list[Record]) -> tuple[list[float], Counter[str]]:
    """Fold the history; return the CPU seconds of each of PARTS, and what came of it."""
    rows: dict[bytes, DeviceRow] = {}
    partition: Partition[DeviceRow] = Partition(0, PartitionRow(), rows.get, Deadlines())
    made: Counter[str] = Counter()
    spent = [0.0] * len(PARTS)
    for start in range(0, len(history), BATCH):
        times = [time.process_time()]
        entries = [entry(one) for one in history[start : start + BATCH]]
        times.append(time.process_time())
        folded = fold(MACHINE, partition, entries)
        rows.update(folded.rows)
        times.append(time.process_time())
        for row in folded.rows.values():
            codec.encode(row)
        codec.encode(partition.row)
        times.append(time.process_time())
        for output in folded.outputs:
            codec.encode(output.record)
        times.append(time.process_time())
        spent = [sum(one) for one in zip(spent, map(sub, times[1:], times), strict=True)]
        made["rows written"] += len(folded.rows) + len([PARTITION_KEY])
        made["outputs"] += len(folded.outputs)
        if folded.set_aside:
            raise SystemExit("a step raised: the benchmark would measure nonsense")
    made["rotations"] = partition.row.totals.rotations
    return spent, made


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.machine", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="profile one more repetition")
    options = parser.parse_args(argv)
    written = History(options.devices, seed=1)
    history = written.run(options.events)
    collect_rarely()  # as the worker does
    runs = [once(history) for _ in range(options.repetitions)]
    rates = sorted(len(history) / sum(spent) for spent, _ in runs)
    million = len(history) / 1e6
    per_million = statistics.median(sum(spent) for spent, _ in runs) / million
    parts = ", ".join(
        f"{name} {statistics.median(spent[at] for spent, _ in runs) / million:.1f}"
        for at, name in enumerate(PARTS)
    )
    mix = ", ".join(f"{name} {count}" for name, count in written.kinds.most_common())
    came = ", ".join(f"{name} {count}" for name, count in runs[0][1].items())
    sys.stdout.write(
        f"{len(history)} events of {options.devices} devices: {mix}\n"
        f"made: {came}\n"
        f"median {statistics.median(rates):.0f} events/s of {len(runs)} repetitions "
        f"({rates[0]:.0f} to {rates[-1]:.0f}), {per_million:.1f} CPU s per million: {parts}\n"
    )
    if options.profile:
        profile = cProfile.Profile()
        profile.runcall(once, history)
        pstats.Stats(profile).sort_stats("tottime").print_stats(30)
    return 0


if __name__ == "__main__":
    sys.exit(main())
