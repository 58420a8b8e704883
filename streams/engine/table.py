"""One partition of a program's table: open it, apply batches to it, close it.

The write order, for a batch of records of one partition:
  1. `fold` steps every record in memory;
  2. one Kafka transaction holds the outputs and the changed rows;
  3. one RocksDB batch holds the rows and the changelog offset;
  4. the group's offset follows (Faust commits it).

What a crash leaves, and what the next owner does:

| crash               | Kafka        | RocksDB    | offset     | next owner                        |
|---------------------|--------------|------------|------------|-----------------------------------|
| before or in 1      | -            | -          | -          | steps the batch                   |
| in 2                | aborted      | -          | -          | its fence aborts; steps the batch |
| between 2 and 3     | batch        | behind     | behind     | reads rows; skips by offset       |
| between 3 and 4     | batch        | batch      | behind     | skips by `applied_offset`         |
| stopped, then woken | fenced       | its own    | not owner  | the sleeper's commit fails: ends  |

Who sleeps before its fence and wakes when another owns the partition fences that owner, which ends
at its next commit unless the rebalance comes first, is started anew, and fences in turn.

The row says how far the history was applied; the group's committed offset is a hint. Records that
the group skipped are read from the history.
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import structlog

from configuration.cluster import Cluster
from schemas import codec
from schemas.envelope import BROADCAST_KEY
from schemas.states import PARTITION_KEY, PartitionRow
from streams.core.deadlines import Deadlines
from streams.core.partition import Folded, Partition
from streams.core.turn import Output
from streams.engine import faults, room, snapshot
from streams.engine.cache import Cache
from streams.engine.changelog import BY_KEY, RECOVERY_SECONDS, Changelog, Messages
from streams.engine.failure import EngineFailed
from streams.engine.log import read_between
from streams.engine.program import Input, Program, Record, View
from streams.engine.recovery import Recovery
from streams.engine.store import Position, Store
from streams.engine.waiting import joined

R = TypeVar("R", bound=Any)
log = structlog.get_logger()

CACHED_ROWS_MAX = 100_000
"""Decoded rows kept in memory per partition."""
APPLICATION = "fleetcert"
"""Begins the transactional ids: whoever owns a table's partition fences all before it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker's partitions live, and how many bytes must be free there."""

    cluster: Cluster
    group: str
    data_dir: Path
    snapshots: Path
    room_min: int = room.ROOM_BYTES_MIN


@dataclass(frozen=True, slots=True)
class Standing:
    """What is told of a partition: its row, its deadlines (how many, the first), its figures."""

    row: PartitionRow
    deadlines: int
    first_due_at: int
    view: View | None


class TablePartition(Generic[R]):
    """Rows, changelog and deadlines of one partition, owned by this process."""

    def __init__(self, program: Program[R], number: int, place: Place) -> None:
        self._program, self.number, self._place = program, number, place
        place.data_dir.mkdir(parents=True, exist_ok=True)
        room.check(place.data_dir, place.room_min)
        self._changelog = Changelog(place.cluster, program.table, number, APPLICATION)
        self._store = Store(place.data_dir / program.table / str(number))
        self._cache: Cache[R] = Cache(CACHED_ROWS_MAX)
        self._position = Position("", 0)
        self.applied = -1
        """The offset up to which the rows are written, as everyone sees them."""
        self._view = program.view()
        self._partition: Partition[R] = Partition(
            number, PartitionRow(), self._read, Deadlines(), self._scan
        )

    @property
    def row(self) -> PartitionRow:
        """The partition row as it stands."""
        return self._partition.row

    @property
    def standing(self) -> "Standing":
        """What can be told of the partition; asked for between batches."""
        deadlines = self._partition.deadlines
        return Standing(self.row, len(deadlines), deadlines.first(), self._view)

    def open(self, abandon: threading.Event) -> None:
        """Fence, recover to the position, index the deadlines.

        Raises EngineFailed where the recovery cannot finish, or where the history belongs to
        another core than this one; Abandoned once `abandon` is set.
        """
        faults.point(faults.BEFORE_FENCE)
        self._changelog.fence()
        recovery = Recovery(
            self._program,
            self.number,
            self._place.cluster,
            self._place.group,
            self._place.snapshots,
            self._store,
            self._changelog,
            abandon,
        )
        self._partition.row, self._partition.deadlines, self._position = recovery.run()
        self.applied = self.row.applied_offset
        self._check_version()
        self._mark()
        self._fill()

    def apply(self, batches: Sequence[Sequence[Input]]) -> Folded[R]:
        """Apply batches as one, in the write order.

        Raises EngineFailed; the process must then end.
        """
        room.check(self._place.data_dir, self._place.room_min)
        faults.point("engine:before-step")
        fresh, skipped = joined(batches, self.row.applied_offset + 1, self._missing)
        if not fresh:
            return Folded(skipped=skipped)
        started = time.perf_counter()
        folded = self._program.fold(self._partition, fresh)
        folded.seconds = time.perf_counter() - started
        folded.skipped += skipped
        faults.point("engine:after-step")
        encode = self._program.encode
        rows = {key: None if row is None else encode(row) for key, row in folded.rows.items()}
        rows[PARTITION_KEY] = codec.encode(self.row)
        following = self._changelog.commit(
            self._messages(folded.outputs),
            rows.items(),
            lambda: faults.point("engine:in-transaction"),
        )
        faults.point("engine:after-commit")
        self._position = Position(self._position.topic_id, following)
        due_at = self._partition.deadlines.at
        came = self._came(folded.rows)
        self._store.write(((key, due_at(key), data) for key, data in rows.items()), self._position)
        self.applied = self.row.applied_offset
        faults.point("engine:after-store")
        self._show(folded.rows, came)
        self._remember(folded.rows)
        self._check_version()
        return folded

    def close(self) -> None:
        """Close the store; the next owner may open it."""
        self._store.close()

    def _missing(self, start: int, stop: int) -> Iterator[Record]:
        """Read what the group skipped: often nothing but the marker of a transaction."""
        for one in read_between(
            self._place.cluster,
            self._program.events,
            self.number,
            start,
            stop,
            within=RECOVERY_SECONDS,
        ):
            yield Record(one.offset(), one.timestamp()[1], one.key(), one.value())

    def _messages(self, outputs: Sequence[Output]) -> dict[tuple[str, int], Messages]:
        """Return the outputs by topic and partition; a broadcast goes to all partitions."""
        encode = self._program.encode
        by_place: dict[tuple[str, int], Messages] = {}
        for one in outputs:
            numbers = [BY_KEY]
            if one.key == BROADCAST_KEY:
                numbers = list(range(self._changelog.partitions(one.topic)))
            data = encode(one.record)
            for number in numbers:
                message = {"key": one.key, "value": data}
                by_place.setdefault((one.topic, number), []).append(message)
        if undeclared := {topic for topic, _ in by_place}.difference(self._program.outputs):
            raise EngineFailed(f"{self._program.name} writes to {undeclared}, which it hides")
        return by_place

    def _check_version(self) -> None:
        """Raise EngineFailed unless the history goes on with this core."""
        theirs, ours = self.row.core_version, self._program.version
        where = f"partition {self.number} of {self._program.events}"
        if theirs > ours:
            raise EngineFailed(
                f"{where} goes on with core {theirs} from offset {self.row.core_since}, this is "
                f"core {ours}: start a newer worker"
            )
        if theirs < ours:
            raise EngineFailed(
                f"{where} is folded by core {theirs}, this is core {ours}: let workers of core "
                f"{theirs} reach the mark of `fleetcert core activate {ours}` first"
            )

    def _mark(self) -> None:
        """Write the snapshot that marks an upgrade, where this core is about to begin."""
        row = self.row
        if row.core_since < 0 or row.applied_offset != row.core_since:
            return
        rows = dict(self._store.items())
        path = snapshot.write(
            self._place.snapshots, snapshot.taken(self._program.table, self.number, rows)
        )
        log.info(
            "snapshot.marked", partition=self.number, core_version=row.core_version, file=str(path)
        )

    def _fill(self) -> None:
        """Fill the view with the rows that were recovered."""
        view = self._view
        if view is None:
            return
        for prefix in view.rows:
            for key, row in self._store.below(prefix):
                view.row(key, self._program.decode(row))
        for prefix in view.keys:
            for key, _ in self._store.below(prefix):
                view.key(key, 1)
        view.settle(self._first)

    def _came(self, rows: Mapping[bytes, R | None]) -> dict[bytes, int]:
        """Return which of the keys that a view counts come (1) and go (-1) with these rows."""
        if self._view is None:
            return {}
        counted, get = self._view.keys, self._store.get
        before = {key: get(key) is not None for key in rows if key.startswith(counted)}
        return {key: (rows[key] is not None) - there for key, there in before.items()}

    def _show(self, rows: Mapping[bytes, R | None], came: Mapping[bytes, int]) -> None:
        """Let the view follow a batch that is written."""
        view = self._view
        if view is None or not rows:
            return
        for key, row in rows.items():
            if key.startswith(view.rows):
                view.row(key, row)
        for key, by in came.items():
            if by:
                view.key(key, by)
        view.settle(self._first)

    def _first(self, prefix: bytes) -> bytes | None:
        return next((key for key, _ in self._store.scan(prefix, b"", 1)), None)

    def _remember(self, rows: Mapping[bytes, R | None]) -> None:
        gone = [key for key, row in rows.items() if row is None]
        for key in gone:
            self._cache.drop(key)
        kept = {key: row for key, row in rows.items() if row is not None} if gone else rows
        self._cache.update(cast(Mapping[bytes, R], kept))

    def _scan(self, prefix: bytes, after: bytes, limit: int) -> list[tuple[bytes, R]]:
        more = PARTITION_KEY.startswith(prefix)  # it lies among the machine's rows and is none
        found, decode = self._store.scan(prefix, after, limit + more), self._program.decode
        return [(key, decode(row)) for key, row in found if key != PARTITION_KEY][:limit]

    def _read(self, key: bytes) -> R | None:
        found = self._cache.get(key)
        if found is None:
            stored = self._store.get(key)
            found = None if stored is None else self._program.decode(stored)
        return found
