"""What a fleet costs by its size: a million devices in one fleet, and in a thousand.

`python -m benchmarks.scale [--shapes 1x1000,1000x1000,1x1000000] [--plan 1000,10000,100000]` fills
one partition of the fleet machine (fleets x devices of each) in RocksDB and applies events to it in
the engine's own write order, all but Kafka. What nobody touches must cost nothing: the columns of
one step are to be alike in every shape. Each shape runs in a process of its own, so that memory is
its own. A plan is measured by itself: it is the machine on rows in memory.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.rows import resident
from configuration.cluster import Cluster
from schemas import codec, events
from schemas import fleet_events as fleets
from schemas.artefact import Artefact
from schemas.envelope import BROADCAST_KEY, Cause, Position
from schemas.fleet_states import (
    CampaignSpec,
    CertRotation,
    ExpiryRow,
    FleetConfig,
    FleetRow,
    FleetSums,
    MemberRow,
    TimeWindow,
    UpdatePolicy,
)
from schemas.states import PARTITION_KEY, PartitionRow
from schemas.topics import DEVICE_EVENTS
from streams.core import rehearsal, ring
from streams.core.enrolment import ENROL_MAX
from streams.engine.memory import collect_rarely
from streams.engine.program import Record
from streams.engine.table import Place, TablePartition
from streams.figures import FleetView, together
from streams.programs import FLEETS

START = 1_800_000_000_000
DAY = 86_400_000
WINDOW_MS = 300_000
WRITTEN_MAX = 20_000
BATCH = 5_000
TICKS = 20
DUE = 10
PARTITIONS = 64
"""Partitions of devices that report a fleet's sums."""
RENEWED_MAX = 100_000
STEPS_MAX = 500
"""Steps of an enrolment that are measured: those of a hundred thousand devices."""
UPDATE = CampaignSpec(
    "update", Artefact("firmware", "pump", "2", "https://x/2", 1, b"d" * 32, b"", "")
)
OPEN = FleetConfig(
    UpdatePolicy(time_window=TimeWindow(0, 1_440)),
    CertRotation(staggered=False),
    max_devices=10_000_000,
)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one shape costs. Spans are milliseconds unless they say seconds."""

    fleets: int
    devices: int
    disk_bytes: float
    memory_bytes: float
    open_seconds: float
    tick_quiet: float
    tick_due: float
    word: float
    renewals_per_second: float
    word_after: float
    sums: float
    window: float
    scrape: float
    step_first: float
    step_median: float
    step_worst: float
    enrolled_per_second: float


class Nowhere:
    """A changelog that takes everything and keeps nothing."""

    def __init__(self) -> None:
        self._following = 0

    def partitions(self, topic: str) -> int:
        """Say that every topic has one partition."""
        return 1

    def commit(self, outputs: Any, rows: Iterable[Any], inside: Any = None) -> int:
        """Count the rows."""
        self._following += len(list(rows))
        return self._following


class Table(TablePartition[Any]):
    """One partition of fleets, without Kafka."""

    def __init__(self, place: Place) -> None:
        super().__init__(FLEETS, 0, place)
        self._changelog = Nowhere()  # type: ignore[assignment]
        self._offset = 0

    def fill(self, rows: Iterable[tuple[bytes, Any]], state: PartitionRow) -> None:
        """Write rows to the store as a recovery does."""
        waiting: list[tuple[bytes, int, bytes | None]] = []
        for key, row in rows:
            waiting.append((key, row.next_due_at, codec.encode(row)))
            if len(waiting) == WRITTEN_MAX:
                self._store.write(waiting, self._position)
                waiting = []
        waiting.append((PARTITION_KEY, 0, codec.encode(state)))
        self._store.write(waiting, self._position)

    def index(self) -> None:
        """Make what is in memory, as an opening does."""
        for key, due_at in self._store.deadlines():
            if key != PARTITION_KEY:
                self._partition.deadlines.put(key, due_at)
        stored = self._store.get(PARTITION_KEY)
        assert stored is not None
        self._partition.row = codec.decode(stored)
        self._fill()

    def tell(self, *said: Any) -> tuple[list[Any], float]:
        """Apply events as one batch; return the records it gave, and its milliseconds."""
        records = []
        for one in said:
            tick = isinstance(one, events.ClockTicked)
            key = BROADCAST_KEY if tick else one.fleet_id.encode()
            at = one.at if tick else self.row.now
            self._offset += 1
            records.append(Record(self._offset, at, key, codec.encode(one)))
        began = time.perf_counter()
        folded = self.apply([records])
        spent = (time.perf_counter() - began) * 1e3
        assert not folded.set_aside, folded.outputs
        return [one.record for one in folded.outputs], spent

    def tick(self, milliseconds: int) -> float:
        """Let time pass; return what the tick cost."""
        at = self.row.now + milliseconds
        return self.tell(events.ClockTicked(at, at, b"r" * 32))[1]

    @property
    def figures(self) -> FleetView:
        """The figures that metrics show."""
        assert isinstance(self._view, FleetView)
        return self._view


class Causes:
    """Causes of a partition of devices, each of them new."""

    def __init__(self) -> None:
        self._offset = 0

    def next(self) -> Cause:
        """Return the next one."""
        self._offset += 1
        return Cause(Position(DEVICE_EVENTS, 0, self._offset), 0, 1)


def ends_at(number: int) -> int:
    """Return when a device's certificate ends: spread over two months, from the 31st day on."""
    return START + 31 * DAY + number * 7_919_000 % (60 * DAY)


def name(number: int) -> str:
    """Return a device's id."""
    return f"device-{number:07}"


def member(fleet_id: str, number: int) -> MemberRow:
    """Return a member's row; a few are due an hour after the start."""
    end = ends_at(number)
    return MemberRow(
        fleet_id=fleet_id,
        device_id=name(number),
        applied_offset=0,
        next_due_at=START + DAY if number < DUE else 0,
        joined_at=START - DAY,
        confirmed=True,
        source="operator",
        not_before_at=end - 90 * DAY,
        not_after_at=end,
        urgent_at=0,
        health="connected",
        health_reason="none",
        queued=(),
        order=None,
        last=None,
    )


def rows(count: int, size: int) -> Iterator[tuple[bytes, Any]]:
    """Yield every row of a partition: fleets, members, their order of expiry."""
    for number in range(count):
        fleet_id = f"fleet-{number:04}"
        devices = range(number * size, (number + 1) * size)
        yield ring.fleet_key(fleet_id), fleet_row(fleet_id, devices)
        for one in devices:
            yield ring.member_key(fleet_id, name(one)), member(fleet_id, one)
            yield ring.expiry_key(fleet_id, ends_at(one), name(one)), ExpiryRow(name(one))


def fleet_row(fleet_id: str, devices: range) -> FleetRow:
    """Return a fleet's row with the sums that its members make."""
    return FleetRow(
        fleet_id=fleet_id,
        applied_offset=0,
        next_due_at=0,
        name=fleet_id,
        tags=(),
        membership="",
        created_at=START - DAY,
        config=OPEN,
        config_version=1,
        defaults_number=0,
        zone=None,
        members=len(devices),
        confirmed=len(devices),
        not_after_sum_seconds=sum(ends_at(one) // 1000 for one in devices),
        in_work=0,
        campaigns=(),
        campaigns_ended=(),
        campaign_counter=0,
        sums=(),
        window_started_at=0,
        window_base=FleetSums(-1),
        watches=(),
    )


def measure(count: int, size: int) -> Cost:
    """Measure one shape in this process."""
    collect_rarely()
    folder = Path(tempfile.mkdtemp(prefix="fleetcert-scale-"))
    place = Place(Cluster("127.0.0.1:1"), "scale", folder / "worker", folder / "snapshots")
    try:
        return _measured(place, count, size)
    finally:
        shutil.rmtree(folder)


def _measured(place: Place, count: int, size: int) -> Cost:
    table = Table(place)
    total = count * size
    state = PartitionRow(now=START, tick_number=START, core_version=FLEETS.version, rows=2 * total)
    table.fill(rows(count, size), replace(state, applied_offset=0))
    table.close()
    disk = sum(one.stat().st_size for one in place.data_dir.rglob("*.sst"))
    before, began = resident(), time.perf_counter()
    table = Table(place)
    table.index()
    opened, memory = time.perf_counter() - began, resident() - before
    quiet = statistics.median(table.tick(1_000) for _ in range(TICKS))
    due = table.tick(START + DAY - table.row.now)
    causes, fleet_id = Causes(), "fleet-0000"
    word = _word(table, causes, fleet_id)
    renewed = _renewed(table, causes, fleet_id, size)
    after = _word(table, causes, fleet_id)
    sums, window = _sums(table, causes, fleet_id)
    began = time.perf_counter()
    together(table.figures.figures.values())
    scrape = (time.perf_counter() - began) * 1e3
    steps = _enrolled(table, fleet_id)
    table.close()
    return Cost(
        count,
        total,
        disk / total,
        memory / total,
        opened,
        quiet,
        due,
        word,
        renewed,
        after,
        sums,
        window,
        scrape,
        steps[0],
        statistics.median(steps),
        max(steps),
        min(size, len(steps) * ENROL_MAX) / sum(steps) * 1e3,
    )


def _word(table: Table, causes: Causes, fleet_id: str) -> float:
    """Return what a batch of one word about one device costs."""
    spent = []
    for number in range(TICKS):
        health = ("degraded", "connected")[number % 2]
        one = fleets.HealthReported(fleet_id, name(0), health, "none", causes.next())
        spent.append(table.tell(one)[1])
    return statistics.median(spent)


def _renewed(table: Table, causes: Causes, fleet_id: str, size: int) -> float:
    """Let the certificates that end first be renewed, in their order; return renewals a second."""
    first = sorted(range(size), key=lambda number: (ends_at(number), number))[:RENEWED_MAX]
    spent = 0.0
    for begin in range(0, len(first), BATCH):
        said = (
            fleets.MemberReported(
                fleet_id,
                name(number),
                True,
                "none",
                START,
                START + 95 * DAY + number,
                causes.next(),
            )
            for number in first[begin : begin + BATCH]
        )
        spent += table.tell(*said)[1]
    return len(first) / spent * 1e3


def _sums(table: Table, causes: Causes, fleet_id: str) -> tuple[float, float]:
    """Return what a report of sums costs, one of many partitions', and the end of a window."""
    spent = []
    for number in range(PARTITIONS):
        made = FleetSums(number, connected=10, finished=100, failed=1, latencies=(1,) * 30)
        spent.append(table.tell(fleets.FleetTotalsReported(fleet_id, made, causes.next()))[1])
    return statistics.median(spent), table.tick(WINDOW_MS)


def _enrolled(table: Table, fleet_id: str) -> list[float]:
    """Order an update of the whole fleet; return what each of the first steps costs."""
    waiting: list[Any] = [fleets.CampaignOrdered(fleet_id, "fw", UPDATE, None, "bench")]
    steps: list[float] = []
    while waiting and len(steps) < STEPS_MAX:
        said, spent = table.tell(*waiting)
        steps.append(spent)
        waiting = [one for one in said if isinstance(one, fleets.CampaignContinued)]
    return steps


def planned(size: int) -> tuple[float, float]:
    """Return the seconds of a plan of a fleet, and its resident bytes per device."""
    collect_rarely()
    before = resident()
    event = fleets.CampaignOrdered("fleet-0000", "fw", UPDATE, None, "bench")
    began = time.perf_counter()
    made = rehearsal.plan(rows(1, size), event, START)
    spent = time.perf_counter() - began
    assert made.enrolled == size, made
    return spent, (resident() - before) / size


def main(argv: list[str] | None = None) -> int:
    """Measure every shape and print tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--shapes", default="1x1000,1000x1000,1x1000000")
    parser.add_argument("--plan", default="1000,10000,100000")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.one:
        count, _, size = options.one.partition("x")
        told: Any = asdict(measure(int(count), int(size))) if size else planned(int(count))
        sys.stdout.write(f"{json.dumps(told)}\n")
        return 0
    _table([*Cost.__dataclass_fields__], (_alone(one) for one in options.shapes.split(",")))
    plans = ((one, *_alone(one)) for one in options.plan.split(","))
    _table(
        ["devices", "plan, s", "bytes a device"],
        ({"devices": int(size), "s": spent, "bytes": held} for size, spent, held in plans),
    )
    return 0


def _alone(one: str) -> Any:
    """Measure in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale", "--one", one]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _table(heads: list[str], lines: Iterable[dict[str, float]]) -> None:
    sys.stdout.write(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}\n")
    for line in lines:
        cells = (f"{one:,}" if isinstance(one, int) else f"{one:,.3g}" for one in line.values())
        sys.stdout.write(f"| {' | '.join(cells)} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
