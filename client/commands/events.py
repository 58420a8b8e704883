"""`fleetcert events tail|export`: the history, as it comes and as a file."""

import difflib
import itertools
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from client import instants, terminal
from client.commands.options import KAFKA, Json, Kafka, OnlyDevice, examples
from client.fleet import Fleet, FleetError, Found
from client.lines import line
from client.show import STYLES
from schemas import codec, topics
from schemas.decisions import Decision
from schemas.events import ClockTicked, DoorServed

EXPORTABLE = ".parquet"
BEATS = frozenset({ClockTicked.__name__, DoorServed.__name__})
"""What stands in every partition each second or so, whatever happens."""

app = typer.Typer(help="Read the history.", no_args_is_help=True)

Topic = Annotated[
    str,
    typer.Option(help="Which topic.", autocompletion=lambda: [one.name for one in topics.TOPICS]),
]
Kinds = Annotated[
    list[str] | None,
    typer.Option("--kind", help="Only records of this name; may be given again.", metavar="NAME"),
]
SINCE = "Begin at: 10m (ago), 2026-11-25T10:00 (UTC), start or now."


@app.command(
    "tail",
    epilog=examples(
        "events tail --device pump-7 --since 10m",
        "events tail --topic decisions --since 1h --json",
        "events tail --all --since start --no-follow | less",
    ),
)
def tail(
    topic: Topic = topics.DEVICE_EVENTS,
    device: OnlyDevice = "",
    kind: Kinds = None,
    since: Annotated[str, typer.Option(help=SINCE)] = instants.NOW,
    follow: Annotated[bool, typer.Option(help="Wait for more, until Ctrl-C.")] = True,
    every: Annotated[
        bool, typer.Option("--all", help="Ticks of the clock and heartbeats of doors, too.")
    ] = False,
    cluster: Kafka = KAFKA,
    as_json: Json = False,
) -> None:
    """Print records, one a line, as they come; with --since what is there already, too.

    A line has the instant (UTC), partition/offset, key, name and what matters of the record.
    """
    need_topic(topic)
    kinds = _kinds(kind or [])
    for found in _found(Fleet(cluster), topic, device, since, follow):
        if found.kind not in kinds if kinds else found.kind in BEATS and not every:
            continue
        if as_json:
            terminal.as_json(found)
        else:
            terminal.console().print(_line(found), soft_wrap=True)


@app.command(
    "export",
    epilog=examples(
        "events export events.parquet",
        "events export pump-7.parquet --device pump-7 --since 7d --json",
    ),
)
def export_events(
    target: Annotated[Path, typer.Argument(help=f"The file to write, ending in {EXPORTABLE}.")],
    topic: Topic = topics.DEVICE_EVENTS,
    device: OnlyDevice = "",
    since: Annotated[str, typer.Option(help=SINCE)] = instants.START,
    cluster: Kafka = KAFKA,
    as_json: Json = False,
) -> None:
    """Write a topic, as it stands now, to a Parquet file."""
    need_topic(topic)
    if target.suffix != EXPORTABLE:
        raise FleetError(f"{target} must end in {EXPORTABLE}")
    from client.export import export  # pyarrow takes longer to import than most commands to run

    fleet, start = Fleet(cluster), instants.parse(since, _now())
    with terminal.progress(f"exporting {topic}", fleet.size(topic, start)) as one_done:
        found = fleet.read(topic, device_id=device, since=start, on_record=one_done)
        records = export(found, target)
    if as_json:
        return terminal.as_json({"records": records, "topic": topic, "target": str(target)})
    terminal.say(f"wrote {records} records of {topic} to {target}")


def need_topic(topic: str) -> None:
    """Raise FleetError for a topic that is not in the catalogue."""
    if topic not in topics.BY_NAME:
        raise FleetError(f"no topic {topic!r}; there are {', '.join(topics.BY_NAME)}")


def _kinds(names: Iterable[str]) -> set[str]:
    known = {kind.__name__ for kinds in codec.roots().values() for kind in kinds} | {"undecodable"}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            meant = f"did you mean {near[0]}?" if near else "docs/topics.md has the names"
            raise FleetError(f"no record is called {name!r}; {meant}")
    return set(names)


def _found(fleet: Fleet, topic: str, device: str, since: str, follow: bool) -> Iterator[Found]:
    """Yield what stands there in the order of time, then what comes."""
    now = _now()
    start = instants.parse(since, now)
    coming = fleet.follow(topic, device_id=device) if follow else iter(())
    there: Iterator[Found] = iter(())
    if start < now:
        there = fleet.read(topic, device_id=device, since=start, ordered=True)
    shown: dict[int, int] = {}
    for found in itertools.chain(there, coming):
        if found.offset > shown.get(found.partition, -1):
            shown[found.partition] = found.offset
            yield found


def _line(found: Found) -> Text:
    key = terminal.safe(found.key.decode(errors="replace"))
    drawn = Text(no_wrap=True)
    drawn.append(f"{instants.shown(found.at)}Z", "dim")
    drawn.append(f" {f'{found.partition}/{found.offset}':>9} ", "dim")
    drawn.append(f"{key:20} ")
    severity = found.record.severity if isinstance(found.record, Decision) else ""
    kind = "" if isinstance(found.record, Decision) else f"{found.kind:18} "
    drawn.append(kind, "red" if found.record is None else "cyan")
    drawn.append(line(found.record), STYLES.get(severity, ""))
    return drawn


def _now() -> int:
    return time.time_ns() // 1_000_000
