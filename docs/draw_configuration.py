"""Draw docs/configuration.md and deploy/fleetcert.yaml from the configuration's model."""

import json
import textwrap
from collections.abc import Iterator
from typing import Any

from configuration import keys
from configuration.keys import Key

WIDTH = 100
HEAD = """\
# Configuration

{drawn}

One YAML file holds everything that a user can set. Nothing in it is needed: what is not there has
the default below, and [deploy/fleetcert.yaml](../deploy/fleetcert.yaml) is a file of all defaults.

```sh
fleetcert config check fleetcert.yaml   # everything that is wrong, with line and column
fleetcert config show                   # what holds, and where each value is from
fleetcert config schema                 # JSON Schema, for editors
fleetcert up --config fleetcert.yaml
```

Later sources win, key by key: the defaults; the file (`--config`, else `FLEETCERT_CONFIG`, else
`fleetcert.yaml` of the current folder); the environment (`FLEETCERT_IOT_MQTT_PORT=8884`, lists as
`[a, b]`); the options of a program. Unknown keys and variables are refused with the nearest known
name, a key may stand there once, a value is never converted. A relative path in the file begins at
the file's folder.

*live* means that a running `fleetcert up` takes a change on SIGHUP; anything else names what must
start anew, and so does the answer to SIGHUP. `fleetcert config apply` takes the same live keys to a
Kafka of your own. A fleet's own configuration ([fleet-configuration.md](fleet-configuration.md))
goes before `iot.fleet`, `certRotation` and the intervals.
"""


def page(drawn: str) -> str:
    """Return docs/configuration.md."""
    lines = [HEAD.format(drawn=drawn.strip())]
    told = keys.sections()
    for name, found in _by_section():
        lines += [f"## {name}", "", told[name], ""]
        lines += ["| key | default | allowed | what | takes effect | variable |"]
        lines += ["|---|---|---|---|---|---|"]
        lines += [_row(one) for one in found]
        lines += [""]
    return "\n".join(lines).rstrip() + "\n"


def example(drawn: str) -> str:
    """Return deploy/fleetcert.yaml: every key with its default, each explained."""
    lines = [
        f"# {drawn}: every key with its default. Nothing of it is needed.",
        "# docs/configuration.md has the limits; `fleetcert config check` finds what is wrong.",
    ]
    open_sections: tuple[str, ...] = ()
    told = keys.sections()
    for key in keys.every().values():
        if key.variable_only:
            continue
        for depth in range(1, len(key.path)):
            section = key.path[:depth]
            if open_sections[:depth] != section:
                indent = "  " * (depth - 1)
                lines += [""] if depth < 3 else []
                lines += [f"{indent}# {told['.'.join(section)]}"]
                lines += [f"{indent}{'' if _has_defaults(section) else '# '}{section[-1]}:"]
                open_sections = section
        open_sections = key.path[:-1]
        lines += _example_of(key)
    return "\n".join(lines) + "\n"


def _has_defaults(section: tuple[str, ...]) -> bool:
    """Tell whether anything stands below a section; one of comments alone would be nothing."""
    below = [one for one in keys.every().values() if one.path[: len(section)] == section]
    return any(one.default is not None for one in below)


def _example_of(key: Key) -> Iterator[str]:
    indent = "  " * (len(key.path) - 1)
    allowed = f"{key.meaning}; {key.allowed}"
    for line in textwrap.wrap(allowed, WIDTH - len(indent) - 2):
        yield f"{indent}# {line}"
    value = "" if key.default is None else f" {_yaml(key.default)}"
    yield f"{indent}{'# ' if key.default is None else ''}{key.path[-1]}:{value}"


def _by_section() -> Iterator[tuple[str, list[Key]]]:
    for name in keys.sections():
        found = [one for one in keys.every().values() if ".".join(one.path[:-1]) == name]
        if found:
            yield name, found


def _row(key: Key) -> str:
    default = "" if key.default is None else f"`{_yaml(key.default)}`"
    effect = f"restart of {key.restart}" if key.restart else "live"
    cells = (f"`{key.path[-1]}`", default, key.allowed, key.meaning, effect, f"`{key.variable}`")
    return "| " + " | ".join(one.replace("|", "\\|") for one in cells) + " |"


def _yaml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(value)}]"
    return value if isinstance(value, str) else json.dumps(value)
