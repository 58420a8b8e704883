"""`fleetcert up|down|status|doctor|pki init`: the local stack on the command line."""

import asyncio
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from client import show
from client.local import doctor, supervisor
from client.local.errors import LocalError
from client.local.layout import Layout
from pki import authority

StackError = (LocalError, authority.AuthorityExists, authority.AuthorityUnreadable)

DataDir = Annotated[
    Path, typer.Option(help="Where the stack keeps its data.", envvar="FLEETCERT_DATA_DIR")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document per line.")]
DEFAULT = Layout()


def up(
    data_dir: DataDir = DEFAULT.data_dir,
    kafka_port: int = DEFAULT.kafka_port,
    controller_port: int = DEFAULT.controller_port,
    device_port: int = DEFAULT.device_port,
    service_port: int = DEFAULT.service_port,
    metrics_port: Annotated[int, typer.Option(help="The first of 30.")] = DEFAULT.metrics_port,
    partitions: int = DEFAULT.partitions,
    workers: int = DEFAULT.workers,
    bridges: int = DEFAULT.bridges,
) -> None:
    """Start Kafka, mosquitto, issuer, bridge and workers; stay until Ctrl-C or `fleetcert down`."""
    layout = Layout(
        data_dir=data_dir,
        kafka_port=kafka_port,
        controller_port=controller_port,
        device_port=device_port,
        service_port=service_port,
        metrics_port=metrics_port,
        partitions=partitions,
        workers=workers,
        bridges=bridges,
    )
    asyncio.run(_up(layout))


async def _up(layout: Layout) -> None:
    started, stopping = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, stopping.set)

    def told(child: supervisor.Child) -> None:
        typer.echo(f"{child.process.name:12} {child.state}")

    running = asyncio.create_task(supervisor.Supervisor(layout, told).run(started, stopping))
    ready = asyncio.create_task(started.wait())
    await asyncio.wait([running, ready], return_when=asyncio.FIRST_COMPLETED)
    if started.is_set():
        typer.echo(
            f"ready: Kafka {layout.bootstrap}, devices mqtts://localhost:{layout.device_port}; "
            "Ctrl-C or `fleetcert down` stops it"
        )
    ready.cancel()
    await running


def down(data_dir: DataDir = DEFAULT.data_dir) -> None:
    """Stop the stack; what it has is kept."""
    if supervisor.stop(Layout(data_dir=data_dir)):
        typer.echo("stopped")
    else:
        typer.echo(f"no stack runs on {data_dir}")


def status(data_dir: DataDir = DEFAULT.data_dir, as_json: Json = False) -> None:
    """Show each process; exit code 1 where one is not running."""
    found = supervisor.status(Layout(data_dir=data_dir))
    listed = found.get("processes", [])
    assert isinstance(listed, list)
    if as_json:
        show.as_json(found)
    elif not listed:
        typer.echo(f"no stack runs on {data_dir}; start it with `fleetcert up`")
    else:
        rows = [(one["name"], one["state"], one["pid"] or "-", one["restarts"]) for one in listed]
        show.table("The local stack", ("process", "state", "pid", "restarts"), rows)
    if not listed or any(one["state"] != supervisor.RUNNING for one in listed):
        raise typer.Exit(1)


def examine(data_dir: DataDir = DEFAULT.data_dir, as_json: Json = False) -> None:
    """Check this machine; exit code 1 where something is missing."""
    found = doctor.checks(Layout(data_dir=data_dir))
    if as_json:
        for one in found:
            show.as_json(one)
    else:
        rows = [
            (one.name, "ok" if one.ok else "MISSING", one.found, "" if one.ok else one.advice)
            for one in found
        ]
        show.table("This machine", ("what", "", "found", "what to do"), rows)
    if not all(one.ok for one in found):
        raise typer.Exit(1)


def pki_init(directory: Path = DEFAULT.pki_dir) -> None:
    """Create the offline root, the device CA and the service CA."""
    authority.create(directory, now=datetime.now(UTC))
    typer.echo(f"created in {directory}; move {directory / 'root'} to a place without a network")


def add_to(app: typer.Typer, pki: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command(epilog="Example: fleetcert up --device-port 18883")(up)
    app.command(epilog="Example: fleetcert down")(down)
    app.command(epilog="Example: fleetcert status --json")(status)
    app.command("doctor", epilog="Example: fleetcert doctor")(examine)
    pki.command("init", epilog="Example: fleetcert pki init --directory pki")(pki_init)
