"""`fleetcert device pending|approve|reject`: devices that a provisioning CA names, just in time."""

import time
from typing import Annotated

import typer

from client import show, terminal
from client.commands import devices
from client.commands.options import KAFKA, Json, Kafka, examples
from client.fleet import Fleet
from streams.core.description import UNNAMED_TYPE

app = devices.app
PendingId = Annotated[str, typer.Argument(help="Its id, as `device pending` shows it.")]
Fingerprint = Annotated[
    str,
    typer.Argument(help="The SHA-256 of its certificate, or the first 16 digits, as you know it."),
]


@app.command("pending", epilog=examples("device pending", "device pending --json | jq ."))
def pending(
    everyone: Annotated[
        bool, typer.Option("--all", help="Who was rejected or lapsed as well.")
    ] = False,
    cluster: Kafka = KAFKA,
    as_json: Json = False,
) -> None:
    """List the devices that wait for approval, the one that came first at the top."""
    found = Fleet(cluster).pending()
    rows = [one for one in found if everyone or not (one.rejected_at or one.lapsed_at)]
    if as_json:
        for row in rows:
            terminal.as_json(row)
        return
    now = time.time_ns() // 1_000_000
    columns = (
        "device",
        "certificate (SHA-256)",
        "over",
        "from",
        "presence",
        "first seen (UTC)",
        "",
        "",
    )
    terminal.table(f"{len(rows)} pending", columns, [show.pending_line(one, now) for one in rows])
    if rows:
        terminal.say("compare the certificate, then `fleetcert device approve DEVICE CERTIFICATE`")


@app.command(
    "approve",
    epilog=examples(
        "device approve pump-7 3f9a6c01d2e4b587",
        "device approve pump-7 3f9a6c01d2e4b587 --type pump --tag site=berlin",
    ),
)
def approve(
    device_id: PendingId,
    fingerprint: Fingerprint,
    device_type: Annotated[str, typer.Option("--type", help="What it is.")] = UNNAMED_TYPE,
    tag: Annotated[list[str] | None, typer.Option(help="A tag: NAME or NAME=VALUE.")] = None,
    cluster: Kafka = KAFKA,
    as_json: Json = False,
) -> None:
    """Register a pending device: it gets a certificate of ours, and is heard from then on.

    Only with the certificate that is named here; where another one waits, nothing happens.
    """
    with Fleet(cluster) as fleet:
        fleet.approve(device_id, fingerprint, device_type, tag or ())
    if as_json:
        return terminal.as_json({"device_id": device_id, "approved": True})
    terminal.say(f"{device_id} is registered; see `fleetcert device show {device_id}`")


@app.command("reject", epilog=examples("device reject pump-7 3f9a6c01d2e4b587"))
def reject(
    device_id: PendingId,
    fingerprint: Fingerprint,
    cluster: Kafka = KAFKA,
    as_json: Json = False,
) -> None:
    """Keep a pending device out, with this certificate; `approve` lets it in all the same."""
    with Fleet(cluster) as fleet:
        fleet.reject(device_id, fingerprint)
    if as_json:
        return terminal.as_json({"device_id": device_id, "approved": False})
    terminal.say(f"{device_id} is rejected; `fleetcert device pending --all` shows it still")
