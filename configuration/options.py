"""Options of a process: each stands for one key of the model, and goes before every other source.

Rules of this file: an option has its default, its limits and its meaning from the model; one that
is not given leaves the file and the environment alone.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from configuration.keys import Key, every
from configuration.load import Loaded, load
from configuration.source import InvalidConfiguration

KINDS: Mapping[str, type] = {"integer": int, "number": float, "string": str}


def add(parser: argparse.ArgumentParser, names: Mapping[str, str]) -> None:
    """Add `--config`, and an option for each key: `names` are the keys by option."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="else FLEETCERT_CONFIG, else ./fleetcert.yaml"
    )
    for option, name in names.items():
        key = every()[name]
        parser.add_argument(option, dest=name, default=None, help=_help(key), **_form(key))


def read(
    options: argparse.Namespace, names: Mapping[str, str], process: str | None = None
) -> Loaded:
    """Return what holds with the options that were given. Raises InvalidConfiguration.

    A `process` of `kafka.users` is on Kafka who it is there.
    """
    said = vars(options)
    given = {name: (option, said[name]) for option, name in names.items() if said[name] is not None}
    loaded = load(options.config, options=given)
    if process is not None:
        loaded = replace(loaded, configuration=loaded.configuration.of(process))
    _ = loaded.configuration.cluster  # a password that cannot be read is told with all the rest
    return loaded


def read_or_exit(options: argparse.Namespace, names: Mapping[str, str], process: str) -> Loaded:
    """Return what holds for a process; end it with all that is wrong."""
    try:
        return read(options, names, process)
    except InvalidConfiguration as error:
        sys.exit(f"error: {error}")


def _form(key: Key) -> dict[str, Any]:
    if key.kind == "boolean":
        return {"action": argparse.BooleanOptionalAction}
    metavar = key.path[-1].upper()
    if key.kind == "array":
        return {"nargs": "*", "metavar": metavar}
    return {"type": KINDS[key.kind], "metavar": metavar}


def _help(key: Key) -> str:
    default = "" if key.default is None else f", default {key.default}"
    text = f"{key.meaning} ({key.unit or key.name}{default})" if key.unit else key.meaning + default
    return text.replace("%", "%%")
