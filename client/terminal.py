"""What reaches the terminal: tables, JSON lines and progress.

Rules of this file: colour and progress only where a terminal shows them (NO_COLOR is honoured);
what a device said is data, so markup in it is not read and control characters are shown as text.
"""

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from client.errors import FleetError

PIPE_COLUMNS = 200
"""The width of tables where no terminal says one, so that lines stay whole for grep."""
PROGRESS_STEPS = 500
"""How often a progress bar is redrawn at most."""


class _Console(Console):
    """A console that leaves a closed pipe to the program instead of ending it."""

    def on_broken_pipe(self) -> None:
        """Raise on."""
        raise BrokenPipeError


def console(*, to_stderr: bool = False) -> Console:
    """Return a console for standard output or standard error."""
    stream = sys.stderr if to_stderr else sys.stdout
    fixed = not stream.isatty() and "COLUMNS" not in os.environ
    return _Console(
        file=stream,
        markup=False,
        emoji=False,
        highlight=False,
        width=PIPE_COLUMNS if fixed else None,
    )


def safe(value: object) -> str:
    """Return the value as text without control characters: a device may have said it."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table."""
    drawn = Table(
        title=title or None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    drawn.show_header = any(columns)
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*(safe(one) for one in row))
    console().print(drawn)


def count(number: int, noun: str) -> str:
    """Return a number with its noun: 1 device, 2 devices."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def confirm(what: str, *, yes: bool, asked: TextIO | None = None) -> None:
    """Ask before what cannot be undone; where nobody can answer, `--yes` must have been given.

    `asked` is where the answer comes from, else standard input. Raises FleetError where it is no.
    """
    asked = asked or sys.stdin
    if yes:
        return
    if not asked.isatty():
        raise FleetError(f"{what} Nothing is done; say --yes where nobody can be asked")
    sys.stderr.write(f"{what} Go on? [y/N] ")
    sys.stderr.flush()
    if asked.readline().strip().lower() not in ("y", "yes"):
        raise FleetError("nothing is done")


def say(text: str) -> None:
    """Print one line."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def plain(value: Any) -> Any:
    """Return the value as JSON can hold it: bytes become hex, records become objects."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = {"kind": type(value).__name__}
        fields = dataclasses.fields(value)
        return named | {one.name: plain(getattr(value, one.name)) for one in fields}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


def as_json(value: Any) -> None:
    """Print one JSON document on a line of its own."""
    say(json.dumps(plain(value), sort_keys=True))


@contextlib.contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[..., None]]:
    """Show a bar on standard error while the block works; call what is yielded with how much more.

    A `total` that nobody knows is None: the bar moves, and says how much so far.
    """
    waiting, step = 0, max(1, (total or 0) // PROGRESS_STEPS)
    shown = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console(to_stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    with shown:
        task = shown.add_task(what, total=total)

        def done(count: int = 1) -> None:
            nonlocal waiting
            waiting += count
            if waiting >= step:
                shown.advance(task, waiting)
                waiting = 0

        yield done
