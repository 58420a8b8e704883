"""`fleetcert replay` and `fleetcert policy show|set`: what the machine does, and by which rules."""

import difflib
from dataclasses import replace
from typing import Annotated, Any

import typer

from client import instants, terminal
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

CONFIGURED = {
    "days_before_expiry": "iot.security.tls.certRotation",
    "silent_after_ms": "iot.fleet.healthCheckInterval",
    "anomaly_detection": "iot.monitoring.anomalyDetection",
    "just_in_time": "iot.security.provisioning.justInTime",
}
"""The fields that the configuration sets, by its keys (`client.applied.policy_of`)."""

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
    """Show the policy that the machine goes by; `--json` has its names and values alone."""
    current = Fleet(cluster).partition_row(0).policy
    if as_json:
        return terminal.as_json(current)
    rows = [(name, *_shown(name, getattr(current, name))) for name in Policy.__dataclass_fields__]
    terminal.table("", ("name", "value", "", "set by"), rows)


@app.command(
    "set",
    epilog=examples(
        "policy set grace_ms=120000 attempts_max=3", "policy set anomaly_detection=false"
    ),
)
def set_policy(
    changes: Annotated[
        list[str], typer.Argument(metavar="NAME=VALUE...", help="Spans in milliseconds.")
    ],
    cluster: Kafka = KAFKA,
    as_json: Json = False,
) -> None:
    """Change fields of the policy; all others stay as they are.

    Some fields are the configuration's (`policy show` says which): the next `fleetcert up`, SIGHUP
    or `config apply` sets them to what it says.
    """
    values = dict(_change(one) for one in changes)
    fleet = Fleet(cluster)
    changed = replace(fleet.partition_row(0).policy, **values)
    fleet.activate(changed)
    if as_json:
        return terminal.as_json(changed)
    terminal.say("recorded; it holds from the next event on")
    for name in values.keys() & CONFIGURED.keys():
        terminal.say(f"{name}: the next start sets it to {CONFIGURED[name]} of the configuration")


def _change(text: str) -> tuple[str, Any]:
    """Return a field of the policy and the value that it is to have. Raises FleetError."""
    name, equals, value = text.partition("=")
    field = Policy.__dataclass_fields__.get(name)
    if field is None or not equals:
        near = difflib.get_close_matches(name, Policy.__dataclass_fields__, 1)
        meant = f"did you mean {near[0]}?" if near else "`fleetcert policy show` has the names"
        raise FleetError(f"{text!r}: expected NAME=VALUE; {meant}")
    kind: type = type(field.default)
    if kind is bool:
        if value not in ("true", "false"):
            raise FleetError(f"{text!r}: expected true or false")
        return name, value == "true"
    if kind is str:
        return name, value
    if not value.isdecimal():
        raise FleetError(f"{text!r}: expected a whole number{_unit(name)}")
    return name, int(value)


def _unit(name: str) -> str:
    return " of milliseconds" if name.endswith("_ms") else " of days" if "days" in name else ""


def _shown(name: str, value: Any) -> tuple[str, str, str]:
    """Return a value as it is set, as a person reads it, and the key that sets it, if any."""
    read = instants.span(value) if name.endswith("_ms") else ""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text, read, CONFIGURED.get(name, "")
