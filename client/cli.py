"""The command line `fleetcert`.

Exit codes: 0 done, 1 what was asked cannot be done (the message says what to do next), 2 wrong
usage, 4 a verification found a difference.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from client import show
from client.export import EXPORTABLE, export
from client.fleet import Fleet, FleetError
from client.local import commands as local
from schemas import topics
from schemas.states import Policy
from streams import replay
from streams.engine.failure import EngineFailed

EXIT_DIFFERENT = 4

app = typer.Typer(
    name="fleetcert",
    help="Keep the certificates of a device fleet alive, and know what happened to it.",
    epilog="Examples: fleetcert up · fleetcert device list --json · fleetcert replay --verify",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
devices = typer.Typer(help="Register, list, show and rotate devices.", no_args_is_help=True)
events = typer.Typer(help="Read the history.", no_args_is_help=True)
pki = typer.Typer(help="Create the certificate authorities.", no_args_is_help=True)
policy = typer.Typer(help="Show or change what the machine goes by.", no_args_is_help=True)
app.add_typer(devices, name="device")
app.add_typer(events, name="events")
app.add_typer(pki, name="pki")
app.add_typer(policy, name="policy")
local.add_to(app, pki)

Bootstrap = Annotated[str, typer.Option(help="Kafka's host:port.", envvar="FLEETCERT_BOOTSTRAP")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document per line.")]
KAFKA = "127.0.0.1:9092"


@devices.command("register", epilog="Example: fleetcert device register pump-7 --cert pump-7.pem")
def device_register(
    device_id: str,
    cert: Annotated[Path, typer.Option(help="PEM or DER certificate.", exists=True)],
    device_type: Annotated[str, typer.Option("--type")] = "device",
    bootstrap: Bootstrap = KAFKA,
) -> None:
    """Register a device with the certificate it holds."""
    Fleet(bootstrap).register(device_id, device_type, certificate=cert.read_bytes())
    typer.echo(f"registered {device_id}; see `fleetcert device show {device_id}`")


@devices.command("list", epilog="Example: fleetcert device list --json | jq .device_id")
def device_list(bootstrap: Bootstrap = KAFKA, as_json: Json = False) -> None:
    """List all devices."""
    rows = list(Fleet(bootstrap).devices().values())
    if as_json:
        for row in rows:
            show.as_json(row)
        return
    columns = ("device", "type", "presence", "rotation", "certificate", "not after", "alerts")
    show.table(f"{len(rows)} devices", columns, [show.device_line(row) for row in rows])


@devices.command("show", epilog="Example: fleetcert device show pump-7")
def device_show(device_id: str, bootstrap: Bootstrap = KAFKA, as_json: Json = False) -> None:
    """Tell one device's story: certificates, saga with offsets and times, decisions."""
    fleet = Fleet(bootstrap)
    row, decided = fleet.device(device_id), fleet.decisions(device_id)
    if as_json:
        show.as_json({"device": row, "decisions": decided})
        return
    show.device_story(row, decided)


@devices.command("rotate", epilog="Example: fleetcert device rotate pump-7")
def device_rotate(device_id: str, bootstrap: Bootstrap = KAFKA, as_json: Json = False) -> None:
    """Order a rotation now."""
    fleet = Fleet(bootstrap)
    fleet.device(device_id)
    order = fleet.rotate(device_id)
    if as_json:
        show.as_json({"order_id": order, "device_id": device_id})
        return
    typer.echo(f"ordered {order}; follow it with `fleetcert device show {device_id}`")


@app.command(epilog="Example: fleetcert alerts --json")
def alerts(bootstrap: Bootstrap = KAFKA, as_json: Json = False) -> None:
    """List the alerts that are raised and not cleared."""
    raised = Fleet(bootstrap).alerts()
    if as_json:
        for one in raised:
            show.as_json(one)
        return
    show.table(
        f"{len(raised)} alerts",
        ("since", "subject", "alert", "severity", "figure", "limit"),
        [
            (
                show.instant(one.decided_at),
                one.subject,
                one.rule,
                one.severity,
                one.values.get("figure", ""),
                one.values.get("limit", ""),
            )
            for one in raised
        ],
    )


@events.command("tail", epilog="Example: fleetcert events tail --topic decisions --json")
def events_tail(
    topic: Annotated[str, typer.Option(help="Which topic.")] = topics.DEVICE_EVENTS,
    since_start: Annotated[bool, typer.Option(help="Read what is there, then end.")] = False,
    bootstrap: Bootstrap = KAFKA,
    as_json: Json = False,
) -> None:
    """Print records as they come."""
    _need_topic(topic)
    fleet = Fleet(bootstrap)
    for found in fleet.read(topic) if since_start else fleet.follow(topic):
        if as_json:
            show.as_json(found)
            continue
        name = type(found.record).__name__ if found.record is not None else "undecodable"
        key = found.key.decode(errors="replace")
        where = f"{found.partition}/{found.offset}"
        typer.echo(f"{show.instant(found.at)}  {where:>10}  {key:24}  {name}")


@events.command("export", epilog="Example: fleetcert events export events.parquet")
def events_export(
    target: Path,
    topic: Annotated[str, typer.Option(help="Which topic.")] = topics.DEVICE_EVENTS,
    bootstrap: Bootstrap = KAFKA,
) -> None:
    """Write a topic to a Parquet file."""
    _need_topic(topic)
    if target.suffix not in EXPORTABLE:
        raise FleetError(f"{target} should end in {' or '.join(EXPORTABLE)}")
    rows = export(Fleet(bootstrap).read(topic), target)
    typer.echo(f"wrote {rows} records of {topic} to {target}")


@app.command("replay", epilog="Example: fleetcert replay --verify")
def replay_command(
    verify: Annotated[bool, typer.Option(help="Compare with the live rows.")] = True,
    bootstrap: Bootstrap = KAFKA,
    as_json: Json = False,
) -> None:
    """Fold the history again and compare with the live rows, byte for byte."""
    count = len(Fleet(bootstrap).partitions(topics.DEVICE_EVENTS))
    verdicts = [replay.verify(bootstrap, number) for number in range(count)]
    for one in verdicts:
        if as_json:
            show.as_json(one)
            continue
        state = "identical" if one.identical else f"DIFFERENT: {one.difference}"
        typer.echo(
            f"partition {one.partition}: {one.events} events to offset {one.applied_offset}, "
            f"{one.rows} rows, {one.live_digest[:16]}: {state}"
        )
    if verify and not all(one.identical for one in verdicts):
        raise typer.Exit(EXIT_DIFFERENT)


@policy.command("show", epilog="Example: fleetcert policy show --json")
def policy_show(bootstrap: Bootstrap = KAFKA, as_json: Json = False) -> None:
    """Show the policy that the machine goes by (spans in milliseconds)."""
    current = Fleet(bootstrap).partition_row(0).policy
    if as_json:
        show.as_json(current)
        return
    for name in Policy.__dataclass_fields__:
        typer.echo(f"{name:20} {getattr(current, name)}")


@policy.command("set", epilog="Example: fleetcert policy set days_before_expiry=45")
def policy_set(changes: list[str], bootstrap: Bootstrap = KAFKA) -> None:
    """Change fields of the policy; all others stay as they are."""
    from dataclasses import replace

    fleet = Fleet(bootstrap)
    current = fleet.partition_row(0).policy
    values: dict[str, int] = {}
    for change in changes:
        name, _, value = change.partition("=")
        if name not in Policy.__dataclass_fields__ or not value.isdigit():
            known = ", ".join(Policy.__dataclass_fields__)
            raise FleetError(f"{change!r}: expected NAME=NUMBER with one of {known}")
        values[name] = int(value)
    fleet.activate(replace(current, **values))
    typer.echo("recorded; it holds from the next event on")


def _need_topic(topic: str) -> None:
    if topic not in topics.BY_NAME:
        raise FleetError(f"no topic {topic!r}; there are {', '.join(topics.BY_NAME)}")


def main() -> None:
    """Run the command line; our own errors become one line and exit code 1."""
    try:
        app()
    except (FleetError, EngineFailed, *local.StackError) as error:
        typer.echo(f"fleetcert: {error}", err=True)
        sys.exit(1)
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(130)


if __name__ == "__main__":
    main()
