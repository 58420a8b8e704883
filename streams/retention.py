"""Retention: snapshots of a table, and the cutting of the history behind one that is proven.

The history is cut only behind a snapshot that was read whole and that a fold of what stands before
it gives again, byte for byte: afterwards nobody can check it any more.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from configuration.cluster import NOTICE, Cluster
from schemas.states import PARTITION_KEY
from streams.engine import history, snapshot
from streams.engine.failure import EngineFailed
from streams.engine.log import REQUEST_SECONDS, bounds
from streams.engine.program import Program
from streams.programs import DEVICES
from streams.replay import first_difference, live_rows


class TrimRefused(RuntimeError):
    """The history must not be cut there; the message says why."""


@dataclass(frozen=True, slots=True)
class Trimmed:
    """Where a partition's history begins now, and behind which snapshot."""

    partition: int
    snapshot: str
    low_before: int
    low: int


def take(
    cluster: Cluster, partition: int, directory: Path, program: Program[Any] = DEVICES
) -> Path | None:
    """Write a snapshot of the live rows and return its file; None where there are no rows."""
    live = live_rows(cluster, partition, program)
    if PARTITION_KEY not in live:
        return None
    return snapshot.write(directory, snapshot.taken(program.table, partition, live))


def prove(
    cluster: Cluster, found: snapshot.Snapshot, directory: Path, program: Program[Any] = DEVICES
) -> str:
    """Fold the history to a snapshot's offset and name the first difference; empty for none.

    The fold starts before the snapshot, at the beginning or at an older one. Raises EngineFailed
    where what comes before it cannot be folded.
    """
    head, row = found.header, found.partition_row
    start = history.base(
        cluster,
        program,
        head.partition,
        directory,
        row,
        head.applied_offset - 1,
    )
    records = history.records(
        cluster, program.events, head.partition, start.offset + 1, head.applied_offset
    )
    folded, _ = history.fold(program, head.partition, start, records, row)
    return first_difference(dict(found.rows), folded)


def trim(
    cluster: Cluster,
    partition: int,
    directory: Path,
    program: Program[Any] = DEVICES,
    *,
    dry_run: bool = False,
) -> Trimmed:
    """Delete the history up to the newest snapshot of a partition.

    Raises TrimRefused where there is none, or where it is not what the history gives;
    SnapshotDamaged where it does not hold; EngineFailed where Kafka does not answer.
    """
    files = snapshot.files(directory, program.table, partition)
    if not files:
        raise TrimRefused(
            f"{directory} holds no snapshot of {program.table}[{partition}]: take one with "
            "`fleetcert snapshot create`"
        )
    found, low = snapshot.read(files[-1]), bounds(cluster, program.events, partition).low
    following = found.header.applied_offset + 1
    if following > low:
        try:
            difference = prove(cluster, found, directory, program)
        except EngineFailed as error:
            raise TrimRefused(f"{files[-1]} cannot be proven: {error}") from error
        if difference:
            raise TrimRefused(f"{files[-1]} is not what the history gives: {difference}")
        if not dry_run:
            name = cluster.named(program.events)
            _delete(cluster, TopicPartition(name, partition, following))
    return Trimmed(partition, str(files[-1]), low, max(low, following))


def _delete(cluster: Cluster, before: TopicPartition) -> None:
    admin = AdminClient(cluster.settings(NOTICE))
    try:
        for done in admin.delete_records([before], request_timeout=REQUEST_SECONDS).values():
            done.result()
    except KafkaException as error:
        raise EngineFailed(f"{before.topic}[{before.partition}] cannot be cut: {error}") from error
