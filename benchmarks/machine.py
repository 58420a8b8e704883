"""The device machine's speed: `python -m benchmarks.machine [--events N] [--devices N]`.

Mixed events (telemetry, sessions, ticks) of many devices, folded in one process on one core:
decoding, stepping and encoding of rows and outputs, as the worker does between Kafka and RocksDB.
"""

import argparse
import random
import statistics
import sys
import time

from schemas import codec
from schemas.envelope import BROADCAST_KEY, Evidence, Numbering
from schemas.events import (
    CertificateFacts,
    ClockTicked,
    DeviceRegistered,
    DeviceReported,
    SessionOpened,
)
from schemas.states import DeviceRow, PartitionRow
from streams.core.deadlines import Deadlines
from streams.core.device import MACHINE
from streams.core.machine import Partition, fold
from streams.engine.table import Record, entry

BATCH = 5_000
START = 1_800_000_000_000
DAY = 86_400_000
REPETITIONS = 3


def records(events: int, devices: int, seed: int = 1) -> list[Record]:
    """Return an encoded history: registrations, then one tick in a thousand, sessions, reports."""
    chance = random.Random(seed)
    made: list[Record] = []

    def add(key: bytes, event: object, at: int) -> None:
        made.append(Record(len(made), at, key, codec.encode(event)))

    sequences = [0] * devices
    for number in range(devices):
        fingerprint = number.to_bytes(32, "big")
        facts = CertificateFacts(
            fingerprint, fingerprint, f"{number:x}", START - DAY, START + 90 * DAY, b"d" * 500
        )
        registered = DeviceRegistered(f"device-{number}", "pump", ("mqtt",), facts, "bench")
        add(f"device-{number}".encode(), registered, START)
    for count in range(events - devices):
        at = START + count
        if count % 1_000 == 0:
            add(BROADCAST_KEY, ClockTicked(at, at, chance.randbytes(32)), at)
            continue
        number = chance.randrange(devices)
        device, sequences[number] = f"device-{number}", sequences[number] + 1
        evidence = Evidence(
            number.to_bytes(32, "big"), "10.0.0.1", "s" * 32, sequences[number], "mqtt", at
        )
        event: object = DeviceReported(
            device, evidence, Numbering(1, sequences[number]), "reading", "", b"x" * 100
        )
        if chance.random() < 0.02:
            event = SessionOpened(device, evidence)
            sequences[number] -= 1
        add(device.encode(), event, at)
    return made


def once(history: list[Record]) -> float:
    """Fold the history and return the CPU seconds it took."""
    rows: dict[bytes, DeviceRow] = {}
    partition: Partition[DeviceRow] = Partition(0, PartitionRow(), rows.get, Deadlines())
    began = time.process_time()
    for start in range(0, len(history), BATCH):
        folded = fold(MACHINE, partition, [entry(one) for one in history[start : start + BATCH]])
        for row in folded.rows.values():
            codec.encode(row)
        for output in folded.outputs:
            codec.encode(output.record)
        rows.update(folded.rows)
        if folded.set_aside:
            raise SystemExit("a step raised: the benchmark would measure nonsense")
    return time.process_time() - began


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.machine", description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--devices", type=int, default=10_000)
    options = parser.parse_args(argv)
    history = records(options.events, options.devices)
    seconds = [once(history) for _ in range(REPETITIONS)]
    rates = [len(history) / one for one in seconds]
    sys.stdout.write(
        f"{len(history)} events of {options.devices} devices, {REPETITIONS} repetitions: "
        f"median {statistics.median(rates):.0f} events/s, "
        f"from {min(rates):.0f} to {max(rates):.0f}; "
        f"{statistics.median(seconds) / len(history) * 1e6:.1f} CPU s per million\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
