"""`fleetcert device invite`: a device enrols by itself, once, by a token."""

import time
from pathlib import Path
from typing import Annotated

import typer

from client import instants, terminal
from client.commands import devices
from client.commands.options import KAFKA, DeviceId, Json, Kafka, examples
from client.enrolment import Registrar
from client.fleet import Fleet

app = devices.app


@app.command(
    "invite",
    epilog=examples(
        "device invite pump-7 --type pump",
        "device invite pump-7 --for 7d --json | jq -r .token",
        "device invite pump-7 --withdraw",
    ),
)
def invite(
    device_id: DeviceId,
    device_type: Annotated[str, typer.Option("--type", help="What it is.")] = "device",
    protocol: Annotated[
        list[str] | None, typer.Option(help="What it speaks; mqtt where nothing is said.")
    ] = None,
    lasts: Annotated[str, typer.Option("--for", help="How long: 30s, 10m, 2h, up to 30d.")] = "1d",
    withdraw: Annotated[
        bool, typer.Option("--withdraw", help="End the invitation instead.")
    ] = False,
    registrar: Annotated[
        Path,
        typer.Option(help="Who invites, a .pem and the .key beside it.", envvar=devices.REGISTRAR),
    ] = devices.DEFAULT_REGISTRAR,
    cluster: Kafka = KAFKA,
    as_json: Json = False,
) -> None:
    """Let a device enrol by itself at the EST door, once, by a token that is shown only now.

    A second invitation ends the first one.
    """
    fleet = Fleet(cluster)
    if withdraw:
        fleet.withdraw(device_id)
        if as_json:
            return terminal.as_json({"device_id": device_id, "withdrawn": True})
        return terminal.say(f"{device_id} is not invited any more")
    seconds = instants.length(lasts) / 1_000
    token = fleet.invite(
        device_id,
        device_type,
        tuple(protocol or ("mqtt",)),
        registrar=Registrar.load(registrar),
        seconds=seconds,
    )
    until = time.time_ns() // 1_000_000 + instants.length(lasts)
    if as_json:
        return terminal.as_json({"device_id": device_id, "token": token, "expires_at": until})
    terminal.say(
        f"{device_id} may enrol until {instants.shown(until)} UTC, with the token\n\n"
        f"    {token}\n\n"
        "by any client of EST: user the id, password the token (docs/est.md)"
    )
