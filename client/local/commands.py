"""`fleetcert up|down|status|doctor|pki`: the local stack and its authorities."""

import asyncio
import contextlib
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from client import instants, terminal
from client.commands.options import Json, examples
from client.lag import lag
from client.local import doctor, dtls13, supervisor
from client.local.errors import LocalError
from client.local.layout import Layout
from pki import authority, enrolment
from pki.profile import NotIssuable
from schemas.topics import DEVICE_EVENTS

StackError = (LocalError, authority.AuthorityExists, authority.AuthorityUnreadable, NotIssuable)
WORKERS = "fleetcert-devices"
"""The consumer group of the stream workers: streams.app.Settings.application."""

DataDir = Annotated[
    Path,
    typer.Option(
        help="Where the stack keeps its data.", envvar="FLEETCERT_DATA_DIR", readable=False
    ),
]
DEFAULT = Layout()


def up(
    data_dir: DataDir = DEFAULT.data_dir,
    kafka_port: int = DEFAULT.kafka_port,
    controller_port: int = DEFAULT.controller_port,
    device_port: int = DEFAULT.device_port,
    service_port: int = DEFAULT.service_port,
    coap_port: int = DEFAULT.coap_port,
    coap_plain_port: int = DEFAULT.coap_plain_port,
    coap_renewal_port: int = DEFAULT.coap_renewal_port,
    est_port: int = DEFAULT.est_port,
    dtls: Annotated[
        list[str] | None, typer.Option(help="Versions of coaps over UDP: 1.3, and 1.2 by name.")
    ] = None,
    metrics_port: Annotated[int, typer.Option(help="The first of 30.")] = DEFAULT.metrics_port,
    partitions: int = DEFAULT.partitions,
    workers: int = DEFAULT.workers,
    bridges: int = DEFAULT.bridges,
    as_json: Json = False,
) -> None:
    """Start Kafka, mosquitto, issuer, bridges, workers; stay until Ctrl-C or `fleetcert down`.

    A second start on the same data goes on where the first one ended.
    """
    layout = Layout(
        data_dir=data_dir,
        kafka_port=kafka_port,
        controller_port=controller_port,
        device_port=device_port,
        service_port=service_port,
        coap_port=coap_port,
        coap_plain_port=coap_plain_port,
        coap_renewal_port=coap_renewal_port,
        est_port=est_port,
        dtls=tuple(dtls or DEFAULT.dtls),
        metrics_port=metrics_port,
        partitions=partitions,
        workers=workers,
        bridges=bridges,
    )
    asyncio.run(_up(layout, as_json))


async def _up(layout: Layout, as_json: bool) -> None:
    started, stopping = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, stopping.set)

    def told(child: supervisor.Child) -> None:
        if as_json:
            terminal.as_json({"event": "process"} | child.describe())
        else:
            terminal.say(f"{child.process.name:12} {child.state} {child.alarm}".rstrip())

    running = asyncio.create_task(supervisor.Supervisor(layout, told).run(started, stopping))
    ready = asyncio.create_task(started.wait())
    await asyncio.wait([running, ready], return_when=asyncio.FIRST_COMPLETED)
    if started.is_set() and not stopping.is_set():
        devices = f"mqtts://localhost:{layout.device_port}"
        coap = dtls13.offered(layout.coap_port, layout.dtls)
        if as_json:
            addresses = {
                "bootstrap": layout.bootstrap,
                "devices": devices,
                "coap": coap,
                "est": layout.est,
            }
            terminal.as_json({"event": "ready", "data_dir": str(layout.data_dir)} | addresses)
        else:
            terminal.say(
                f"ready: Kafka {layout.bootstrap}, devices {devices}, {coap}, renewals "
                f"{layout.est}; Ctrl-C or `fleetcert down` stops it"
            )
    ready.cancel()
    await running


def down(data_dir: DataDir = DEFAULT.data_dir, as_json: Json = False) -> None:
    """Stop the stack; what it has is kept. Done as well where none runs."""
    stopped = supervisor.stop(Layout(data_dir=data_dir))
    if as_json:
        return terminal.as_json({"stopped": stopped, "data_dir": str(data_dir)})
    terminal.say("stopped" if stopped else f"no stack runs on {data_dir}")


def status(data_dir: DataDir = DEFAULT.data_dir, as_json: Json = False) -> None:
    """Show each process and how far the workers are; exit code 1 where one is not running."""
    found: dict[str, Any] = dict(supervisor.status(Layout(data_dir=data_dir)))
    listed = found.get("processes", [])
    if bootstrap := found.get("bootstrap"):
        found["lag"] = lag(bootstrap, WORKERS, DEVICE_EVENTS)
    if as_json:
        terminal.as_json(found)
    elif not listed:
        terminal.say(f"no stack runs on {data_dir}; start it with `fleetcert up`")
    else:
        _print_status(found, data_dir)
    if not listed or any(one["state"] != supervisor.RUNNING for one in listed):
        raise typer.Exit(1)


def _print_status(found: dict[str, Any], data_dir: Path) -> None:
    rows = [
        (
            one["name"],
            one["state"],
            instants.span(int((time.time() - one["since"]) * 1000)),
            one["restarts"],
            one["pid"] or "-",
        )
        for one in found["processes"]
    ]
    terminal.table(f"The stack on {data_dir}", ("process", "state", "for", "restarts", "pid"), rows)
    for alarm in found["alarms"]:
        terminal.say(f"ALARM {alarm}")
    behind = ", ".join(f"{count} in partition {one}" for one, count in found["lag"].items())
    terminal.say(f"Kafka {found['bootstrap']}, devices {found['devices']}, {found['coap']}")
    terminal.say(f"renewals {found['est']}")
    terminal.say(f"records the workers have not committed: {behind or 'unknown, Kafka is away'}")


def examine(data_dir: DataDir = DEFAULT.data_dir, as_json: Json = False) -> None:
    """Check this machine; exit code 1 where something is missing that the stack needs."""
    layout = Layout(data_dir=data_dir)
    running = False
    with contextlib.suppress(OSError):  # a folder that cannot be read is one of the checks
        running = bool(supervisor.status(layout))
    found = doctor.checks(layout, running=running)
    if as_json:
        for one in found:
            terminal.as_json(one)
    else:
        rows = [(one.name, _verdict(one), one.found, "" if one.ok else one.advice) for one in found]
        terminal.table("This machine", ("what", "", "found", "what to do"), rows)
    if not all(one.ok for one in found if one.needed):
        raise typer.Exit(1)


def _verdict(check: doctor.Check) -> str:
    return "ok" if check.ok else "MISSING" if check.needed else "not yet"


def pki_init(
    directory: Annotated[Path, typer.Option(help="The folder to make them in.")] = DEFAULT.pki_dir,
    as_json: Json = False,
) -> None:
    """Create the offline root, the device CA and the service CA. Nothing is ever overwritten."""
    authority.create(directory, now=datetime.now(UTC))
    root = directory / "root"
    if as_json:
        return terminal.as_json({"directory": str(directory), "root": str(root)})
    terminal.say(f"created in {directory}; move {root} to a place without a network")


def pki_sign(
    request: Annotated[Path, typer.Argument(help="The CSR, PEM or DER.", exists=True)],
    out: Annotated[Path, typer.Option(help="Where the certificate goes, in PEM.")],
    directory: Annotated[
        Path | None, typer.Option(help="The folder of the authorities; else the stack's.")
    ] = None,
    data_dir: DataDir = DEFAULT.data_dir,
    days: Annotated[int, typer.Option(min=1, help="Its lifetime.")] = int(DEFAULT.lifetime_days),
    as_json: Json = False,
) -> None:
    """Sign a device's first request. Needs the device CA's key; every later one is rotated."""
    opened = authority.load(directory or Layout(data_dir=data_dir).pki_dir)
    device_id, certificate = enrolment.sign(
        opened, request.read_bytes(), datetime.now(UTC), timedelta(days=days)
    )
    out.write_bytes(certificate)
    if as_json:
        return terminal.as_json({"device_id": device_id, "certificate": str(out)})
    terminal.say(
        f"signed {out}; then `fleetcert device register {device_id} --cert {out}`, and install it"
    )


def add_to(app: typer.Typer, pki: typer.Typer, panel: str) -> None:
    """Add the commands to the command line, under `panel` of its help."""
    for name, command, shown in (
        ("up", up, ("up", "up --device-port 18883 --workers 2", "up --json")),
        ("down", down, ("down", "down --data-dir var/other")),
        ("status", status, ("status", "status --json | jq .lag")),
        ("doctor", examine, ("doctor", "doctor --json")),
    ):
        app.command(name, epilog=examples(*shown), rich_help_panel=panel)(command)
    pki.command("init", epilog=examples("pki init --directory pki"))(pki_init)
    pki.command("sign", epilog=examples("pki sign pump-7/device.csr --out pump-7.pem"))(pki_sign)
