"""Replay: fold the history again and compare with the live rows, byte for byte.

The live rows are what the table's topic holds; the partition row says up to which offset of the
history they stand. Folding the history to that offset must give the same bytes for every key. The
fold starts at the beginning, or at the oldest sound snapshot where the history before it was cut
or belongs to another core. A digest per partition makes the result easy to quote.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configuration.cluster import Cluster
from schemas import codec
from schemas.states import PARTITION_KEY, PartitionRow
from streams.core.turn import Output
from streams.engine import history
from streams.engine.log import read_to_end
from streams.engine.program import Input, Program
from streams.engine.snapshot import digest
from streams.programs import DEVICES

SNAPSHOTS = Path("var/stack/snapshots")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the comparison of one partition gave; `difference` is empty where all is equal.

    `base_offset` is where the fold started, -1 for the beginning; `damaged` names snapshots that
    do not hold.
    """

    partition: int
    events: int
    rows: int
    applied_offset: int
    live_digest: str
    replayed_digest: str
    difference: str
    base_offset: int = -1
    damaged: tuple[str, ...] = ()

    @property
    def identical(self) -> bool:
        """Tell whether every row is the same, byte for byte."""
        return not self.difference


def live_rows(
    cluster: Cluster, partition: int, program: Program[Any] = DEVICES
) -> dict[bytes, bytes]:
    """Return the newest row of every key in the program's table."""
    rows: dict[bytes, bytes] = {}
    chunks = read_to_end(cluster, program.table, partition, 0, within=history.READ_SECONDS)
    for message in (one for chunk in chunks for one in chunk.messages):
        if message.value() is None:
            rows.pop(message.key(), None)
        else:
            rows[message.key()] = message.value()
    return rows


def verify(
    cluster: Cluster,
    partition: int,
    on_record: Callable[[], None] = lambda: None,
    *,
    on_output: Callable[[Output], None] = lambda output: None,
    snapshots: Path = SNAPSHOTS,
    program: Program[Any] = DEVICES,
) -> Verdict:
    """Compare the live rows of one partition with a fold of its history.

    Raises EngineFailed where a topic cannot be read to its end, or where the history cannot be
    folded to the live rows' offset: it was cut and no sound snapshot stands there.
    """
    live = live_rows(cluster, partition, program)
    stored = live.get(PARTITION_KEY)
    row = PartitionRow() if stored is None else codec.decode(stored)
    start = history.base(
        cluster,
        program,
        partition,
        snapshots,
        row,
        row.applied_offset,
    )
    replayed, events = _replayed(cluster, program, partition, start, row, on_record, on_output)
    if stored is None:
        replayed.pop(PARTITION_KEY)
    return Verdict(
        partition=partition,
        events=events,
        rows=len(live),
        applied_offset=row.applied_offset,
        base_offset=start.offset,
        live_digest=digest(live),
        replayed_digest=digest(replayed),
        difference=first_difference(live, replayed),
        damaged=start.damaged,
    )


def _replayed(
    cluster: Cluster,
    program: Program[Any],
    partition: int,
    start: history.Base,
    row: PartitionRow,
    on_record: Callable[[], None],
    on_output: Callable[[Output], None],
) -> tuple[dict[bytes, bytes], int]:
    def counted() -> Iterator[Input]:
        for record in history.records(
            cluster, program.events, partition, start.offset + 1, row.applied_offset
        ):
            on_record()
            yield record

    return history.fold(program, partition, start, counted(), row, on_output)


def first_difference(live: dict[bytes, bytes], replayed: dict[bytes, bytes]) -> str:
    """Name the first key whose rows differ, and the field; empty where none does."""
    for key in sorted(live.keys() | replayed.keys()):
        if live.get(key) == replayed.get(key):
            continue
        name = key.decode(errors="replace")
        if key not in live:
            return f"{name}: absent from the live rows"
        if key not in replayed:
            return f"{name}: absent from the replay"
        return f"{name}: {_field(live[key], replayed[key])}"
    return ""


def _field(live: bytes, replayed: bytes) -> str:
    try:
        here, there = codec.decode(live), codec.decode(replayed)
    except codec.Undecodable as error:
        return f"the live row is undecodable ({error})"
    for field in type(there).__dataclass_fields__:
        if getattr(here, field, None) != getattr(there, field):
            return f"{field} is {getattr(here, field, None)!r}, replayed {getattr(there, field)!r}"
    return "the encodings differ"
