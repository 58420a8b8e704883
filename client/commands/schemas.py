"""`fleetcert schemas list|show|serve`: the records of the topics, for those who read them."""

import asyncio
import json
import signal
from typing import Annotated

import typer
from aiohttp import web

from client import registry, terminal
from client.commands.options import Json, examples
from client.errors import FleetError
from schemas import registry as committed
from schemas.converters import NAMESPACE

HOST, PORT = "127.0.0.1", 8081
DRAIN_SECONDS = 5.0

app = typer.Typer(help="List, show and serve the schemas of all records.", no_args_is_help=True)


@app.command("list", epilog=examples("schemas list", "schemas list --json | jq .schema_id"))
def list_schemas(as_json: Json = False) -> None:
    """List every committed schema: its id stands in the first five bytes of a record."""
    found = list(committed.schemas().values())
    topics = {
        kind.__name__: [topic for topic, kinds in committed.RECORDS.items() if kind in kinds]
        for kinds in committed.RECORDS.values()
        for kind in kinds
    }
    if as_json:
        for one in found:
            known = {"record": one.record, "schema_id": one.schema_id, "topics": topics[one.record]}
            terminal.as_json(known | {"version": _number(one)})
        return
    columns = ("id", "record", "version", "topics")
    rows = [
        (one.schema_id, one.record, _number(one), ", ".join(topics[one.record])) for one in found
    ]
    terminal.table(f"{len(found)} schemas", columns, rows)


def _number(one: committed.Schema) -> int:
    """Return the version of a schema in its record's own subject."""
    return next(
        place.version for place in committed.places(one) if place.subject.endswith(f".{one.record}")
    )


@app.command("show", epilog=examples("schemas show DeviceReported", "schemas show 1004 --json"))
def show_schema(
    name: Annotated[str, typer.Argument(help="A record's name (its newest), or an id.")],
    as_json: Json = False,
) -> None:
    """Print one schema in Avro's JSON."""
    try:
        found = (
            committed.by_id(name)
            if name.isdigit()
            else committed.version(f"{NAMESPACE}.{name}", "latest").schema
        )
    except committed.NotThere as error:
        raise FleetError(f"{error} See `fleetcert schemas list`") from error
    if as_json:
        return terminal.as_json(json.loads(found.text))
    terminal.say(json.dumps(json.loads(found.text), indent=2))


@app.command("serve", epilog=examples("schemas serve", "schemas serve --host 0.0.0.0 --port 8081"))
def serve(
    host: Annotated[str, typer.Option(help="Whom to answer: this machine alone.")] = HOST,
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65_535)] = PORT,
    as_json: Json = False,
) -> None:
    """Serve the schemas over Confluent's Schema Registry API, to read; until Ctrl-C."""
    asyncio.run(_serve(host, port, as_json))


async def _serve(host: str, port: int, as_json: bool) -> None:
    runner = web.AppRunner(registry.application(), access_log=None, shutdown_timeout=DRAIN_SECONDS)
    await runner.setup()
    stopping = asyncio.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(one, stopping.set)
    try:
        await web.TCPSite(runner, host, port).start()
        shown = f"http://{host}:{runner.addresses[0][1]}"
        if as_json:
            terminal.as_json({"event": "ready", "url": shown})
        else:
            terminal.say(f"ready: schema.registry.url={shown}; Ctrl-C stops it")
        await stopping.wait()
    except OSError as error:
        raise FleetError(
            f"{host}:{port} cannot be served ({error.strerror}): stop its owner, or choose --port"
        ) from error
    finally:
        await runner.cleanup()
