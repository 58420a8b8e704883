"""The configuration of a running stack: what a change of it does live, and what must start anew."""

from collections.abc import Callable
from dataclasses import dataclass

from client import applied
from client.local.layout import Layout
from configuration import keys
from configuration.model import Configuration
from configuration.schema import shown
from configuration.source import InvalidConfiguration


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs from what holds: keys that are live, and those that wait for a restart."""

    live: tuple[str, ...]
    waiting: tuple[str, ...]


def changes(before: Configuration, after: Configuration) -> Changes:
    """Return what differs, each as a line: the key, what it was and is, what must start anew."""
    live, waiting = [], []
    for key in keys.every().values():
        was, now = keys.get(before, key), keys.get(after, key)
        if was == now:
            continue
        line = f"{key.name}: {_text(shown(key, was))} -> {_text(shown(key, now))}"
        if key.restart:
            waiting.append(f"{line}: waits for a restart of {key.restart}")
        else:
            live.append(line)
    return Changes(tuple(live), tuple(waiting))


class Reloader:
    """Reads the configuration again, as it was read at the start, and applies what is live."""

    def __init__(self, layout: Layout, read: Callable[[], Configuration]) -> None:
        self._layout, self._read = layout, read
        self._held = layout.configuration

    def apply(self) -> list[str]:
        """Record what holds from the start on; return what changed. Raises FleetError, LocalError.

        The workers answer, so they must run.
        """
        return applied.apply(self._layout.cluster, self._held)

    def reload(self) -> Changes:
        """Read again and apply; what waits for a restart waits on, and is told every time.

        Raises InvalidConfiguration, and all stays as it is; FleetError, LocalError.
        """
        wanted = self._read()
        found = changes(self._held, wanted)
        held = with_live(self._held, wanted)
        applied.apply(self._layout.cluster, held)
        self._held = held
        return found


def with_live(before: Configuration, after: Configuration) -> Configuration:
    """Return what holds once the live keys of `after` are applied."""
    said = before.model_dump(by_alias=True)
    for key in keys.every().values():
        if not key.restart:
            node = said
            for name in key.path[:-1]:
                node = node[name]
            node[key.path[-1]] = keys.get(after, key)
    return Configuration.model_validate(said)


def _text(value: object) -> str:
    if value is None:
        return "nothing"
    return str(value).lower() if isinstance(value, bool) else str(value)


def refused(error: Exception) -> list[str]:
    """Return why nothing was applied, line by line; what held goes on to hold."""
    if isinstance(error, InvalidConfiguration):
        return ["the configuration is refused, all stays as it is:", *map(str, error.faults)]
    return [f"not applied, SIGHUP tries again: {error}"]
