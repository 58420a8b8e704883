"""Fault points: where a test may kill or stop the process. Inert unless FLEETCERT_FAULT is set.

`FLEETCERT_FAULT=<point>[:<hits>][:stop]` sends SIGKILL (or SIGSTOP) to the own process at the
given hit of the point, the first by default.
"""

import os
import signal

POINTS = (
    "engine:before-step",
    "engine:after-step",
    "engine:in-transaction",
    "engine:after-commit",
    "engine:after-store",
)
_hits: dict[str, int] = {}


def point(name: str) -> None:
    """Kill or stop this process if the environment names this point."""
    wanted = os.environ.get("FLEETCERT_FAULT", "")
    if not wanted.startswith(name):
        return
    options = wanted[len(name) :].split(":")[1:]
    _hits[name] = _hits.get(name, 0) + 1
    if _hits[name] == next((int(one) for one in options if one.isdigit()), 1):
        os.kill(os.getpid(), signal.SIGSTOP if "stop" in options else signal.SIGKILL)
