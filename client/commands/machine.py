"""`fleetcert replay` and `fleetcert policy show|set`: what the machine does, and by which rules."""

from dataclasses import replace
from typing import Annotated, Any

import typer

from client import terminal
from client.commands.options import (
    EXIT_DIFFERENT,
    KAFKA,
    SNAPSHOTS,
    Directory,
    Json,
    Kafka,
    examples,
)
from client.fleet import Fleet, FleetError
from schemas import topics
from schemas.states import Policy

app = typer.Typer(help="Show or change what the machine goes by.", no_args_is_help=True)


def replay(
    verify: Annotated[bool, typer.Option(help="Fail where a row differs.")] = True,
    directory: Directory = SNAPSHOTS,
    cluster: Kafka = KAFKA,
    as_json: Json = False,
) -> None:
    """Fold the history again and compare with the live rows, byte for byte.

    Prints a digest per partition (SHA-256 over keys and rows) and names the first difference; then
    the exit code is 4.
    """
    from streams import replay as again
    from streams.programs import PROGRAMS

    fleet = Fleet(cluster)
    numbers = fleet.partitions(topics.DEVICE_EVENTS)
    total = sum(fleet.size(one.events) for one in PROGRAMS)
    with terminal.progress("folding the history", total) as one_done:
        verdicts = [
            (
                program.name,
                again.verify(cluster, number, one_done, snapshots=directory, program=program),
            )
            for program in PROGRAMS
            for number in numbers
        ]
    for name, one in verdicts:
        if as_json:
            known = {"identical": one.identical, "machine": name}
            terminal.as_json(known | terminal.plain(one))
            continue
        state = "identical" if one.identical else f"DIFFERENT: {terminal.safe(one.difference)}"
        terminal.say(
            f"{name}, partition {one.partition}: {one.events} events to offset "
            f"{one.applied_offset}, {one.rows} rows, {one.live_digest[:16]}: {state}"
            + (f", from the snapshot of {one.base_offset}" if one.base_offset >= 0 else "")
        )
        for damaged in one.damaged:
            terminal.say(f"{name}, partition {one.partition}: passed over: {damaged}")
    if verify and not all(one.identical for _, one in verdicts):
        raise typer.Exit(EXIT_DIFFERENT)


@app.command("show", epilog=examples("policy show", "policy show --json | jq .grace_ms"))
def show_policy(cluster: Kafka = KAFKA, as_json: Json = False) -> None:
    """Show the policy that the machine goes by (spans in milliseconds)."""
    current = Fleet(cluster).partition_row(0).policy
    if as_json:
        return terminal.as_json(current)
    for name in Policy.__dataclass_fields__:
        terminal.say(f"{name:20} {getattr(current, name)}")


@app.command(
    "set",
    epilog=examples(
        "policy set days_before_expiry=45 grace_ms=120000", "policy set just_in_time=approval"
    ),
)
def set_policy(
    changes: Annotated[list[str], typer.Argument(metavar="NAME=VALUE...")],
    cluster: Kafka = KAFKA,
    as_json: Json = False,
) -> None:
    """Change fields of the policy; all others stay as they are."""
    fleet = Fleet(cluster)
    values: dict[str, Any] = {}
    for change in changes:
        name, _, value = change.partition("=")
        field = Policy.__dataclass_fields__.get(name)
        kind = type(field.default) if field is not None else None
        if kind is None or not (kind is str or value.isdigit()):
            known = ", ".join(Policy.__dataclass_fields__)
            raise FleetError(f"{change!r}: expected NAME=NUMBER with one of {known}")
        figure: Any = value if kind is str else int(value)
        values[name] = bool(figure) if kind is bool else figure
    changed = replace(fleet.partition_row(0).policy, **values)
    fleet.activate(changed)
    if as_json:
        return terminal.as_json(changed)
    terminal.say("recorded; it holds from the next event on")
