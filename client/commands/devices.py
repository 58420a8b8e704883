"""`fleetcert device register|list|show|rotate` and `fleetcert alerts`."""

import time
from pathlib import Path
from typing import Annotated

import typer

from client import alerts as open_alerts
from client import show, terminal
from client.commands.options import KAFKA, DeviceId, Json, Kafka, examples
from client.enrolment import ANSWER_SECONDS, Registrar
from client.fleet import Fleet, FleetError, certificate_names
from streams.core import certificate as certificates

REGISTRAR = "FLEETCERT_REGISTRAR"
DEFAULT_REGISTRAR = Path("var/stack/services/registrar.pem")
"""The local stack's own."""
CERTIFICATE_SUFFIXES = (".pem", ".crt", ".cer", ".der")

app = typer.Typer(help="Register, list, show and rotate devices.", no_args_is_help=True)


@app.command(
    "register",
    epilog=examples(
        "device register pump-7 --cert pump-7.pem --type pump",
        "device register pump-7 --csr pump-7/device.csr --out pump-7.pem",
        "device register --cert-dir certificates/ --json",
    ),
)
def register(
    device_id: Annotated[str, typer.Argument(help="Its id, as its certificate names it.")] = "",
    cert: Annotated[
        Path | None, typer.Option(help="Its certificate, PEM or DER.", exists=True, dir_okay=False)
    ] = None,
    cert_dir: Annotated[
        Path | None,
        typer.Option(help="Register all certificates of a folder.", exists=True, file_okay=False),
    ] = None,
    csr: Annotated[
        Path | None,
        typer.Option(
            help="Its request, PEM or DER: the issuer signs its first certificate.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --csr: where the certificate goes, in PEM.")
    ] = None,
    registrar: Annotated[
        Path,
        typer.Option(
            help="With --csr: who orders, a .pem and the .key beside it.", envvar=REGISTRAR
        ),
    ] = DEFAULT_REGISTRAR,
    within: Annotated[
        float, typer.Option(help="With --csr: seconds to wait for the issuer.", min=1)
    ] = ANSWER_SECONDS,
    device_type: Annotated[str, typer.Option("--type", help="What it is.")] = "device",
    cluster: Kafka = KAFKA,
    as_json: Json = False,
) -> None:
    """Register a device with the certificate it holds, or many of them from a folder.

    With --csr the device holds none yet: its request goes to the issuer by a registrar's order,
    and its first certificate comes back.
    """
    fleet = Fleet(cluster)
    if csr is not None:
        if not device_id or out is None or cert is not None or cert_dir is not None:
            raise typer.BadParameter("--csr wants DEVICE_ID and --out, and no other certificate")
        order = Registrar.load(registrar)
        made = fleet.enrol(
            device_id, device_type, csr=csr.read_bytes(), registrar=order, within=within
        )
        return _enrolled(device_id, made, out, as_json)
    if cert_dir is not None and cert is None and not device_id:
        return _register_all(fleet, cert_dir, device_type, as_json)
    if not device_id or cert is None or cert_dir is not None:
        raise typer.BadParameter("give DEVICE_ID and --cert or --csr, or --cert-dir alone")
    data = cert.read_bytes()
    _refuse_another(fleet, device_id, data)
    position = fleet.register(device_id, device_type, certificate=data)
    if as_json:
        return terminal.as_json({"device_id": device_id, "recorded_at": position})
    terminal.say(f"registered {device_id}; see `fleetcert device show {device_id}`")


def _enrolled(device_id: str, certificate: bytes, out: Path, as_json: bool) -> None:
    out.write_bytes(certificate)
    if as_json:
        from pki.facts import facts

        fingerprint = facts(certificate).fingerprint.hex()
        return terminal.as_json(
            {"device_id": device_id, "certificate": str(out), "fingerprint": fingerprint}
        )
    terminal.say(f"registered {device_id}; its first certificate is {out}: install it")


def _refuse_another(fleet: Fleet, device_id: str, certificate: bytes) -> None:
    """Refuse what the machine would refuse, where it is known already."""
    row = fleet.find(device_id)
    if row is None:
        return
    from pki.facts import facts

    if certificates.find(row, facts(certificate).fingerprint) is None:
        raise FleetError(
            f"{device_id} is registered with another certificate; see `fleetcert device show "
            f"{device_id}`, and `fleetcert device rotate {device_id}` for a new one"
        )


def _register_all(fleet: Fleet, folder: Path, device_type: str, as_json: bool) -> None:
    files = sorted(one for one in folder.iterdir() if one.suffix in CERTIFICATE_SUFFIXES)
    if not files:
        raise FleetError(f"{folder} has no {', '.join(CERTIFICATE_SUFFIXES)}")
    named = [(certificate_names(data), data) for data in (one.read_bytes() for one in files)]
    with terminal.progress("registering", len(named)) as done:
        for device_id, data in named:
            fleet.register(device_id, device_type, certificate=data, wait=False)
            done()
        fleet.flush()
    if as_json:
        for device_id, _ in named:
            terminal.as_json({"device_id": device_id})
        return
    terminal.say(f"registered {terminal.count(len(named), 'device')}; see `fleetcert device list`")


@app.command("list", epilog=examples("device list", "device list --json | jq -r .device_id | head"))
def list_devices(cluster: Kafka = KAFKA, as_json: Json = False) -> None:
    """List all devices: presence, rotation, certificate, open alerts."""
    rows = list(Fleet(cluster).devices().values())
    if as_json:
        for row in rows:
            terminal.as_json(row)
        return
    columns = ("device", "type", "presence", "rotation", "SHA-256", "ends", "", "alerts")
    lines = [show.device_line(row, _now()) for row in rows]
    terminal.table(terminal.count(len(rows), "device"), columns, lines)


@app.command("show", epilog=examples("device show pump-7", "device show pump-7 --json | jq ."))
def show_device(device_id: DeviceId, cluster: Kafka = KAFKA, as_json: Json = False) -> None:
    """Tell one device's story: certificates, saga with offsets and times, alerts, decisions."""
    fleet = Fleet(cluster)
    row, decided = fleet.device(device_id), fleet.decisions(device_id)
    raised = open_alerts.with_values(open_alerts.raised(row), decided)
    if as_json:
        terminal.as_json({"device": row, "alerts": raised, "decisions": decided})
        return
    terminal.console().print(show.device_story(row, decided, raised, _now()))


@app.command("rotate", epilog=examples("device rotate pump-7"))
def rotate(device_id: DeviceId, cluster: Kafka = KAFKA, as_json: Json = False) -> None:
    """Order a rotation now."""
    fleet = Fleet(cluster)
    fleet.device(device_id)
    order = fleet.rotate(device_id)
    if as_json:
        terminal.as_json({"order_id": order, "device_id": device_id})
        return
    terminal.say(f"ordered {order}; follow it with `fleetcert device show {device_id}`")


def alerts(cluster: Kafka = KAFKA, as_json: Json = False) -> None:
    """List the alerts that are open, oldest first."""
    raised = Fleet(cluster).alerts()
    if as_json:
        for one in raised:
            terminal.as_json(one)
        return
    columns = ("since (UTC)", "", "about", "severity", "alert", "figures", "what it means")
    lines = [show.alert_line(one, _now()) for one in raised]
    terminal.table(terminal.count(len(raised), "open alert"), columns, lines)


def _now() -> int:
    return time.time_ns() // 1_000_000
