"""Where the demo plays: a stack of its own on free ports, in a folder that is cleared before."""

import shutil
import socket
from pathlib import Path

from client.local import supervisor
from client.local.errors import LocalError
from client.local.layout import Layout
from client.local.processes import listens

METRICS_FIRST, METRICS_PORTS = 20_000, 30


def prepare(directory: Path, tools_dir: Path) -> Layout:
    """Clear what a former demo left in `directory`; return a stack on ports that are free.

    Only the demo's own files are removed. Raises LocalError where a demo still runs there.
    """
    data_dir = directory / "stack"
    if supervisor.status(Layout(data_dir=data_dir)):
        raise LocalError(
            f"a demo runs already in {directory}: wait for its end, stop it by Ctrl-C, or choose "
            "another --directory"
        )
    for one in (data_dir, directory / "devices"):
        shutil.rmtree(one, ignore_errors=True)
    for name in ("report.json", "devices.log"):
        (directory / name).unlink(missing_ok=True)
    directory.mkdir(parents=True, exist_ok=True)
    ports = _free_ports(8)
    return Layout(
        data_dir=data_dir,
        tools_dir=tools_dir,
        kafka_port=ports[0],
        controller_port=ports[1],
        device_port=ports[2],
        service_port=ports[3],
        coap_port=ports[4],
        coap_plain_port=ports[5],
        coap_renewal_port=ports[6],
        est_port=ports[7],
        metrics_port=_metrics_port(ports),
    )


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for one in probes:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in probes]
    for one in probes:
        one.close()
    return ports


def _metrics_port(taken: list[int]) -> int:
    """Return the first of METRICS_PORTS ports in a row that nobody uses."""
    first = METRICS_FIRST
    while any(one in taken or listens(one) for one in range(first, first + METRICS_PORTS)):
        first += METRICS_PORTS
    return first
