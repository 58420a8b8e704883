"""`fleetcert fleet create|list|show|add|remove|move|config|history|rollback`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from client import campaigns as campaign_client
from client import fleets as client
from client import instants, terminal
from client.commands.options import KAFKA, DeviceId, Json, Kafka, examples
from client.errors import FleetError
from client.fleet import Fleet
from client.fleets import Fleets
from configuration.cluster import Cluster
from schemas.fleet_states import FleetRow
from schemas.states import DeviceRow
from streams.core import fleet_config, statistics
from streams.core import query as queries

app = typer.Typer(help="Create, fill and configure fleets.", no_args_is_help=True)
FleetId = Annotated[str, typer.Argument(help="The fleet's id.")]


def document(text: str) -> dict[str, Any]:
    """Return the JSON object that a text, or the file behind `@`, is. Raises FleetError."""
    if text.startswith("@"):
        text = Path(text[1:]).read_text()
    try:
        found = json.loads(text)
    except ValueError as error:
        raise FleetError(f"{text[:60]!r} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise FleetError(f"{text[:60]!r} is no JSON object")
    return found


@app.command(
    "create",
    epilog=examples(
        "fleet create pumps --name 'All pumps' --device pump-7 --device pump-8",
        'fleet create pumps --config \'{"certRotation": {"daysBeforeExpiry": 45}}\' --json',
    ),
)
def create(
    fleet_id: FleetId,
    name: Annotated[str, typer.Option(help="What people call it.")] = "",
    tag: Annotated[list[str] | None, typer.Option(help="A tag, NAME or NAME=VALUE.")] = None,
    device: Annotated[list[str] | None, typer.Option(help="A first member.")] = None,
    config: Annotated[str, typer.Option(help="A patch: JSON, or @FILE.")] = "{}",
    query: Annotated[str, typer.Option(help="Take the devices that this finds.")] = "",
    cluster: Kafka = KAFKA,
    as_json: Json = False,
) -> None:
    """Create a fleet."""
    _need(cluster, *(device or ()))
    with Fleets(cluster) as fleets:
        fleets.create(
            fleet_id,
            name,
            tags=tag or (),
            devices=device or (),
            config=document(config),
            membership=query,
        )
    _told(as_json, fleet_id, f"created {fleet_id}; see `fleetcert fleet show {fleet_id}`")


@app.command("list", epilog=examples("fleet list", "fleet list --json | jq -r .fleet_id"))
def list_fleets(cluster: Kafka = KAFKA, as_json: Json = False) -> None:
    """List all fleets."""
    with Fleets(cluster) as fleets:
        rows = list(fleets.fleets().values())
    if as_json:
        for row in rows:
            terminal.as_json(row)
        return
    columns = ("fleet", "name", "members", "connected", "in work", "campaigns", "version")
    terminal.table(terminal.count(len(rows), "fleet"), columns, [_line(row) for row in rows])


@app.command("show", epilog=examples("fleet show pumps", "fleet show pumps --json | jq ."))
def show(fleet_id: FleetId, cluster: Kafka = KAFKA, as_json: Json = False) -> None:
    """Show a fleet: its figures, configuration and members."""
    with Fleets(cluster) as fleets:
        row, members = fleets.fleet(fleet_id), fleets.members(fleet_id)
    values = fleet_config.plain(row.config)
    if as_json:
        config = json.loads(fleet_config.nested(values))
        terminal.as_json({"fleet": row, "config": config, "members": members})
        return
    terminal.table("Fleet", ("", ""), zip(_HEADINGS, _line(row), strict=True))
    terminal.table("Configuration", ("name", "value"), _plain(values))
    columns = (
        "device",
        "since (UTC)",
        "confirmed",
        "health",
        "certificate ends",
        "in work",
        "last",
    )
    lines = [
        (
            one.device_id,
            instants.shown(one.joined_at),
            "yes" if one.confirmed else "asked",
            one.health or "-",
            instants.shown(one.not_after_at),
            one.order.campaign_id if one.order else "-",
            f"{one.last.outcome} in {one.last.campaign_id}" if one.last else "-",
        )
        for one in members
    ]
    terminal.table(terminal.count(len(members), "member"), columns, lines)


@app.command("add", epilog=examples("fleet add pumps pump-7", "fleet add pumps pump-7 --json"))
def add(
    fleet_id: FleetId, device_id: DeviceId, cluster: Kafka = KAFKA, as_json: Json = False
) -> None:
    """Add a device to a fleet."""
    _need(cluster, device_id)
    with Fleets(cluster) as fleets:
        fleets.add_device(fleet_id, device_id)
    _told(as_json, fleet_id, _asked(device_id, fleet_id), device_id=device_id)


@app.command("remove", epilog=examples("fleet remove pumps pump-7"))
def remove(
    fleet_id: FleetId, device_id: DeviceId, cluster: Kafka = KAFKA, as_json: Json = False
) -> None:
    """Let a device leave a fleet and its campaigns."""
    with Fleets(cluster) as fleets:
        fleets.remove_device(fleet_id, device_id)
    _told(as_json, fleet_id, f"{device_id} has left {fleet_id}", device_id=device_id)


@app.command("move", epilog=examples("fleet move pump-7 pumps old-pumps"))
def move(
    device_id: DeviceId,
    from_fleet: Annotated[str, typer.Argument(help="The fleet it leaves.")],
    fleet_id: Annotated[str, typer.Argument(help="The fleet it joins.")],
    cluster: Kafka = KAFKA,
    as_json: Json = False,
) -> None:
    """Move a device to another fleet."""
    _need(cluster, device_id)
    with Fleets(cluster) as fleets:
        fleets.move_device(device_id, from_fleet, fleet_id)
    _told(as_json, fleet_id, _asked(device_id, fleet_id), device_id=device_id)


@app.command(
    "config",
    epilog=examples(
        "fleet config pumps",
        'fleet config pumps \'{"updatePolicy": {"batchSize": 50}}\'',
        "fleet config pumps @patch.json --expected-version 3",
    ),
)
def config(
    fleet_id: FleetId,
    patch: Annotated[str, typer.Argument(help="A patch: JSON, or @FILE. Left out: show.")] = "",
    expected_version: Annotated[
        int, typer.Option(help="Refuse if somebody has changed it since this version.")
    ] = 0,
    cluster: Kafka = KAFKA,
    as_json: Json = False,
) -> None:
    """Show a fleet's configuration, or merge a patch into it."""
    with Fleets(cluster) as fleets:
        if patch:
            version = fleets.update_config(
                fleet_id, document(patch), expected_version=expected_version
            )
            told = f"{fleet_id} has version {version} of its configuration"
            return _told(as_json, fleet_id, told, version=version)
        values = fleet_config.plain(fleets.fleet(fleet_id).config)
    if as_json:
        return terminal.as_json(json.loads(fleet_config.nested(values)))
    terminal.table(f"Configuration of {fleet_id}", ("name", "value"), _plain(values))


@app.command(
    "query",
    epilog=examples(
        "fleet query 'type=sensor and site in (berlin, paris) and not beta'",
        "fleet query 'site=berlin' --set-for pumps",
        "fleet query '' --set-for pumps",
    ),
)
def query(
    text: Annotated[str, typer.Argument(help="A query over tags; empty for none.")],
    set_for: Annotated[str, typer.Option(help="Let this fleet take what it finds.")] = "",
    cluster: Kafka = KAFKA,
    as_json: Json = False,
) -> None:
    """Show which devices a query finds now; with --set-for a fleet takes them from now on."""
    if wrong := queries.objection(text):
        raise FleetError(f"no query: {wrong}")
    if set_for:
        with Fleets(cluster) as fleets:
            fleets.set_membership(set_for, text)
        return _told(as_json, set_for, f"{set_for} takes: {text or 'nobody by itself'}", query=text)
    found = list(_found(cluster, text))
    if as_json:
        for row in found:
            terminal.as_json({"device_id": row.device_id, "fleet_id": row.belongs.fleet_id})
        return
    columns = ("device", "type", "tags", "fleet now")
    lines = [
        (one.device_id, one.device_type, " ".join(one.tags), one.belongs.fleet_id or "-")
        for one in found
    ]
    terminal.table(terminal.count(len(found), "device"), columns, lines)


def _found(cluster: Cluster, text: str) -> Iterator[DeviceRow]:
    if not text:
        return
    wanted = queries.parse(text)
    with Fleet(cluster) as devices:
        for row in devices.devices().values():
            meant = queries.matches(wanted, row.tags, row.device_type, row.protocols)
            if meant and not row.retired_at:
                yield row


@app.command("history", epilog=examples("fleet history pumps"))
def history(fleet_id: FleetId, cluster: Kafka = KAFKA, as_json: Json = False) -> None:
    """Show what each version of a fleet's configuration changed, and who did."""
    with Fleets(cluster) as fleets:
        fleets.fleet(fleet_id)
        found = fleets.history(fleet_id)
    if as_json:
        for one in found.versions:
            terminal.as_json(one)
        return
    lines = [
        (one.version, instants.shown(one.at), one.actor, path, _shown(before), _shown(after))
        for one, changes in client.differences(found)
        for path, before, after in changes or [("nothing", None, None)]
    ]
    terminal.table("Versions", ("version", "at (UTC)", "by", "name", "before", "after"), lines)


@app.command("rollback", epilog=examples("fleet rollback pumps 3"))
def roll_back(
    fleet_id: FleetId,
    version: Annotated[int, typer.Argument(help="The version to go back to.")],
    cluster: Kafka = KAFKA,
    as_json: Json = False,
) -> None:
    """Set a fleet's configuration to what it was; this is a new version."""
    with Fleets(cluster) as fleets:
        made = fleets.roll_back(fleet_id, version)
    _told(
        as_json,
        fleet_id,
        f"{fleet_id} has version {made} of its configuration, as {version}",
        version=made,
    )


@app.command("forecast", epilog=examples("fleet forecast pumps --days 90"))
def forecast(
    fleet_id: FleetId,
    days: Annotated[int, typer.Option(help="How far to look.", min=1, max=1_000)] = 60,
    cluster: Kafka = KAFKA,
    as_json: Json = False,
) -> None:
    """Show the rotations per hour that a fleet's certificates will ask for."""
    hours = campaign_client.Campaigns(cluster).forecast(fleet_id, days)
    if as_json:
        for at, count in hours:
            terminal.as_json({"hour_at": at, "rotations": count})
        return
    terminal.table(
        "Rotations", ("hour (UTC)", "rotations"), [(instants.shown(a), n) for a, n in hours]
    )


_HEADINGS = ("fleet", "name", "members", "connected", "in work", "campaigns", "version")


def _line(row: FleetRow) -> tuple[object, ...]:
    return (
        row.fleet_id,
        row.name,
        row.members,
        statistics.total(row).connected,
        row.in_work,
        ", ".join(one.campaign_id for one in row.campaigns) or "-",
        row.config_version,
    )


def _need(cluster: Cluster, *device_ids: str) -> None:
    """Raise FleetError for a device that nobody has registered: a fleet would wait for it."""
    with Fleet(cluster) as devices:
        for one in device_ids:
            devices.device(one)


def _asked(device_id: str, fleet_id: str) -> str:
    return f"asked {device_id} to join {fleet_id}; see `fleetcert fleet show {fleet_id}`"


def _plain(values: dict[str, Any]) -> list[tuple[str, str]]:
    """Return a configuration's names and values, as JSON has them; texts without quotes."""
    return [
        (name, value if isinstance(value, str) else json.dumps(value))
        for name, value in values.items()
    ]


def _shown(value: object) -> str:
    return "inherited" if value is None else json.dumps(value)


def _told(as_json: bool, fleet_id: str, line: str, **values: object) -> None:
    if as_json:
        terminal.as_json({"fleet_id": fleet_id, **values})
    else:
        terminal.say(line)
