"""`fleetcert device import|tag|retire|replace`: what changes the registry beside one `register`."""

import contextlib
import csv
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from client import bulk, terminal
from client.commands import devices
from client.commands.options import KAFKA, DeviceId, Json, Kafka, Yes, examples
from client.fleet import Fleet

app = devices.app
SHOWN_MAX = 20
"""Refused lines that the terminal shows; --report has them all."""
STDIN = "-"


@app.command(
    "import",
    epilog=examples(
        "device import devices.csv",
        "device import devices.yaml --dry-run",
        "cat devices.jsonl | fleetcert device import - --report refused.csv",
    ),
)
def import_devices(
    file: Annotated[str, typer.Argument(help="CSV, JSON, JSON lines or YAML; - for stdin.")],
    form: Annotated[str, typer.Option("--format", help="csv, json, jsonl or yaml.")] = "",
    report: Annotated[
        Path | None, typer.Option(help="Write the refused lines: .csv, else JSON lines.")
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Describe those anew that are registered.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all, write nothing.")] = False,
    cluster: Kafka = KAFKA,
    as_json: Json = False,
) -> None:
    """Register many devices, one a row; exit code 1 where any was refused.

    A device that is registered is left as it is: repeat the import as often as you like.
    """
    started, folder = time.monotonic(), Path() if file == STDIN else Path(file).parent
    with Fleet(cluster) as fleet, _opened(file) as (raw, size):
        registered = frozenset() if update else frozenset(fleet.ids())
        form = form or bulk.form_of(file, raw.peek().decode(errors="replace"))
        stream = TextIOWrapper(raw, encoding="utf-8-sig", newline="")
        with terminal.progress("importing", size) as done:
            outcome = bulk.register(
                _shown(bulk.rows(stream, form), done),
                registered.__contains__,
                (lambda one: None) if dry_run else fleet.write,
                lambda path: (folder / path).read_bytes(),
            )
            fleet.flush()
    if report is not None:
        _write(report, outcome.refusals)
    _tell(outcome, time.monotonic() - started, dry_run, as_json)
    if outcome.refused:
        raise typer.Exit(1)


@app.command(
    "tag", epilog=examples("device tag pump-7 site=berlin beta", "device tag pump-7 -r beta")
)
def tag(
    device_id: DeviceId,
    tags: Annotated[
        list[str] | None, typer.Argument(help="Tags to set: NAME or NAME=VALUE.")
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", "-r", help="A tag, or a name with any value.")
    ] = None,
    cluster: Kafka = KAFKA,
    as_json: Json = False,
) -> None:
    """Set or remove a device's tags; fleets with a query take it or let it go by them."""
    with Fleet(cluster) as fleet:
        held = fleet.tag(device_id, tags or (), remove or ())
    if as_json:
        return terminal.as_json({"device_id": device_id, "tags": held})
    terminal.say(f"{device_id}: {' '.join(held) or 'no tags'}")


@app.command("retire", epilog=examples("device retire pump-7", "device retire pump-7 --yes"))
def retire(
    device_id: DeviceId, yes: Yes = False, cluster: Kafka = KAFKA, as_json: Json = False
) -> None:
    """Retire a device for good: its certificate is refused and revoked, it leaves its fleet."""
    with Fleet(cluster) as fleet:
        fleet.device(device_id)
        terminal.confirm(f"{device_id} will be retired for good.", yes=yes)
        fleet.retire(device_id)
    if as_json:
        return terminal.as_json({"device_id": device_id})
    terminal.say(f"{device_id} is retired; its id is never used again")


@app.command("replace", epilog=examples("device replace pump-7 pump-7b"))
def replace(
    old: DeviceId,
    new: Annotated[str, typer.Argument(help="The registered device that takes its place.")],
    yes: Yes = False,
    cluster: Kafka = KAFKA,
    as_json: Json = False,
) -> None:
    """Retire a device and give another one its tags and its place in the fleet."""
    with Fleet(cluster) as fleet:
        fleet.device(old)
        fleet.device(new)
        terminal.confirm(f"{old} will be retired for good.", yes=yes)
        fleet.retire(old, replaced_by=new)
    if as_json:
        return terminal.as_json({"device_id": old, "replaced_by": new})
    terminal.say(f"{old} is retired, {new} takes its place")


def _shown(rows: Iterator[bulk.Row], done: Callable[[int], None]) -> Iterator[bulk.Row]:
    """Pass rows on; the bar goes as far as the text is read."""
    read_to = 0
    for row in rows:
        yield row
        done(row.read_to - read_to)
        read_to = row.read_to


@contextlib.contextmanager
def _opened(name: str) -> Iterator[tuple[BufferedReader, int | None]]:
    """Open a file or standard input; tell its size where it has one."""
    if name == STDIN:
        yield sys.stdin.buffer, None  # type: ignore[misc]
        return
    with open(name, "rb") as opened:
        yield opened, Path(name).stat().st_size or None


def _write(path: Path, refusals: list[bulk.Refusal]) -> None:
    with path.open("w", newline="") as out:
        if path.suffix == ".csv":
            writer = csv.DictWriter(out, [one.name for one in fields(bulk.Refusal)])
            writer.writeheader()
            writer.writerows(asdict(one) for one in refusals)
        else:
            out.writelines(f"{json.dumps(asdict(one))}\n" for one in refusals)


def _tell(outcome: bulk.Outcome, seconds: float, dry_run: bool, as_json: bool) -> None:
    if as_json:
        for one in outcome.refusals:
            terminal.as_json(one)
        counts = {name: getattr(outcome, name) for name in ("registered", "known", "refused")}
        return terminal.as_json({**counts, "seconds": round(seconds, 3), "dry_run": dry_run})
    if outcome.refusals:
        columns = ("line", "id", "field", "reason")
        lines = [(one.line, one.id, one.field, one.reason) for one in outcome.refusals]
        told = f"the first {SHOWN_MAX} of " if outcome.refused > SHOWN_MAX else ""
        terminal.table(f"Refused: {told}{outcome.refused}", columns, lines[:SHOWN_MAX])
    done = "would be registered" if dry_run else "registered"
    terminal.say(
        f"{outcome.registered} {done}, {outcome.known} known already, {outcome.refused} refused; "
        f"{seconds:.1f} s"
    )
