"""`fleetcert config check|show|schema|apply`: what can be set, what holds, and where it is from."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from client import terminal
from client.commands.options import KAFKA, ConfigFile, Json, Kafka, examples
from configuration import keys
from configuration.load import Loaded, load
from configuration.schema import schema, shown
from configuration.source import InvalidConfiguration

app = typer.Typer(help="Check, show and describe the configuration.", no_args_is_help=True)
SCHEMA = "config schema > fleetcert.schema.json"


@app.command(epilog=examples("config check", "config check deploy/fleetcert.yaml --json"))
def check(
    file: Annotated[Path | None, typer.Argument(help="Else the one that would be read.")] = None,
    as_json: Json = False,
) -> None:
    """Check a file and the environment; all that is wrong is told at once, with line and column.

    The exit code is 1 where something is wrong.
    """
    try:
        loaded = load(file)
    except InvalidConfiguration as error:
        if not as_json:
            raise
        for one in error.faults:
            terminal.as_json(one)
        raise typer.Exit(1) from error
    named = str(loaded.file) if loaded.file else "no file, the defaults"
    if as_json:
        return terminal.as_json({"file": str(loaded.file or ""), "set": len(loaded.origins)})
    terminal.say(f"{named}: valid, {len(loaded.origins)} of {len(keys.every())} keys are set")


@app.command(
    epilog=examples("config show", "config show iot.mqtt", "config show --json | jq -r .key")
)
def show(
    below: Annotated[str, typer.Argument(metavar="[KEY]", help="Only this key, or below.")] = "",
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Show what holds, and where each value is from: default, file and line, variable."""
    loaded = load(config)
    rows = [
        _row(loaded, key)
        for key in keys.every().values()
        if f"{key.name}.".startswith(f"{below}." if below else "")
    ]
    if not rows:
        hint = keys.nearest(tuple(below.split(".")))
        raise typer.BadParameter(f"{below}: no such key; {hint}", param_hint="KEY")
    if as_json:
        for one in rows:
            terminal.as_json(one)
        return
    terminal.table(
        f"The configuration ({loaded.file or 'no file'})",
        ("key", "value", "source"),
        [(one["key"], _text(one["value"]), one["source"]) for one in rows],
    )


@app.command("schema", epilog=examples(SCHEMA, "config schema --json"))
def show_schema(as_json: Json = False) -> None:
    """Print the JSON Schema of the file, for editors; with --json in one line.

    An editor finds it by a first line `# yaml-language-server: $schema=fleetcert.schema.json`.
    """
    terminal.say(json.dumps(schema(), indent=None if as_json else 2))


@app.command(epilog=examples("config apply", "config apply --config fleetcert.yaml --json"))
def apply(config: ConfigFile = None, cluster: Kafka = KAFKA, as_json: Json = False) -> None:
    """Record what needs no restart: fleets' defaults, rotation, monitoring, retention.

    `fleetcert up` does so at its start and on SIGHUP; this is for a Kafka of your own.
    """
    from client import applied

    said = applied.apply(cluster, load(config).configuration)
    if as_json:
        return terminal.as_json({"changed": said})
    for one in said or ["nothing differs"]:
        terminal.say(one)


def _row(loaded: Loaded, key: keys.Key) -> dict[str, Any]:
    value = shown(key, keys.get(loaded.configuration, key))
    source = loaded.origin(key)
    return {"key": key.name, "value": value, "source": source, "variable": key.variable}


def _text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)
