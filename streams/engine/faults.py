"""Fault points: where a test may kill, stop, hang or fail the process. Inert unless asked for.

`FLEETCERT_FAULT=<point>[:<hit>][:kill|stop|hang|fail]` acts at the given hit of the point, the
first by default: SIGKILL or SIGSTOP to the own process, a thread that never goes on, an exception.
"""

import os
import signal
import threading

POINTS = (
    "engine:before-step",
    "engine:after-step",
    "engine:in-transaction",
    "engine:after-commit",
    "engine:after-store",
)
"""Between every two steps of the write order."""
BEFORE_FENCE = "engine:before-fence"
OFFSET_COMMIT = "engine:offset-commit"
_hits: dict[str, int] = {}


class Injected(RuntimeError):
    """A fault that was asked for."""


def point(name: str) -> None:
    """Do what the environment asks for at this point. Raises Injected for `fail`."""
    wanted = os.environ.get("FLEETCERT_FAULT", "")
    if not wanted.startswith(name):
        return
    options = wanted[len(name) :].split(":")[1:]
    _hits[name] = _hits.get(name, 0) + 1
    if _hits[name] != next((int(one) for one in options if one.isdigit()), 1):
        return
    if "fail" in options:
        raise Injected(f"injected at {name}")
    if "hang" in options:
        threading.Event().wait()
    os.kill(os.getpid(), signal.SIGSTOP if "stop" in options else signal.SIGKILL)
