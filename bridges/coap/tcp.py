"""coaps+tcp (RFC 8323): CoAP over TLS 1.3 with client certificates, on aiocoap's connections.

Rules of this file: TLS proves that the peer owns the key and that a device CA signed it; validity
in time is left to the door, which can then tell the history who came too late. A connection counts
against the limits from accept(2) on: handshakes under way are bounded in number and time. A peer
that does not read is cut off.
"""

import asyncio
import contextlib
import socket
import ssl
from asyncio import sslproto
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import structlog
from aiocoap import error, interfaces
from aiocoap.transports.tcp import TcpConnection, _TCPPooling

from bridges.coap.sessions import LOST, Session

log = structlog.get_logger()
HANDSHAKES_MAX = 500
HANDSHAKE_SECONDS = 10.0
CLOSE_SECONDS = 2.0
"""How long a session that is over waits for its peer to agree; by default half a minute."""
FIRST_MESSAGE_SECONDS = 10.0
"""Within this the peer's capabilities (CSM, RFC 8323 section 5.3) must have come."""
MESSAGE_BYTES_MAX = 16_000
"""What fits one TLS record: libcoap's GnuTLS client sends no more at once. Longer bodies come
block-wise."""
UNSENT_BYTES_MAX = 262_144
"""What waits for a peer that does not read; beyond, the connection is dropped."""
SEND_BUFFER_BYTES = 65_536
"""The kernel's part of it; left alone it takes megabytes per peer."""
READ_BUFFER_BYTES = 16_384
"""asyncio holds 256 KiB for each TLS connection; a device sends no longer messages than this."""
BACKLOG = 1_024
KEEP_ALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 20, "TCP_KEEPCNT": 3}
"""A peer without power is noticed after two minutes."""
NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME, which the ssl module does not name."""


class Welcome(Protocol):
    """Opens a session for a certificate, or gives None."""

    def __call__(self, der: bytes, address: str, close: Callable[[int], None]) -> Session | None:
        """Judge the certificate of the peer at `address`; `close` ends its connection."""


def server_context(certificate: Path, key: Path, device_ca: Path) -> ssl.SSLContext:
    """Return the server's TLS context: 1.3 alone, a certificate of a device CA demanded."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(device_ca)
    context.verify_mode = ssl.CERT_REQUIRED
    # the device CA itself is the anchor; see the rules above for the time
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | NO_CHECK_TIME
    context.num_tickets = 0  # every session shows its certificate
    context.set_alpn_protocols(["coap"])
    return context


class Connection(TcpConnection):  # type: ignore[misc] # aiocoap is untyped
    """One connection of a device; `session` is None until its certificate is accepted."""

    _my_max_message_size = MESSAGE_BYTES_MAX

    def __init__(self, server: "TcpServer") -> None:
        super().__init__(server, server.log, server.loop, is_server=True)
        self._server = server
        self.session: Session | None = None
        self._reason = LOST
        self._patience: asyncio.TimerHandle | None = None

    @property
    def blockwise_key(self) -> object:
        """Blocks belong to one session."""
        return self

    def connection_made(self, transport: Any) -> None:
        """Judge the certificate before a word is said."""
        self._transport = transport
        transport.set_write_buffer_limits(high=UNSENT_BYTES_MAX)
        der = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        host, port = transport.get_extra_info("peername")[:2]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.session = self._server.welcome(der, address, self._end)
        if self.session is None:
            transport.abort()
            return
        self._server.connections.add(self)
        self._patience = self.loop.call_later(FIRST_MESSAGE_SECONDS, self._without_settings)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Take bytes: whatever the parser makes of garbage ends the connection, not the process."""
        if self.session is None or self._transport.is_closing():
            return
        self._server.heard(self.session)
        try:
            super().data_received(data)
        except Exception:  # the parser raises many kinds on garbage; all mean the same
            self._server.count("unparsable")
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the session's end."""
        if self._patience is not None:
            self._patience.cancel()
        self._server.connections.discard(self)
        if self.session is None:
            return
        self._server.leave(self.session, self._reason)
        super().connection_lost(exc)

    def eof_received(self) -> None:
        """The peer closed in good order."""
        self._reason = 0

    def released(self) -> None:
        """The peer said that it is going."""
        self._reason = 0

    def pause_writing(self) -> None:
        """Drop a peer that does not read what it is sent."""
        self._server.count("unread")
        self._transport.abort()

    def _send_message(self, msg: Any) -> None:
        if self._transport is not None and not self._transport.is_closing():
            super()._send_message(msg)

    def _end(self, code: int) -> None:
        self._reason = code
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close()

    def _without_settings(self) -> None:
        if self._remote_settings is None:
            self._server.count("slow")
            self._transport.abort()


class TcpServer(_TCPPooling, interfaces.TokenInterface):  # type: ignore[misc] # untyped
    """The listener of coaps+tcp, as an aiocoap transport."""

    _scheme, _default_port = "coaps+tcp", 5684

    def __init__(
        self,
        manager: Any,
        context: ssl.SSLContext,
        welcome: Welcome,
        heard: Callable[[Session], None],
        leave: Callable[[Session, int], None],
        count: Callable[[str], None],
    ) -> None:
        self._tokenmanager, self._context = manager, context
        self.log, self.loop = manager.log, manager.loop
        self.welcome, self.heard, self.leave, self.count = welcome, heard, leave, count
        self.connections: set[Connection] = set()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None
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

    async def _accept(self, listener: socket.socket) -> None:
        with listener:
            while True:
                try:
                    accepted, _ = await self.loop.sock_accept(listener)
                except OSError as problem:  # no file descriptor is left, or the peer is gone
                    log.warning("coap.accept", error=str(problem))
                    await asyncio.sleep(0.05)
                    continue
                if len(self._handshakes) >= HANDSHAKES_MAX:
                    self.count("handshakes")
                    accepted.close()
                    continue
                task = asyncio.create_task(self._shake_hands(accepted))
                self._handshakes.add(task)
                task.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, accepted: socket.socket) -> None:
        _set_up(accepted)
        try:
            await self.loop.connect_accepted_socket(
                lambda: Connection(self),
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=CLOSE_SECONDS,
            )
        except ssl.SSLError as problem:
            self.count("handshake")
            log.info("coap.handshake", error=problem.reason or str(problem))
        except OSError:
            self.count("handshake")

    async def fill_or_recognize_remote(self, message: Any) -> bool:
        """Tell whether a message goes to one of our connections."""
        return isinstance(message.remote, Connection) and message.remote._ctx is self

    def _dispatch_error(self, connection: Connection, exc: Exception | None) -> None:
        if isinstance(exc, error.RemoteServerShutdown):  # Release or Abort (RFC 8323 section 5)
            connection.released()
        super()._dispatch_error(connection, exc)

    def _evict_from_pool(self, connection: Connection) -> None:
        self.connections.discard(connection)

    async def shutdown(self) -> None:
        """Close the listener and every connection."""
        self._tokenmanager = None
        tasks = [*self._handshakes, *([self._accepting] if self._accepting else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in tuple(self.connections):
            with contextlib.suppress(Exception):  # each in its own state of ending
                await connection.release()
            connection._end(0)


def narrow_buffers() -> None:
    """Let every TLS connection of this process hold as little memory as our messages need."""
    sslproto.SSLProtocol.max_size = READ_BUFFER_BYTES


def _set_up(accepted: socket.socket) -> None:
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEP_ALIVE.items():
        accepted.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
