"""`fleetcert schemas list|show|serve|push`: the records of the topics, for those who read them."""

import asyncio
import json
import signal
from pathlib import Path
from typing import Annotated

import typer
from aiohttp import web

from client import push, registry, remote, terminal
from client.commands.options import Json, examples
from client.errors import FleetError
from configuration import secret
from schemas import registry as committed
from schemas.converters import NAMESPACE

HOST, PORT = "127.0.0.1", 8081
DRAIN_SECONDS = 5.0

app = typer.Typer(
    help="List, show, serve and push the schemas of all records.", no_args_is_help=True
)


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
            terminal.as_json(known | {"version": _number(one), "file": one.file})
        return
    columns = ("id", "record", "version", "topics", "file")
    rows = [
        (one.schema_id, one.record, _number(one), ", ".join(topics[one.record]), one.file)
        for one in found
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


PASSWORD = "FLEETCERT_REGISTRY_PASSWORD"  # noqa: S105 - its name


@app.command(
    "push",
    epilog=examples(
        "schemas push --registry http://127.0.0.1:8081 --dry-run",
        "schemas push --registry https://apicurio.example/apis/ccompat/v7 --user me "
        "--password-file registry.password",
    ),
)
def push_schemas(
    url: Annotated[str, typer.Option("--registry", help="The registry's address.")],
    user: Annotated[str, typer.Option(help="Who we are there.")] = "",
    password_file: Annotated[
        Path | None, typer.Option(help=f"The file with the password; else {PASSWORD}.")
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(help="Who signed its certificate, in PEM; else this machine's.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell, and change nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Register all schemas in a schema registry of yours, under their fixed ids and versions.

    What is there already stays. Where the registry has another schema under one of our ids, nothing
    is changed.
    """
    password = ""
    if user:
        password = secret.read(password_file, "--password-file", PASSWORD)
    place = remote.Place(url, user, password, str(ca) if ca else None)
    wanted = committed.of_records()
    plan = asyncio.run(_push(place, wanted, dry_run))
    missing = set(plan.register)
    word = "missing" if dry_run else "registered"
    if as_json:
        for one in wanted:
            known = {"subject": one.subject, "version": one.version}
            known |= {"schema_id": one.schema.schema_id}
            terminal.as_json(known | {"result": word if one in missing else "present"})
        return
    if dry_run:
        columns = ("id", "subject", "version")
        rows = [(one.schema.schema_id, one.subject, one.version) for one in plan.register]
        terminal.table(f"{len(rows)} schemas are missing", columns, rows)
        return
    terminal.say(
        f"{len(missing)} schemas registered, {len(wanted) - len(missing)} were there; "
        f"{committed.COMPATIBILITY} set on {len(plan.levels)} subjects"
    )


async def _push(
    place: remote.Place, wanted: list[committed.Registered], dry_run: bool
) -> push.Plan:
    async with remote.connected(place) as there:
        plan = push.planned(await there.held(wanted), wanted)
        if not dry_run:
            await there.fill(plan)
        return plan
