"""What commands share: options, the completion of device ids, examples in the help."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from client.fleet import Fleet, FleetError, Timeouts
from configuration.cluster import Cluster
from configuration.keys import FILE_VARIABLE
from configuration.load import load
from configuration.model import Configuration
from configuration.source import InvalidConfiguration

KAFKA = Cluster()
COMPLETION = Timeouts(connect_seconds=2.0, read_seconds=5.0)
EXIT_DIFFERENT = 4
SNAPSHOTS = Path("var/stack/snapshots")
"""Where the local stack's workers write theirs."""


def examples(*commands: str) -> str:
    """Return the examples of a command's help, one a line; a pipe is given whole."""
    lines = (one if " | fleetcert " in one else f"fleetcert {one}" for one in commands)
    return "Examples:\n" + "\n".join(f"  {one}" for one in lines)


def _device_ids(context: typer.Context, incomplete: str) -> list[str]:
    """Complete a device id; nothing where Kafka does not answer quickly."""
    try:
        cluster = context.params.get("cluster") or load().configuration.cluster
        ids = Fleet(cluster, timeouts=COMPLETION).ids()
    except (FleetError, InvalidConfiguration):
        return []
    return [one for one in ids if one.startswith(incomplete)]


def _from_configuration(read: Callable[[Configuration], Any]) -> Callable[..., Any]:
    """Return a callback: what is not given is read from the configuration."""

    def callback(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
        source = context.get_parameter_source(str(parameter.name))
        if source is not None and source.name != "DEFAULT":
            return value
        try:
            return read(load().configuration)
        except InvalidConfiguration:
            if context.resilient_parsing:  # a completion tells no mistakes
                return value
            raise

    return callback


def _cluster(context: typer.Context, parameter: typer.CallbackParam, value: Cluster) -> Cluster:
    """Return the configuration's Kafka, at the address that is given."""
    source = context.get_parameter_source(str(parameter.name))
    given = source is not None and source.name != "DEFAULT"
    try:
        found = load().configuration.cluster
    except InvalidConfiguration:
        if context.resilient_parsing:  # a completion tells no mistakes
            return value
        raise
    return found.at(value.bootstrap) if given else found


Kafka = Annotated[
    Cluster,
    typer.Option(
        "--bootstrap",
        help="Kafka's host:port; else kafka.bootstrap of the configuration.",
        parser=Cluster.of,
        metavar="TEXT",
        callback=_cluster,
    ),
]
Directory = Annotated[
    Path,
    typer.Option(
        "--snapshots",
        help="Where they are; else worker.snapshots.",
        callback=_from_configuration(lambda found: found.snapshots),
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="The configuration; else fleetcert.yaml of this folder.",
        envvar=FILE_VARIABLE,
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
"""Of commands that cannot be undone: `terminal.confirm` asks before."""
Json = Annotated[bool, typer.Option("--json", help="One JSON document per line.")]
DeviceId = Annotated[str, typer.Argument(help="The device's id.", autocompletion=_device_ids)]
OnlyDevice = Annotated[
    str, typer.Option("--device", help="Only this device's records.", autocompletion=_device_ids)
]
