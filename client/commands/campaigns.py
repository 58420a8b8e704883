"""`fleetcert campaign create|plan|list|show|watch|pause|resume|abort|gate`."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from client import campaign_spec, instants, terminal
from client.campaigns import Campaigns, counts, ended, in_work
from client.commands.fleets import FleetId
from client.commands.options import KAFKA, Json, Kafka, examples
from schemas.fleet_states import CampaignRow, CampaignSpec, MemberRow
from streams.core import campaign as rules
from streams.core.rehearsal import Plan

app = typer.Typer(
    help="Bring rotations and updates to a fleet, step by step.", no_args_is_help=True
)
CampaignId = Annotated[str, typer.Argument(help="The campaign's id.")]
SpecText = Annotated[
    str, typer.Option("--spec", help="The campaign: JSON, or @FILE (docs/campaigns.md).")
]
ROTATE_ALL = '{"kind": "rotation"}'
DEVICES_SHOWN_MAX = 50
Steer = Callable[[Campaigns, str, str], None]


def _spec(text: str) -> CampaignSpec:
    if text.startswith("@"):
        text = Path(text[1:]).read_text()
    return campaign_spec.parse(text, time.time_ns() // 1_000_000)


@app.command(
    "create",
    epilog=examples(
        "campaign create pumps rotate-1",
        "campaign create pumps firmware-2.1 --spec @firmware.json",
    ),
)
def create(
    fleet_id: FleetId,
    campaign_id: CampaignId,
    spec: SpecText = ROTATE_ALL,
    cluster: Kafka = KAFKA,
    as_json: Json = False,
) -> None:
    """Order a campaign. Without --spec it rotates the certificates of all members."""
    Campaigns(cluster).order(fleet_id, campaign_id, _spec(spec))
    line = f"ordered {campaign_id}; `fleetcert campaign watch {fleet_id} {campaign_id}` follows it"
    _told(as_json, fleet_id, campaign_id, line)


@app.command(
    "plan",
    epilog=examples(
        "campaign plan pumps rotate-1", "campaign plan pumps fw --spec @fw.json --json"
    ),
)
def plan(
    fleet_id: FleetId,
    campaign_id: CampaignId,
    spec: SpecText = ROTATE_ALL,
    cluster: Kafka = KAFKA,
    as_json: Json = False,
) -> None:
    """Show what a campaign would do with the fleet as it is now; nobody is ordered."""
    found = Campaigns(cluster).plan(fleet_id, campaign_id, _spec(spec))
    if as_json:
        return terminal.as_json(found)
    if found.refused:
        terminal.say(f"it would be refused: {found.refused}")
        raise typer.Exit(1)
    _print_plan(found)


def _print_plan(found: Plan) -> None:
    terminal.say(
        f"{terminal.count(found.enrolled, 'device')}, {found.passed_over} passed over; from "
        f"{instants.shown(found.begins_at)} to {instants.shown(found.ends_at)} (UTC)"
    )
    terminal.table(
        "Groups",
        ("group", "devices", "first order (UTC)", "last order (UTC)"),
        [
            (number, one.size, instants.shown(one.first_at), instants.shown(one.last_at))
            for number, one in enumerate(found.groups)
        ],
    )
    hours = [(instants.shown(at), count) for at, count in found.hours]
    terminal.table("Orders per hour", ("hour (UTC)", "orders"), hours)
    terminal.say(f"The busiest hour has {found.peak_to_mean:.2f} times the mean.")
    terminal.say(f"First devices: {', '.join(found.first)}")
    if found.expiry_wins:
        terminal.say(f"{found.expiry_wins} outside the window: their certificates end before")


@app.command("list", epilog=examples("campaign list pumps", "campaign list pumps --json"))
def list_campaigns(fleet_id: FleetId, cluster: Kafka = KAFKA, as_json: Json = False) -> None:
    """List a fleet's campaigns, also those that ended lately."""
    rows = Campaigns(cluster).campaigns(fleet_id)
    if as_json:
        for row in rows:
            terminal.as_json(row)
        return
    columns = ("campaign", "kind", "state", "reason", "ordered (UTC)", "devices")
    terminal.table(
        terminal.count(len(rows), "campaign"),
        columns,
        [
            (
                one.campaign_id,
                one.spec.kind,
                one.state,
                one.reason,
                instants.shown(one.ordered_at),
                counts(one),
            )
            for one in rows
        ],
    )


@app.command("show", epilog=examples("campaign show pumps fw-2.1"))
def show(
    fleet_id: FleetId,
    campaign_id: CampaignId,
    cluster: Kafka = KAFKA,
    as_json: Json = False,
) -> None:
    """Show one campaign: its state, its groups, why it waits, and how far its devices are."""
    campaigns = Campaigns(cluster)
    row = campaigns.campaign(fleet_id, campaign_id)
    devices = campaigns.devices(fleet_id, campaign_id)
    if as_json:
        for one in (row, *devices):
            terminal.as_json(one)
        return
    terminal.say(f"{row.campaign_id} of {row.fleet_id}: {row.spec.kind}, by {row.actor}")
    terminal.say(_state(row))
    terminal.say(counts(row))
    _print_groups(row)
    _print_devices(campaign_id, devices)


def _print_groups(row: CampaignRow) -> None:
    columns = ("group", "size", "enrolled", "waiting", "in work", "succeeded", "failed", "left")
    terminal.table(
        "Groups",
        columns,
        [
            (
                f"{number}{' (open)' if number <= row.group else ''}",
                one.size,
                one.enrolled,
                one.queued,
                one.in_work,
                one.succeeded,
                one.failed + one.timed_out,
                one.dropped,
            )
            for number, one in enumerate(row.groups)
        ],
    )


def _print_devices(campaign_id: str, devices: list[MemberRow]) -> None:
    """Print those in work and those that failed: who succeeded is a number above."""
    told = [line for one in devices if (line := _device(one, campaign_id))]
    if told:
        columns = ("device", "attempt", "", "why", "since (UTC)")
        terminal.table("Devices in work or failed", columns, told[:DEVICES_SHOWN_MAX])
    if len(told) > DEVICES_SHOWN_MAX:
        terminal.say(f"and {len(told) - DEVICES_SHOWN_MAX} more; --json has all")


def _device(row: MemberRow, campaign_id: str) -> tuple[object, ...] | None:
    order, result = in_work(row, campaign_id), ended(row, campaign_id)
    if order is not None:
        at = instants.shown(order.progress_at or order.ordered_at)
        return row.device_id, order.attempt, order.progress or "ordered", "", at
    if result is None or result.outcome == rules.SUCCEEDED:
        return None
    at = instants.shown(result.ended_at)
    return row.device_id, result.attempts, result.outcome, result.reason, at


@app.command("watch", epilog=examples("campaign watch pumps fw-2.1"))
def watch(
    fleet_id: FleetId,
    campaign_id: CampaignId,
    cluster: Kafka = KAFKA,
    as_json: Json = False,
) -> None:
    """Follow a campaign live until it has ended; exit code 1 unless it is completed."""
    row = None
    for row in Campaigns(cluster).watch(fleet_id, campaign_id):
        if as_json:
            terminal.as_json(row)
        else:
            now = instants.shown(time.time_ns() // 1_000_000)
            terminal.say(f"{now} UTC  {_state(row)}  {counts(row)}")
    if row is None or row.state != rules.COMPLETED:
        raise typer.Exit(1)


def _steering(name: str, act: Steer, told: str) -> None:
    """Make a command that asks one thing of a campaign: its help is what the client says of it."""

    def command(
        fleet_id: FleetId,
        campaign_id: CampaignId,
        cluster: Kafka = KAFKA,
        as_json: Json = False,
    ) -> None:
        act(Campaigns(cluster), fleet_id, campaign_id)
        _told(as_json, fleet_id, campaign_id, f"{campaign_id} {told}")

    example = examples(f"campaign {name} pumps fw-2.1")
    app.command(name, help=act.__doc__, epilog=example)(command)


_steering("pause", Campaigns.pause, "is paused; devices in work finish")
_steering("resume", Campaigns.resume, "goes on")
_steering("abort", Campaigns.abort, "ends; devices in work finish")


@app.command("gate", epilog=examples("campaign gate pumps fw-2.1 1"))
def gate(
    fleet_id: FleetId,
    campaign_id: CampaignId,
    group: Annotated[int, typer.Argument(help="The group to let begin, from 0.")],
    cluster: Kafka = KAFKA,
    as_json: Json = False,
) -> None:
    """Let a gated group begin."""
    Campaigns(cluster).open_gate(fleet_id, campaign_id, group)
    _told(as_json, fleet_id, campaign_id, f"group {group} of {campaign_id} may begin")


def _state(row: CampaignRow) -> str:
    waits = f", waits: {row.waits}" if row.waits else ""
    return f"{row.state} ({row.reason}{waits})"


def _told(as_json: bool, fleet_id: str, campaign_id: str, line: str) -> None:
    if as_json:
        terminal.as_json({"fleet_id": fleet_id, "campaign_id": campaign_id})
    else:
        terminal.say(line)
