"""What rows cost: bytes per device, ticks and recovery, from a thousand rows to a million.

`python -m benchmarks.rows [--rows 1000,10000,100000,1000000]` makes device rows in RocksDB and in
the table's topic of a Kafka of its own, and opens the partition twice: on the disk it has, and on
an empty one. A tick is folded with ten rows due. Each size runs in a process of its own, so that
memory is its own.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.broker import broker
from client.local.topics import create_topics
from configuration.cluster import Cluster
from schemas import codec
from schemas.envelope import BROADCAST_KEY
from schemas.events import ClockTicked
from schemas.states import (
    PARTITION_KEY,
    DeviceRow,
    HeldCertificate,
    Idle,
    Oddities,
    PartitionRow,
    Past,
    Totals,
    Window,
)
from schemas.topics import DEVICE_STATE
from streams.engine.changelog import Changelog
from streams.engine.program import Record
from streams.engine.table import APPLICATION, Place, TablePartition
from streams.programs import DEVICES

START = 1_800_000_000_000
DAY = 86_400_000
DUE = 10
PUBLISHED_MAX = 20_000
TICKS = 5


@dataclass(frozen=True, slots=True)
class Cost:
    """What one size costs. Opening is in seconds, a tick in milliseconds."""

    rows: int
    row_bytes: float
    disk_bytes: float
    memory_bytes: float
    open_empty: float
    open_kept: float
    tick_quiet_ms: float
    tick_due_ms: float


def row(number: int) -> DeviceRow:
    """Return a device's row: registered, seen, one certificate, due in a day; ten of them now."""
    fingerprint = number.to_bytes(32, "big")
    held = HeldCertificate(
        fingerprint,
        fingerprint,
        f"{number:x}",
        START - DAY,
        START + 90 * DAY,
        "active",
        0,
        5,
        -1,
        0,
        b"d" * 450,
    )
    return DeviceRow(
        device_id=f"device-{number:07}",
        device_type="pump",
        protocols=("mqtt",),
        applied_offset=number,
        next_due_at=START if number < DUE else START + DAY,
        registered_at=START,
        connected=True,
        session="0123456789abcdef",
        session_counter=3,
        peer_address="10.0.0.1",
        last_seen_at=START,
        boot=1,
        sequence=7,
        command_counter=0,
        certificates=(held,),
        rotation=Idle(),
        journey=(),
        rotations=0,
        expiry_told=False,
        window=Window(),
        oddities=Oddities(),
        past=Past(),
        watches=(),
    )


def publish(bootstrap: str, count: int) -> float:
    """Write the rows to the table's topic; return the mean size of one."""
    log = Changelog(Cluster(bootstrap), DEVICE_STATE, 0, APPLICATION)
    log.fence()
    total, waiting = 0, []
    for number in range(count):
        one = row(number)
        waiting.append((one.device_id.encode(), codec.encode(one)))
        total += len(waiting[-1][1])
        if len(waiting) == PUBLISHED_MAX:
            log.commit({}, waiting)
            waiting = []
    state = PartitionRow(
        applied_offset=count,
        tick_number=START - 1,
        now=START - 1,
        core_version=DEVICES.version,
        totals=Totals(registered=count, connected=count),
        rows=count,
    )
    log.commit({}, [*waiting, (PARTITION_KEY, codec.encode(state))])
    return total / count


def opened(place: Place) -> tuple[TablePartition[DeviceRow], float]:
    """Open the partition and return it with the seconds that it took."""
    began = time.perf_counter()
    table = TablePartition(DEVICES, 0, place)
    table.open(threading.Event())
    return table, time.perf_counter() - began


def tick(table: TablePartition[DeviceRow], at: int) -> float:
    """Fold one tick as the engine does, without Kafka; return its milliseconds."""
    offset = table.row.applied_offset + 1
    event = codec.encode(ClockTicked(at, at, b"r" * 32))
    began = time.perf_counter()
    DEVICES.fold(table._partition, [Record(offset, at, BROADCAST_KEY, event)])
    return (time.perf_counter() - began) * 1e3


def resident() -> int:
    """Return the resident bytes of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise SystemExit("no VmRSS in /proc/self/status")


def measure(bootstrap: str, count: int) -> Cost:
    """Measure one size in this process."""
    create_topics(Cluster(bootstrap), 1)
    row_bytes = publish(bootstrap, count)
    folder = Path(tempfile.mkdtemp(prefix="fleetcert-rows-"))
    place = Place(Cluster(bootstrap), "rows", folder / "worker", folder / "snapshots")
    try:
        table, open_empty = opened(place)
        table.close()
        del table
        disk = sum(one.stat().st_size for one in (folder / "worker").rglob("*.sst"))
        before = resident()
        table, open_kept = opened(place)
        memory = resident() - before
        quiet = min(tick(table, START - 1 + number) for number in range(1 - TICKS, 1))
        due = tick(table, START)
        table.close()
    finally:
        shutil.rmtree(folder)
    return Cost(count, row_bytes, disk / count, memory / count, open_empty, open_kept, quiet, due)


def main(argv: list[str] | None = None) -> int:
    """Measure every size and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rows", description=__doc__)
    parser.add_argument("--rows", default="1000,10000,100000,1000000")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.one:
        cost = measure(options.one[0], int(options.one[1]))
        sys.stdout.write(f"{json.dumps(asdict(cost))}\n")
        return 0
    lines = [
        "| rows | bytes of a row | on disk | in memory | opening, empty disk | opening, kept disk "
        "| tick, nothing due | tick, ten due |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for count in map(int, options.rows.split(",")):
        with broker() as (bootstrap, _):
            command = [sys.executable, "-m", "benchmarks.rows", "--one", bootstrap, str(count)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        cost = Cost(**json.loads(done.stdout.splitlines()[-1]))
        lines.append(
            f"| {cost.rows} | {cost.row_bytes:.0f} | {cost.disk_bytes:.0f} | "
            f"{cost.memory_bytes:.0f} | {cost.open_empty:.2f} s | {cost.open_kept:.2f} s | "
            f"{cost.tick_quiet_ms:.2f} ms | {cost.tick_due_ms:.2f} ms |"
        )
        sys.stderr.write(f"{lines[-1]}\n")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
