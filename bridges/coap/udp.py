"""A UDP socket under asyncio that takes all datagrams that have come in one turn of the loop.

asyncio's own transport takes one a turn, into a buffer of 256 KiB. Rules of this file: what the
kernel has no room for is lost and counted, like any datagram on its way: whoever waits asks again.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

TURN_MAX = 64
"""Datagrams taken in one turn: other sockets and timers wait no longer than these need."""
BUFFER_BYTES = 1 << 22
"""The kernel's room in each direction, if it allows so much."""

Address = tuple[Any, ...]


class DatagramSocket:
    """One bound socket."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        bytes_max: int,
        received: Callable[[bytes, Address], None],
        count: Callable[[str], None],
        shared: bool = False,
    ) -> None:
        """Bind, and begin to read; longer datagrams than `bytes_max` come cut, one byte too long.

        `shared` lets other processes listen on the same port.
        """
        self._received, self._count, self._bytes_max = received, count, bytes_max
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(
            socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM
        )
        self._socket.setblocking(False)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            self._socket.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        if shared:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._socket.bind((host, port))
        self.port = int(self._socket.getsockname()[1])
        self._loop.add_reader(self._socket, self._read)

    def send(self, data: bytes, address: Address) -> None:
        """Send one datagram."""
        try:
            self._socket.sendto(data, address)
        except OSError:  # no room, no way, or closed
            self._count("unsent")

    def close(self) -> None:
        """Give the port back."""
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _read(self) -> None:
        for _ in range(TURN_MAX):
            try:
                data, address = self._socket.recvfrom(self._bytes_max + 1)
            except BlockingIOError:
                return
            except OSError:  # of a datagram that we sent: which, is not said, and anybody causes it
                continue
            self._received(data, address)
