"""Ports that nobody uses at the moment."""

import socket


def free_ports(count: int) -> list[int]:
    """Return `count` different ports of this machine that were free a moment ago."""
    probes = [socket.socket() for _ in range(count)]
    for one in probes:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in probes]
    for one in probes:
        one.close()
    return ports
