"""Replay: fold the history again and compare with the live rows, byte for byte.

The live rows are what `device.state` holds; the partition row says up to which offset of
`device.events` they stand. Folding the history to that offset must give the same bytes for every
key. A digest per partition (SHA-256 over sorted keys and rows) makes the result easy to quote.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from schemas import codec
from schemas.states import PARTITION_KEY, DeviceRow, PartitionRow
from schemas.topics import DEVICE_EVENTS, DEVICE_STATE
from streams.core.deadlines import Deadlines
from streams.core.device import MACHINE
from streams.core.machine import Entry, Partition, fold
from streams.core.turn import Output
from streams.engine.log import read_to_end
from streams.engine.table import Record, entry

READ_SECONDS = 3_600.0
FOLD_MAX = 1_000
"""Records folded at a time, so that outputs need not be held."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the comparison of one partition gave; `difference` is empty where all is equal."""

    partition: int
    events: int
    rows: int
    applied_offset: int
    live_digest: str
    replayed_digest: str
    difference: str

    @property
    def identical(self) -> bool:
        """Tell whether every row is the same, byte for byte."""
        return not self.difference


def digest(rows: dict[bytes, bytes]) -> str:
    """Return the SHA-256 (hex) over keys and rows, in the order of the keys."""
    total = hashlib.sha256()
    for key in sorted(rows):
        for part in (key, rows[key]):
            total.update(len(part).to_bytes(4, "big"))
            total.update(part)
    return total.hexdigest()


def live_rows(bootstrap: str, partition: int) -> dict[bytes, bytes]:
    """Return the newest row of every key in `device.state`."""
    rows: dict[bytes, bytes] = {}
    chunks = read_to_end(bootstrap, DEVICE_STATE, partition, 0, within=READ_SECONDS)
    for message in (one for chunk in chunks for one in chunk.messages):
        if message.value() is None:
            rows.pop(message.key(), None)
        else:
            rows[message.key()] = message.value()
    return rows


def history(bootstrap: str, partition: int, last: int) -> Iterator[Record]:
    """Yield the records of `device.events` up to and with offset `last`."""
    chunks = read_to_end(bootstrap, DEVICE_EVENTS, partition, 0, within=READ_SECONDS)
    for message in (one for chunk in chunks for one in chunk.messages):
        if message.offset() > last:
            return
        yield Record(
            message.offset(), message.timestamp()[1], message.key() or b"", message.value() or b""
        )


def fold_history(
    number: int,
    records: Iterable[Record],
    live: PartitionRow | None = None,
    on_output: Callable[[Output], None] = lambda output: None,
) -> tuple[dict[bytes, bytes], int]:
    """Fold from nothing; return the encoded rows by key and the number of records.

    What the `live` row says was set aside, when it was folded first, is set aside here too.
    """
    rows: dict[bytes, DeviceRow] = {}
    live = live or PartitionRow()
    start = PartitionRow(set_aside=live.set_aside, wakings=live.wakings)
    partition: Partition[DeviceRow] = Partition(number, start, rows.get, Deadlines())
    events, waiting = 0, []
    for record in records:
        events += 1
        waiting.append(entry(record))
        if len(waiting) == FOLD_MAX:
            _fold(partition, rows, waiting, on_output)
            waiting = []
    _fold(partition, rows, waiting, on_output)
    encoded = {key: codec.encode(row) for key, row in rows.items()}
    encoded[PARTITION_KEY] = codec.encode(partition.row)
    return encoded, events


def verify(bootstrap: str, partition: int, on_record: Callable[[], None] = lambda: None) -> Verdict:
    """Compare the live rows of one partition with a fold of its history.

    Raises EngineFailed where a topic cannot be read to its end.
    """
    live = live_rows(bootstrap, partition)
    stored = live.get(PARTITION_KEY)
    row = PartitionRow() if stored is None else codec.decode(stored)

    def counted() -> Iterator[Record]:
        for record in history(bootstrap, partition, row.applied_offset):
            on_record()
            yield record

    replayed, events = fold_history(partition, counted(), row)
    if stored is None:
        replayed.pop(PARTITION_KEY)
    return Verdict(
        partition=partition,
        events=events,
        rows=len(live),
        applied_offset=row.applied_offset,
        live_digest=digest(live),
        replayed_digest=digest(replayed),
        difference=first_difference(live, replayed),
    )


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


def _fold(
    partition: Partition[DeviceRow],
    rows: dict[bytes, DeviceRow],
    entries: list[Entry],
    on_output: Callable[[Output], None],
) -> None:
    folded = fold(MACHINE, partition, entries)
    rows.update(folded.rows)
    for output in folded.outputs:
        on_output(output)
