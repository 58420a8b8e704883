"""TLS 1.3 listeners of doors: client certificates, and handshakes bounded in number and time.

Rules of this file: TLS proves that the peer owns the key and that a device CA signed it; validity
in time is left to the door, which can then tell the history who came too late. A connection counts
against the limits from accept(2) on.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import structlog

log = structlog.get_logger()
HANDSHAKES_MAX = 500
HANDSHAKE_SECONDS = 10.0
QUIET_SECONDS = 1.0
"""After a word of a failed handshake; the metric counts them all."""
CLOSE_SECONDS = 2.0
"""How long a connection that is over waits for its peer to agree; by default half a minute."""
SEND_BUFFER_BYTES = 65_536
"""The kernel's part of what waits for a peer; left alone it takes megabytes."""
BACKLOG = 1_024
KEEP_ALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 20, "TCP_KEEPCNT": 3}
"""A peer without power is noticed after two minutes."""
NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME, which the ssl module does not name."""


def server_context(
    certificate: Path,
    key: Path,
    device_ca: Path,
    *further: Path,
    protocols: Sequence[str],
    demand: bool = True,
) -> ssl.SSLContext:
    """Return the server's TLS context: 1.3 alone, a certificate of a device CA or a further one.

    `protocols` are offered by ALPN. Without `demand` a client may also show no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    for trusted in (device_ca, *further):
        context.load_verify_locations(trusted)
    context.verify_mode = ssl.CERT_REQUIRED if demand else ssl.CERT_OPTIONAL
    # the device CA itself is the anchor; see the rules above for the time
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | NO_CHECK_TIME
    context.num_tickets = 0  # every session shows its certificate
    context.set_alpn_protocols(list(protocols))
    return context


class TlsListener:
    """Accepts connections, shakes hands, and gives each to a protocol of `make`."""

    def __init__(
        self,
        context: ssl.SSLContext,
        make: Callable[[], asyncio.Protocol],
        count: Callable[[str], None],
        *,
        has_room: Callable[[], bool] = lambda: True,
        lifetime_seconds: float | None = None,
    ) -> None:
        """Count refusals by `count`; end a connection after its lifetime, whatever it does."""
        self._context, self._make, self._count = context, make, count
        self._has_room, self._lifetime_seconds = has_room, lifetime_seconds
        self._loop = asyncio.get_running_loop()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None
        self._quiet_until, self._unsaid = 0.0, 0
        self.port = 0

    async def listen(self, host: str, port: int, *, shared: bool = False) -> None:
        """Begin to listen; `shared` lets other processes listen on the same port."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server(
            (host, port), family=family, backlog=BACKLOG, reuse_port=shared
        )
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        self._accepting = asyncio.create_task(self._accept(listener))

    async def close(self) -> None:
        """Close the listener and end the handshakes under way."""
        tasks = [*self._handshakes, *([self._accepting] if self._accepting else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, listener: socket.socket) -> None:
        with listener:
            while True:
                try:
                    accepted, _ = await self._loop.sock_accept(listener)
                except OSError as problem:  # no file descriptor is left, or the peer is gone
                    log.warning("tls.accept", error=str(problem))
                    await asyncio.sleep(0.05)
                    continue
                if len(self._handshakes) >= HANDSHAKES_MAX or not self._has_room():
                    self._count("handshakes")
                    accepted.close()
                    continue
                task = asyncio.create_task(self._shake_hands(accepted))
                self._handshakes.add(task)
                task.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, accepted: socket.socket) -> None:
        _set_up(accepted)
        transport: Any
        try:
            transport, _ = await self._loop.connect_accepted_socket(
                self._make,
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=CLOSE_SECONDS,
            )
        except ssl.SSLError as problem:
            self._count("handshake")
            self._tell(problem.reason or str(problem))
        except OSError:
            self._count("handshake")
        else:
            if self._lifetime_seconds is not None:
                self._loop.call_later(self._lifetime_seconds, transport.abort)

    def _tell(self, why: str) -> None:
        """Log a failed handshake, one a second: strangers may make as many as they like."""
        self._unsaid += 1
        if time.monotonic() >= self._quiet_until:
            log.info("tls.handshake", error=why, unsaid=self._unsaid - 1)
            self._quiet_until, self._unsaid = time.monotonic() + QUIET_SECONDS, 0


def _set_up(accepted: socket.socket) -> None:
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEP_ALIVE.items():
        accepted.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
