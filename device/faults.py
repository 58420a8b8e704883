"""Named points before and after every durable write, at which a test makes the device die.

Rules of this file: a point costs one look at the environment; a name that is in no list here is
a bug. `FLEETCERT_FAULT=<name>` kills the process (SIGKILL, no clean-up) at the first hit; `arm`
makes only the current task and its children die, by an exception, for simulators that hold many
devices in one process.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

VARIABLE = "FLEETCERT_FAULT"
"""The environment variable that names the point to die at."""

WRITES = (
    "store:pending",
    "store:identity",
    "store:candidate",
    "store:current",
    "store:settled",
    "store:cleared",
    "store:dropped",
    "outbox:boot",
    "outbox:item",
    "outbox:recorded",
)
"""The durable writes, as `<part>:<what is true afterwards>`."""

UPDATE_WRITES = (
    "update:wanted",
    "update:cleared",
    "update:slot",
    "update:installed",
    "update:tried",
    "update:confirmed",
    "update:ended",
)
"""Those of an update; a device that is only rotated meets none of them."""


def _points(writes: tuple[str, ...]) -> tuple[str, ...]:
    parts = [write.split(":") for write in writes]
    return tuple(f"{part}:{side}-{what}" for part, what in parts for side in ("before", "after"))


POINTS = _points(WRITES)
"""Every point, in the order of `WRITES`; `store:before-current` is one."""

UPDATE_POINTS = _points(UPDATE_WRITES)
"""The same of `UPDATE_WRITES`."""


class Died(Exception):
    """The armed point was hit: the device lost power here. Nothing may catch it but the owner."""


@dataclass(slots=True)
class Armed:
    """A point that is to be hit once in one task."""

    name: str
    hit: bool = False


_armed: ContextVar[Armed | None] = ContextVar("fleetcert_fault", default=None)


def arm(name: str) -> Armed:
    """Make the current task, and the tasks it starts later, die once at the named point."""
    _known(name)
    armed = Armed(name)
    _armed.set(armed)
    return armed


def point(name: str) -> None:
    """Die here if this point is the armed one; otherwise do nothing."""
    _known(name)
    if os.environ.get(VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)
    armed = _armed.get()
    if armed is not None and armed.name == name and not armed.hit:
        armed.hit = True
        raise Died(name)


@contextlib.contextmanager
def around(write: str) -> Iterator[None]:
    """Hit the point before the durable write in the body, and the one after it."""
    part, what = write.split(":")
    point(f"{part}:before-{what}")
    yield
    point(f"{part}:after-{what}")


def _known(name: str) -> None:
    if name not in POINTS and name not in UPDATE_POINTS:
        known = ", ".join(POINTS + UPDATE_POINTS)
        raise ValueError(f"no fault point {name!r}; choose one of {known}")
