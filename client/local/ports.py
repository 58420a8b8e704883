"""Ports that nobody uses at the moment, for a stack beside others."""

import random
import socket
from dataclasses import replace

from client.local.layout import HOST, Layout
from client.local.processes import listens

METRICS = range(20_000, 30_000, 30)
"""Where a stack's row of metrics ports may begin: below the ports that the system hands out."""


def free_ports(count: int) -> list[int]:
    """Return `count` different ports of this machine that were free a moment ago."""
    probes = [socket.socket() for _ in range(count)]
    for one in probes:
        one.bind((HOST, 0))
    ports = [one.getsockname()[1] for one in probes]
    for one in probes:
        one.close()
    return ports


def on_free_ports(layout: Layout) -> Layout:
    """Return the layout with every port one that was free a moment ago."""
    ports = free_ports(8)
    return replace(
        layout,
        kafka_port=ports[0],
        controller_port=ports[1],
        device_port=ports[2],
        service_port=ports[3],
        coap_port=ports[4],
        coap_plain_port=ports[5],
        coap_renewal_port=ports[6],
        est_port=ports[7],
        metrics_port=_metrics_port(),
    )


def _metrics_port() -> int:
    """Return the first of a row of free ports: a random one, two stacks may start at once."""
    while True:
        first = random.choice(METRICS)  # noqa: S311 - no secret
        if not any(listens(one) for one in range(first, first + METRICS.step)):
            return first
