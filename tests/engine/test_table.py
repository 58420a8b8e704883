"""What a fold reads of the rows on the disk: the same as a replay reads of those in memory."""

from pathlib import Path

import pytest

from configuration.cluster import Cluster
from schemas import codec
from schemas.states import PARTITION_KEY, PartitionRow
from streams.core.rows import Ordered
from streams.engine.store import Position
from streams.engine.table import Place, TablePartition
from streams.programs import DEVICES
from tests.helpers.folding import Log

KEYS = (b"9", b"a", b"b")
"""Before and behind the partition row's key."""


@pytest.mark.parametrize("after", [b"", b"9", PARTITION_KEY, b"a"])
@pytest.mark.parametrize("limit", [1, 2, 3, 9])
def test_a_scan_of_all_rows_finds_those_of_a_replay(
    tmp_path: Path, after: bytes, limit: int
) -> None:
    """The partition row lies among them on the disk and is none of them: it takes no place."""
    place = Place(Cluster(bootstrap="127.0.0.1:1"), "tests", tmp_path, tmp_path)
    table = TablePartition(DEVICES, 0, place)
    row, replayed = Log().registered().row, Ordered()
    stored = [(key, 0, codec.encode(row)) for key in KEYS]
    partition = (PARTITION_KEY, 0, codec.encode(PartitionRow()))
    table._store.write([*stored, partition], Position("topic", 1))
    for key in KEYS:
        replayed.put(key, row)
    assert table._scan(b"", after, limit) == replayed.scan(b"", after, limit)
    table.close()
