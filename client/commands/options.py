"""What commands share: options, the completion of device ids, examples in the help."""

import os
from pathlib import Path
from typing import Annotated

import typer

from client.fleet import Fleet, FleetError, Timeouts

KAFKA = "127.0.0.1:9092"
BOOTSTRAP_VARIABLE = "FLEETCERT_BOOTSTRAP"
COMPLETION = Timeouts(connect_seconds=2.0, read_seconds=5.0)
EXIT_DIFFERENT = 4
SNAPSHOTS = Path("var/stack/snapshots")
"""Where the local stack's workers write theirs."""


def examples(*commands: str) -> str:
    """Return the examples of a command's help, one a line."""
    return "Examples:\n" + "\n".join(f"  fleetcert {one}" for one in commands)


def _device_ids(context: typer.Context, incomplete: str) -> list[str]:
    """Complete a device id; nothing where Kafka does not answer quickly."""
    bootstrap = context.params.get("bootstrap") or os.environ.get(BOOTSTRAP_VARIABLE, KAFKA)
    try:
        ids = Fleet(str(bootstrap), timeouts=COMPLETION).ids()
    except FleetError:
        return []
    return [one for one in ids if one.startswith(incomplete)]


Bootstrap = Annotated[str, typer.Option(help="Kafka's host:port.", envvar=BOOTSTRAP_VARIABLE)]
Directory = Annotated[
    Path, typer.Option("--snapshots", help="Where they are.", envvar="FLEETCERT_SNAPSHOTS")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document per line.")]
DeviceId = Annotated[str, typer.Argument(help="The device's id.", autocompletion=_device_ids)]
OnlyDevice = Annotated[
    str, typer.Option("--device", help="Only this device's records.", autocompletion=_device_ids)
]
