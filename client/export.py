"""Topics to Parquet: one row per record, the record itself as JSON beside its keys."""

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from client.fleet import Found
from client.terminal import plain

ROWS_MAX = 10_000
"""Rows held in memory and written as one row group."""

SCHEMA = pa.schema(
    [
        ("topic", pa.string()),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("at", pa.timestamp("ms", tz="UTC")),
        ("key", pa.string()),
        ("kind", pa.string()),
        ("record", pa.string()),
    ]
)


def export(found: Iterable[Found], target: Path) -> int:
    """Write the records to `target`; return their number. The file appears only when whole."""
    unfinished = target.with_suffix(".unfinished")
    written, records = 0, iter(found)
    with pq.ParquetWriter(unfinished, SCHEMA, compression="zstd") as writer:
        while rows := [_row(one) for one in islice(records, ROWS_MAX)]:
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
            written += len(rows)
    unfinished.replace(target)
    return written


def _row(one: Found) -> dict[str, object]:
    kind = "" if one.record is None else type(one.record).__name__
    return {
        "topic": one.topic,
        "partition": one.partition,
        "offset": one.offset,
        "at": one.at,
        "key": one.key.decode(errors="replace"),
        "kind": kind,
        "record": json.dumps(plain(one.record), sort_keys=True),
    }
