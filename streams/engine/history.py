"""The history of one partition folded again: what replay, rebuilding and verification stand on."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from configuration.cluster import Cluster
from schemas import codec
from schemas.states import PARTITION_KEY, PartitionRow
from streams.core.deadlines import Deadlines
from streams.core.partition import Partition
from streams.core.rows import Ordered
from streams.core.turn import Output
from streams.engine import snapshot
from streams.engine.failure import EngineFailed
from streams.engine.log import bounds, read_to_end
from streams.engine.program import Input, Program, Record

R = TypeVar("R", bound=Any)

READ_SECONDS = 3_600.0
FOLD_MAX = 1_000
"""Records folded at a time, so that outputs need not be held."""


@dataclass(frozen=True, slots=True)
class Base:
    """Where a fold starts: the rows as they stood behind `offset`, none at -1."""

    offset: int
    rows: Mapping[bytes, bytes]
    damaged: tuple[str, ...] = ()


def records(
    cluster: Cluster, topic: str, partition: int, first: int, last: int
) -> Iterator[Record]:
    """Yield the records of the history from offset `first` up to and with `last`."""
    if last < first:
        return
    chunks = read_to_end(cluster, topic, partition, first, within=READ_SECONDS)
    for message in (one for chunk in chunks for one in chunk.messages):
        if message.offset() > last:
            return
        yield Record(message.offset(), message.timestamp()[1], message.key(), message.value())


def base(
    cluster: Cluster,
    program: Program[Any],
    partition: int,
    directory: Path,
    row: PartitionRow,
    last: int,
) -> Base:
    """Return where a fold up to `last` starts: at the beginning, or at a snapshot.

    `row` says under which core. A snapshot is needed where the history was cut, or was begun under
    another core. The oldest sound one is taken: it proves the most. Raises EngineFailed where
    there is none, or where the history goes on with a newer core than this one.
    """
    core_since = row.core_since
    if row.core_version > program.version:
        raise EngineFailed(
            f"{program.events}[{partition}] goes on with core {row.core_version} from offset "
            f"{core_since}, this is core {program.version}: use a newer fleetcert"
        )
    low = bounds(cluster, program.events, partition).low
    if core_since < 0 and low == 0:
        return Base(-1, {})
    found, damaged = snapshot.base(
        directory, program.table, partition, first=max(low - 1, core_since), last=last
    )
    if found is None:
        why = f"core {program.version} goes on from offset {core_since}"
        if low - 1 > core_since:
            why = f"it begins at {low}"
        raise EngineFailed(
            f"{program.events}[{partition}] cannot be folded from its beginning ({why}) and "
            f"{directory} holds no sound snapshot behind it"
            + "".join(f"; {one}" for one in damaged)
        )
    return Base(found.header.applied_offset, found.rows, tuple(damaged))


def fold(
    program: Program[R],
    partition: int,
    start: Base,
    inputs: Iterable[Input],
    live: PartitionRow,
    on_output: Callable[[Output], None] = lambda output: None,
) -> tuple[dict[bytes, bytes], int]:
    """Fold from `start`; return the encoded rows by key and the number of records.

    What the `live` row says was set aside, when it was folded first, is set aside here too.
    """
    encoded, state = dict(start.rows), PartitionRow(core_version=program.version)
    if PARTITION_KEY in encoded:
        state = codec.decode(encoded.pop(PARTITION_KEY))
    rows, deadlines = Ordered(), Deadlines()
    for key, data in encoded.items():
        rows.put(key, program.decode(data))
        deadlines.put(key, program.due_at(data))
    folding: Partition[R] = Partition(
        partition,
        replace(state, set_aside=live.set_aside, wakings=live.wakings),
        rows.get,
        deadlines,
        rows.scan,
    )
    events, waiting = 0, iter(inputs)
    while batch := list(islice(waiting, FOLD_MAX)):
        events += len(batch)
        folded = program.fold(folding, batch)
        for key, row in folded.rows.items():
            if row is None:
                rows.delete(key)
            else:
                rows.put(key, row)
        for output in folded.outputs:
            on_output(output)
    encoded = {key: program.encode(row) for key, row in rows.items()}
    encoded[PARTITION_KEY] = codec.encode(folding.row)
    return encoded, events
