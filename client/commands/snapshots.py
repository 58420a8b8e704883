"""`fleetcert snapshot|history|core`: snapshots, cutting the history, upgrades of the core."""

from pathlib import Path
from typing import Annotated

import typer
from confluent_kafka import Producer

from client import instants, terminal
from client.commands.options import (
    EXIT_DIFFERENT,
    KAFKA,
    SNAPSHOTS,
    Directory,
    Json,
    Kafka,
    Yes,
    examples,
)
from client.fleet import Fleet, FleetError
from schemas import codec
from schemas.envelope import BROADCAST_KEY
from schemas.events import CoreVersionActivated
from schemas.topics import DEVICE_EVENTS, PARTITIONER
from streams import retention
from streams.engine import snapshot
from streams.engine.snapshot import SnapshotDamaged
from streams.programs import DEVICES

SEND_SECONDS = 15.0

snapshots = typer.Typer(help="Take, list and verify snapshots of the rows.", no_args_is_help=True)
histories = typer.Typer(help="Cut the history behind a snapshot.", no_args_is_help=True)
cores = typer.Typer(help="Show or activate the version of the core.", no_args_is_help=True)


def add_to(app: typer.Typer, panel: str) -> None:
    """Add the commands to the command line."""
    app.add_typer(snapshots, name="snapshot", rich_help_panel=panel)
    app.add_typer(histories, name="history", rich_help_panel=panel)
    app.add_typer(cores, name="core", rich_help_panel=panel)


@snapshots.command("create", epilog=examples("snapshot create"))
def create(directory: Directory = SNAPSHOTS, cluster: Kafka = KAFKA, as_json: Json = False) -> None:
    """Write a snapshot of every partition, at the offset up to which its rows stand now."""
    for number in Fleet(cluster).partitions(DEVICE_EVENTS):
        path = retention.take(cluster, number, directory)
        if as_json:
            terminal.as_json({"partition": number, "file": str(path) if path else ""})
            continue
        terminal.say(f"partition {number}: {path or 'has no rows yet'}")


@snapshots.command("list", epilog=examples("snapshot list --json"))
def listed(directory: Directory = SNAPSHOTS, as_json: Json = False) -> None:
    """List the snapshots; what they say of themselves is not checked."""
    try:
        heads = [snapshot.header(path) for path in _files(directory)]
    except SnapshotDamaged as error:
        raise FleetError(str(error)) from error
    if as_json:
        for head in heads:
            terminal.as_json(head)
        return
    columns = ("table", "partition", "offset", "core", "rows", "digest", "written (UTC)")
    terminal.table(
        f"{terminal.count(len(heads), 'snapshot')} in {directory}",
        columns,
        [
            (
                one.table,
                str(one.partition),
                str(one.applied_offset),
                str(one.core_version),
                str(one.rows),
                one.digest[:16],
                instants.shown(one.written_at),
            )
            for one in heads
        ],
    )


@snapshots.command("verify", epilog=examples("snapshot verify"))
def verify(directory: Directory = SNAPSHOTS, as_json: Json = False) -> None:
    """Read every snapshot whole and check it; exit code 4 where one is damaged, 1 without any."""
    files, damaged = _files(directory), False
    if not files:
        raise FleetError(
            f"no snapshot in {directory}: take one with `fleetcert snapshot create`, or name "
            "their folder with --snapshots"
        )
    for path in files:
        head, why = None, ""
        try:
            head = snapshot.read(path).header
        except SnapshotDamaged as error:
            damaged, why = True, str(error)
        if as_json:
            terminal.as_json({"file": str(path), "damage": why, "header": head})
        elif head is None:
            terminal.say(f"DAMAGED: {why}")
        else:
            terminal.say(f"{path}: {head.rows} rows, {head.digest[:16]}: holds")
    if damaged:
        raise typer.Exit(EXIT_DIFFERENT)


def _files(directory: Path) -> list[Path]:
    return sorted(directory.rglob(f"*{snapshot.SUFFIX}"))


@histories.command(
    "trim",
    epilog=examples("history trim --before-snapshot --dry-run", "history trim --before-snapshot"),
)
def trim(
    before_snapshot: Annotated[
        bool, typer.Option("--before-snapshot", help="Delete what the newest snapshots replace.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Prove, but delete nothing.")] = False,
    yes: Yes = False,
    directory: Directory = SNAPSHOTS,
    cluster: Kafka = KAFKA,
    as_json: Json = False,
) -> None:
    """Delete records of device.events behind the newest snapshot, once it is proven by a fold."""
    if not before_snapshot:
        raise FleetError("say how far: `fleetcert history trim --before-snapshot`")
    if not dry_run:
        terminal.confirm("Records behind the newest snapshots will be deleted for good.", yes=yes)
    for number in Fleet(cluster).partitions(DEVICE_EVENTS):
        try:
            done = retention.trim(cluster, number, directory, dry_run=dry_run)
        except (retention.TrimRefused, SnapshotDamaged) as error:
            raise FleetError(str(error)) from error
        if as_json:
            terminal.as_json(done)
            continue
        verb = "would begin" if dry_run else "begins"
        terminal.say(f"partition {number}: {verb} at {done.low}, behind {done.snapshot}")


@cores.command("show", epilog=examples("core show"))
def core_show(cluster: Kafka = KAFKA, as_json: Json = False) -> None:
    """Show by which version of the core each partition is folded, and since which offset."""
    fleet = Fleet(cluster)
    for number in fleet.partitions(DEVICE_EVENTS):
        row = fleet.partition_row(number)
        if as_json:
            version = {"core_version": row.core_version, "core_since": row.core_since}
            terminal.as_json({"partition": number, **version})
            continue
        since = "the beginning" if row.core_since < 0 else f"offset {row.core_since}"
        terminal.say(f"partition {number}: core {row.core_version} since {since}")
    if not as_json:
        terminal.say(f"installed here: core {DEVICES.version}")


@cores.command("activate", epilog=examples("core activate 2"))
def core_activate(
    version: Annotated[int, typer.Argument(help="The new core's version.")],
    yes: Yes = False,
    cluster: Kafka = KAFKA,
    as_json: Json = False,
) -> None:
    """Record in every partition that the history goes on with another core.

    Workers of the older core stop there and never start again; those of the new one write a
    snapshot of that offset and go on. There is no way back.
    """
    fleet = Fleet(cluster)
    rows = {number: fleet.partition_row(number) for number in fleet.partitions(DEVICE_EVENTS)}
    behind = {number: row for number, row in rows.items() if row.core_version < version}
    for number, row in rows.items():
        if row.core_version > version:
            raise FleetError(f"partition {number} is folded by core {row.core_version} already")
    if behind:
        terminal.confirm(f"Workers older than core {version} will end for good.", yes=yes)
    producer = Producer(cluster.settings({"partitioner": PARTITIONER, "acks": "all"}))
    topic = cluster.named(DEVICE_EVENTS)
    for number, row in behind.items():
        event = CoreVersionActivated(row.broadcast_number + 1, version)
        producer.produce(topic, codec.encode(event), BROADCAST_KEY, partition=number)
    if producer.flush(SEND_SECONDS):
        raise FleetError(f"Kafka at {cluster} did not take the record; try again")
    if as_json:
        return terminal.as_json({"core_version": version, "partitions": sorted(behind)})
    terminal.say(f"core {version} is recorded in {len(behind)} partitions; start its workers")
