"""Recovery: a partition's rows made whole before its owner folds on.

The store on the disk is a prefix of the changelog; what is missing is read. It is thrown away
where it is none: the topic was made anew, the changelog ends before it, or the changelog was cut
behind it (rows that changed in the part that is gone would stay old). Then the changelog is read
from its first record.

A changelog that was cut does not hold all rows any more. It shows: the partition row counts them.
The rows are then folded again from the history, without publishing their outputs, and written to
the changelog. Where even the partition row is gone, the group's committed offset says how far the
history was applied; effects of the last moments before the loss may come twice, under their ids.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import structlog

from configuration.cluster import Cluster
from schemas import codec
from schemas.states import PARTITION_KEY, PartitionRow
from streams.core.deadlines import Deadlines
from streams.engine import history
from streams.engine.changelog import Changelog
from streams.engine.failure import EngineFailed
from streams.engine.log import Bounds, committed
from streams.engine.program import Program
from streams.engine.store import Position, Store

log = structlog.get_logger()

TRANSACTION_ROWS_MAX = 20_000
"""Rows of one transaction of a rebuilding."""


class Abandoned(Exception):
    """The partition was revoked while it was being opened."""


@dataclass(slots=True)
class Recovery:
    """What a recovery works on. `abandon` ends it early."""

    program: Program[Any]
    partition: int
    cluster: Cluster
    group: str
    snapshots: Path
    store: Store
    changelog: Changelog
    abandon: threading.Event

    def run(self) -> tuple[PartitionRow, Deadlines, Position]:
        """Make the store whole; return the partition row, the deadlines and where it stands.

        Raises EngineFailed where it cannot be done, Abandoned where it is no longer wanted.
        """
        topic_id = self.changelog.topic_id()
        kept, left_open = self.changelog.look()
        at = self.store.position
        objection = "" if at is None else _objection(at, topic_id, kept)
        if at is None or objection:
            at = self._emptied(topic_id, kept.low, objection)
        if left_open:  # behind the look at the store, which may hold rows of it
            log.warning("transaction.left_open", partition=self.partition, offset=kept.high)
            self.changelog.abort_open(self.program.outputs)
        at = self._read(at)
        row, deadlines, rows = self._index()
        nothing_yet = left_open and kept.high == 0
        last = -1 if nothing_yet else self._applied(row, rows, kept)
        if rows == row.rows and last == row.applied_offset:
            return row, deadlines, at
        at = self._rebuilt(row, rows, last, at)
        row, deadlines, _ = self._index()
        return row, deadlines, at

    def _applied(self, row: PartitionRow, rows: int, kept: Bounds) -> int:
        """Return up to which offset the history was applied: the group knows if no row does."""
        if row.applied_offset >= 0:
            return row.applied_offset
        following = committed(self.cluster, self.group, self.program.events, self.partition)
        if following is None and (rows or kept.low):
            raise EngineFailed(
                f"{self.changelog.topic}[{self.partition}] was emptied, and group {self.group} has "
                "no offset: nobody knows how far the history was applied"
            )
        return (following or 0) - 1

    def _emptied(self, topic_id: str, low: int, objection: str) -> Position:
        if objection:
            log.warning("store.discarded", partition=self.partition, reason=objection)
            self.store.clear()
        return Position(topic_id, low)

    def _read(self, at: Position) -> Position:
        """Read the changelog from `at` to its end into the store."""
        for rows, following in self.changelog.read(at.offset):
            if self.abandon.is_set():
                raise Abandoned
            at = Position(at.topic_id, following)
            self._write(rows, at)
        return at

    def _index(self) -> tuple[PartitionRow, Deadlines, int]:
        """Return the partition row, the deadlines and the number of rows in the store."""
        deadlines, rows = Deadlines(), 0
        for key, due_at in self.store.deadlines():
            if key != PARTITION_KEY:
                deadlines.put(key, due_at)
                rows += 1
        stored = self.store.get(PARTITION_KEY)
        row = PartitionRow(core_version=self.program.version)
        return row if stored is None else codec.decode(stored), deadlines, rows

    def _rebuilt(self, row: PartitionRow, rows: int, last: int, at: Position) -> Position:
        """Fold the rows up to `last` from the history, and write them to changelog and store."""
        log.warning(
            "table.rebuilding", partition=self.partition, rows=rows, expected=row.rows, to=last
        )
        start = history.base(
            self.cluster,
            self.program,
            self.partition,
            self.snapshots,
            row,
            last,
        )
        inputs = history.records(
            self.cluster, self.program.events, self.partition, start.offset + 1, last
        )
        whole, _ = history.fold(self.program, self.partition, start, inputs, row)
        published = iter(whole.items())  # the partition row is the last: until then rows are short
        while some := list(islice(published, TRANSACTION_ROWS_MAX)):
            at = Position(at.topic_id, self.changelog.commit({}, some))
        self.store.clear()
        self._write(whole.items(), at)
        return at

    def _write(self, rows: Iterable[tuple[bytes, bytes | None]], at: Position) -> None:
        due_at = self.program.due_at
        self.store.write(
            (
                (key, 0 if row is None or key == PARTITION_KEY else due_at(row), row)
                for key, row in rows
            ),
            at,
        )


def _objection(at: Position, topic_id: str, kept: Bounds) -> str:
    """Say why a store is no prefix of the changelog; empty where it is one."""
    if at.topic_id != topic_id:
        return "the changelog was made anew"
    if at.offset > kept.high:
        return f"the changelog ends at {kept.high}, before {at.offset}"
    if at.offset + 1 < kept.low:  # one less may be: the last transaction's marker stands there
        return f"the changelog begins at {kept.low}, behind {at.offset}"
    return ""
