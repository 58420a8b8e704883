"""Fault points of the issuer, for tests. Inert unless FLEETCERT_FAULT names one.

`FLEETCERT_FAULT=<point>[:stop]` sends SIGKILL (or SIGSTOP) to the own process at the first hit.
"""

import os
import signal

VARIABLE = "FLEETCERT_FAULT"
POINTS = (
    "issuer:after-sign",  # signed, and nobody knows
    "issuer:after-list",  # the list is written, nothing is published
    "issuer:after-publish",  # Kafka has the answers, the offset is not committed
    "issuer:after-commit",
)
_hit: set[str] = set()


def point(name: str) -> None:
    """Kill or stop this process if the environment names this point."""
    assert name in POINTS, name
    wanted, _, how = os.environ.get(VARIABLE, "").rpartition(":stop")
    if (wanted or how) == name and name not in _hit:
        _hit.add(name)
        os.kill(os.getpid(), signal.SIGSTOP if wanted else signal.SIGKILL)
