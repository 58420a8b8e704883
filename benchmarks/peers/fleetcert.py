"""Our engine with W1 as its program: the same write order as the device machine's."""

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastavro
import faust
from work import BOOTSTRAP, CHANGELOG, COMMIT_SECONDS, EVENTS, GROUP, SCHEMA, STATE_DIR, TOPIC, tell
from work import step as step_state

from configuration.cluster import Cluster
from schemas.records import changed
from streams.app import Settings, create
from streams.core.partition import Folded, Partition
from streams.engine.program import Input

NEVER_SECONDS = 1e6
"""W1 has no deadlines: no ticks are written into its topic."""


@dataclass(slots=True)
class Readings:
    """W1's fold. A row is its 32 bytes."""

    name: str = "readings"
    events: str = TOPIC
    table: str = CHANGELOG
    outputs: tuple[str, ...] = ()
    version: int = 1
    stepped: int = 0
    schema: Any = None

    def encode(self, record: Any) -> bytes:
        """Return the row."""
        return bytes(record)

    def decode(self, data: bytes) -> bytes:
        """Return the row."""
        return data

    def view(self) -> None:
        """Return no figures."""

    def due_at(self, _data: bytes) -> int:
        """Return that no row has a deadline."""
        return 0

    def fold(self, partition: Partition[bytes], records: Sequence[Input]) -> Folded[bytes]:
        """Step every reading."""
        if not self.stepped:
            tell("first")
        read, buffer, schema, step = fastavro.schemaless_reader, io.BytesIO, self.schema, step_state
        rows: dict[bytes, bytes] = {}
        new = 0
        for record in records:
            key = record.key or b""
            state = rows.get(key)
            if state is None:
                state = partition.read(key)
                new += state is None
            event: Any = read(buffer(record.value or b""), schema, None)
            rows[key] = step(state, event["at"], event["latency"])
        partition.row = changed(
            partition.row, applied_offset=records[-1].offset, rows=partition.row.rows + new
        )
        self.stepped += len(records)
        if self.stepped == EVENTS:
            tell("done")
        return Folded(rows=rows, stepped=len(records))


def main() -> None:
    """Run one worker."""
    settings = Settings(
        cluster=Cluster(BOOTSTRAP),
        data_dir=Path(STATE_DIR),
        snapshots=Path(STATE_DIR) / "snapshots",
        application=GROUP,
        tick_seconds=NEVER_SECONDS,
        stall_seconds=NEVER_SECONDS,
        commit_seconds=COMMIT_SECONDS,
    )
    program = Readings(schema=fastavro.parse_schema(SCHEMA))
    sys.argv = sys.argv[:1]
    faust.Worker(
        create(settings, [program]), loglevel="ERROR", redirect_stdouts=False
    ).execute_from_commandline()


main()
