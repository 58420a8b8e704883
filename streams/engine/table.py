"""One partition of the machine's table: open it, apply batches to it, close it.

The write order, for a batch of records of one partition:
  1. `fold` steps every record in memory;
  2. one Kafka transaction holds the outputs and the changed rows;
  3. one RocksDB batch holds the rows and the changelog offset;
  4. the caller acknowledges (Faust commits the offset).

What a crash leaves, and what the next owner does:

| crash               | Kafka        | RocksDB    | offset     | next owner                        |
|---------------------|--------------|------------|------------|-----------------------------------|
| before or in 1      | -            | -          | -          | steps the batch                   |
| in 2                | aborted      | -          | -          | its fence aborts; steps the batch |
| between 2 and 3     | batch        | behind     | behind     | reads rows; skips by offset       |
| between 3 and 4     | batch        | batch      | behind     | skips by `applied_offset`         |
| stopped, then woken | fenced       | its own    | not owner  | the sleeper's commit fails: ends  |
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from schemas import codec
from schemas.states import PARTITION_KEY, PartitionRow
from streams.core.deadlines import Deadlines
from streams.core.machine import Entry, Folded, Machine, Partition, fold
from streams.engine import faults
from streams.engine.changelog import Changelog, Publication
from streams.engine.failure import EngineFailed
from streams.engine.store import Store

R = TypeVar("R", bound=Any)

CACHED_ROWS_MAX = 200_000
"""Decoded rows kept in memory per partition; the oldest leave first."""


@dataclass(frozen=True, slots=True)
class Record:
    """One Kafka record, as it came."""

    offset: int
    timestamp_at: int
    key: bytes
    value: bytes


def entry(record: Record) -> Entry:
    """Decode a record for the fold; bytes that are none say why instead."""
    try:
        event, why = codec.decode(record.value), ""
    except codec.Undecodable as error:
        event, why = None, str(error)
    return Entry(record.offset, record.timestamp_at, record.key, record.value, event, why)


class TablePartition(Generic[R]):
    """Rows, changelog and deadlines of one partition, owned by this process."""

    def __init__(
        self, machine: Machine[R], number: int, topic: str, bootstrap: str, data_dir: Path
    ) -> None:
        self._machine, self.number, self._topic = machine, number, topic
        self._changelog = Changelog(bootstrap, topic, number, "fleetcert")
        self._store = Store(data_dir / topic / str(number))
        self._cache: dict[bytes, R] = {}
        self._next = 0
        self._partition: Partition[R] = Partition(number, PartitionRow(), self._read, Deadlines())

    @property
    def row(self) -> PartitionRow:
        """The partition row as it stands."""
        return self._partition.row

    def open(self) -> int:
        """Fence, recover to the position, rebuild the deadlines; return the number of rows read.

        Raises EngineFailed where the recovery cannot finish, or where the history was folded by
        a newer core than this one.
        """
        self._changelog.fence()
        read, self._next = 0, self._store.changelog_offset
        for rows, following in self._changelog.read(self._next):
            self._store.write(dict(rows), following)
            self._next = following
            read += len(rows)
        for key, value in self._store.items():
            row = codec.decode(value)
            if key == PARTITION_KEY:
                self._partition.row = row
                continue
            self._partition.deadlines.put(key, row.next_due_at)
            if len(self._cache) < CACHED_ROWS_MAX:
                self._cache[key] = row
        if self.row.core_version > self._machine.version:
            raise EngineFailed(
                f"partition {self.number} was folded by core {self.row.core_version}, this is "
                f"{self._machine.version}: start a newer worker"
            )
        return read

    def apply(self, records: Iterable[Record]) -> Folded[R]:
        """Apply a batch in the write order. Raises EngineFailed; the process must then end."""
        faults.point("engine:before-step")
        entries = [entry(one) for one in records]
        expected = self.row.applied_offset + 1
        if entries and entries[0].offset > expected:
            raise EngineFailed(
                f"gap in the history of partition {self.number}: expected offset {expected}, "
                f"got {entries[0].offset}"
            )
        folded = fold(self._machine, self._partition, entries)
        faults.point("engine:after-step")
        if folded.skipped == len(entries):
            return folded
        rows = {key: codec.encode(row) for key, row in folded.rows.items()}
        rows[PARTITION_KEY] = codec.encode(self.row)
        publications = [
            Publication(one.topic, one.key, codec.encode(one.record)) for one in folded.outputs
        ]
        publications.extend(
            Publication(self._topic, key, value, self.number) for key, value in rows.items()
        )
        self._next = self._changelog.commit(
            publications, lambda: faults.point("engine:in-transaction")
        )
        faults.point("engine:after-commit")
        self._store.write(rows, self._next)
        faults.point("engine:after-store")
        self._remember(folded.rows)
        return folded

    def close(self) -> None:
        """Close the store; the next owner may open it."""
        self._store.close()

    def _read(self, key: bytes) -> R | None:
        found = self._cache.get(key)
        if found is None:
            stored = self._store.get(key)
            found = None if stored is None else codec.decode(stored)
        return found

    def _remember(self, rows: dict[bytes, R]) -> None:
        self._cache.update(rows)
        while len(self._cache) > CACHED_ROWS_MAX:
            del self._cache[next(iter(self._cache))]
