"""`fleetcert up|down|status|doctor|pki`: the local stack and its authorities."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from client import instants, terminal
from client.commands.options import ConfigFile, Json, examples
from client.errors import FleetError
from client.lag import lag
from client.local import doctor, dtls13, reload, supervisor
from client.local.errors import LocalError
from client.local.layout import Layout
from configuration import keys
from configuration.load import load
from configuration.model import Configuration
from configuration.source import InvalidConfiguration
from pki import authority, enrolment
from pki.profile import NotIssuable
from schemas.topics import DEVICE_EVENTS

StackError = (LocalError, authority.AuthorityExists, authority.AuthorityUnreadable, NotIssuable)

OPTIONS = {
    "data_dir": "stack.dataDir",
    "kafka_port": "stack.kafkaPort",
    "controller_port": "stack.controllerPort",
    "device_port": "iot.mqtt.port",
    "service_port": "iot.mqtt.servicePort",
    "coap_port": "iot.coap.port",
    "coap_plain_port": "iot.coap.plainPort",
    "coap_renewal_port": "iot.coap.renewalPort",
    "est_port": "iot.est.port",
    "dtls": "iot.coap.dtls",
    "metrics_port": "stack.metricsPort",
    "partitions": "kafka.partitions",
    "workers": "stack.workers",
    "bridges": "stack.bridges",
}
"""The keys of the configuration that options of `up` go before."""


def _option(name: str, **more: Any) -> Any:
    """Return an option of `up`: its help is what the configuration says of the key."""
    key = keys.every()[OPTIONS[name]]
    shown = ", ".join(key.default) if isinstance(key.default, list | tuple) else key.default
    return typer.Option(help=f"{key.meaning} ({key.name}: {shown})", **more)


def _data_dir(context: typer.Context, value: Path | None) -> Path | None:
    """Return the folder that is asked for, else the configuration's."""
    if value is not None or context.resilient_parsing:
        return value
    return Path(load().configuration.stack.data_dir)


DataDir = Annotated[
    Path,
    typer.Option(
        help="Where the stack keeps its data; else stack.dataDir.",
        callback=_data_dir,
        readable=False,
    ),
]
DIRECTORY = Layout().pki_dir
NONE: Any = None
"""What a callback replaces by the configuration's value."""


def up(
    context: typer.Context,
    config: ConfigFile = None,
    data_dir: Annotated[Path | None, _option("data_dir", readable=False)] = None,
    kafka_port: Annotated[int | None, _option("kafka_port")] = None,
    controller_port: Annotated[int | None, _option("controller_port")] = None,
    device_port: Annotated[int | None, _option("device_port")] = None,
    service_port: Annotated[int | None, _option("service_port")] = None,
    coap_port: Annotated[int | None, _option("coap_port")] = None,
    coap_plain_port: Annotated[int | None, _option("coap_plain_port")] = None,
    coap_renewal_port: Annotated[int | None, _option("coap_renewal_port")] = None,
    est_port: Annotated[int | None, _option("est_port")] = None,
    dtls: Annotated[list[str] | None, _option("dtls")] = None,
    metrics_port: Annotated[int | None, _option("metrics_port")] = None,
    partitions: Annotated[int | None, _option("partitions")] = None,
    workers: Annotated[int | None, _option("workers")] = None,
    bridges: Annotated[int | None, _option("bridges")] = None,
    as_json: Json = False,
) -> None:
    """Start Kafka, mosquitto, issuer, bridges, workers; stay until Ctrl-C or `fleetcert down`.

    A second start on the same data goes on where the first one ended. An option goes before the
    key of the configuration that it stands for (docs/configuration.md). SIGHUP reads the file
    again: what is live is applied, for the rest it says what must start anew.
    """
    given = {
        name: (f"--{option.replace('_', '-')}", str(value) if name == "stack.dataDir" else value)
        for option, name in OPTIONS.items()
        if (value := context.params[option])
    }

    def read() -> Configuration:
        return load(config, options=given).configuration

    asyncio.run(_up(Layout.of(read()), read, as_json))


async def _up(layout: Layout, read: Callable[[], Configuration], as_json: bool) -> None:
    started, stopping, reloading = asyncio.Event(), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, stopping.set)
    attended = sys.stdin.isatty()
    loop.add_signal_handler(
        signal.SIGHUP, lambda: (stopping if attended and _left() else reloading).set()
    )

    def told(child: supervisor.Child) -> None:
        if as_json:
            terminal.as_json({"event": "process"} | child.describe())
        else:
            terminal.say(f"{child.process.name:12} {child.state} {child.alarm}".rstrip())

    reloader = reload.Reloader(layout, read)

    async def settle() -> None:
        _tell("applied", await _applied(reloader), as_json)

    running = asyncio.create_task(
        supervisor.Supervisor(layout, told).run(started, stopping, settle)
    )
    ready = asyncio.create_task(started.wait())
    await asyncio.wait([running, ready], return_when=asyncio.FIRST_COMPLETED)
    following = None
    if started.is_set() and not stopping.is_set():
        _say_ready(layout, as_json)
        following = asyncio.create_task(_reload(reloader, reloading, as_json))
    ready.cancel()
    await running
    if following is not None:
        following.cancel()


def _say_ready(layout: Layout, as_json: bool) -> None:
    devices = f"mqtts://localhost:{layout.device_port}"
    coap = dtls13.offered(layout.coap_port, layout.dtls)
    found = {"bootstrap": layout.bootstrap, "devices": devices, "coap": coap, "est": layout.est}
    if as_json:
        terminal.as_json({"event": "ready", "data_dir": str(layout.data_dir)} | found)
    else:
        terminal.say("ready; Ctrl-C or `fleetcert down` stops it")
        _say_addresses(found)


def _say_addresses(found: dict[str, Any]) -> None:
    """Tell where devices and clients connect, a line each."""
    for name, key in (
        ("MQTT", "devices"),
        ("CoAP", "coap"),
        ("EST", "est"),
        ("Kafka", "bootstrap"),
    ):
        terminal.say(f"  {name:6} {found[key]}")


async def _applied(reloader: reload.Reloader) -> list[str]:
    """Apply what is live at the start; return what changed, or why nothing did."""
    try:
        return await asyncio.to_thread(reloader.apply)
    except (FleetError, LocalError) as error:
        return reload.refused(error)


async def _reload(reloader: reload.Reloader, reloading: asyncio.Event, as_json: bool) -> None:
    """Read the configuration again at each SIGHUP and apply what is live."""
    while True:
        await reloading.wait()
        reloading.clear()
        try:
            found = await asyncio.to_thread(reloader.reload)
            lines = [*found.live, *found.waiting] or ["nothing differs"]
        except (FleetError, LocalError, InvalidConfiguration) as error:
            lines = reload.refused(error)
        _tell("reloaded", lines, as_json)


def _tell(event: str, lines: list[str], as_json: bool) -> None:
    if as_json:
        return terminal.as_json({"event": event, "lines": lines})
    for one in lines:
        terminal.say(f"{event}: {one}")


def _left() -> bool:
    """Tell whether the terminal is gone: then SIGHUP means its end, and not a new reading."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY))
    except OSError:
        return True
    return False


def down(data_dir: DataDir = NONE, as_json: Json = False) -> None:
    """Stop the stack; what it has is kept. Done as well where none runs."""
    stopped = supervisor.stop(Layout(data_dir=data_dir))
    if as_json:
        return terminal.as_json({"stopped": stopped, "data_dir": str(data_dir)})
    terminal.say("stopped" if stopped else f"no stack runs on {data_dir.absolute()}")


def status(data_dir: DataDir = NONE, as_json: Json = False) -> None:
    """Show each process and how far the workers are; exit code 1 where one is not running."""
    found: dict[str, Any] = dict(supervisor.status(Layout(data_dir=data_dir)))
    listed = found.get("processes", [])
    if bootstrap := found.get("bootstrap"):
        held = load(Layout(data_dir=data_dir).configuration_file).configuration
        found["lag"] = lag(held.cluster.at(bootstrap), held.worker.group, DEVICE_EVENTS)
    if as_json:
        terminal.as_json(found)
    elif not listed:
        terminal.say(
            f"no stack runs on {data_dir.absolute()}; start it with `fleetcert up`, or name "
            "another folder with --data-dir"
        )
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
    _say_addresses(found)
    terminal.say(f"  behind {behind or 'unknown, Kafka is away'} (records not yet committed)")


def examine(data_dir: DataDir = NONE, as_json: Json = False) -> None:
    """Check this machine; exit code 1 where something is missing that the stack needs."""
    layout = Layout(load().configuration, data_dir=data_dir)
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
    directory: Annotated[Path, typer.Option(help="The folder to make them in.")] = DIRECTORY,
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
    data_dir: DataDir = NONE,
    days: Annotated[
        int | None, typer.Option(min=1, help="Its lifetime; else issuer.lifetimeDays.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Sign a device's first request. Needs the device CA's key; every later one is rotated."""
    lifetime = days or load().configuration.issuer.lifetime_days
    opened = authority.load(directory or Layout(data_dir=data_dir).pki_dir)
    device_id, certificate = enrolment.sign(
        opened, request.read_bytes(), datetime.now(UTC), timedelta(days=lifetime)
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
        (
            "up",
            up,
            ("up --config fleetcert.yaml", "up --device-port 18883 --workers 2", "up --json"),
        ),
        ("down", down, ("down", "down --data-dir var/other")),
        ("status", status, ("status", "status --json | jq .lag")),
        ("doctor", examine, ("doctor", "doctor --json")),
    ):
        app.command(name, epilog=examples(*shown), rich_help_panel=panel)(command)
    pki.command("init", epilog=examples("pki init --directory pki"))(pki_init)
    pki.command("sign", epilog=examples("pki sign pump-7/device.csr --out pump-7.pem"))(pki_sign)
