"""coaps+tcp (RFC 8323): CoAP over TLS 1.3 with client certificates, on aiocoap's connections.

Rules of this file: a connection's certificate is judged before a word is said (bridges/tls.py has
proven the key); capabilities come soon or not at all; a peer that does not read is cut off.
"""

import asyncio
import contextlib
import ssl
from asyncio import sslproto
from collections.abc import Callable
from typing import Any, Protocol

import structlog
from aiocoap import Message, error, interfaces
from aiocoap.transports.rfc8323common import CloseConnection
from aiocoap.transports.tcp import TcpConnection

from bridges.coap import wire
from bridges.coap.exchanges import Exchange, Exchanges
from bridges.coap.sessions import LOST, Session
from bridges.tls import TlsListener

log = structlog.get_logger()
FIRST_MESSAGE_SECONDS = 10.0
"""Within this the peer's capabilities (CSM, RFC 8323 section 5.3) must have come."""
MESSAGE_BYTES_MAX = 16_000
"""What fits one TLS record: libcoap's GnuTLS client sends no more at once. Longer bodies come
block-wise."""
UNSENT_BYTES_MAX = 262_144
"""What waits for a peer that does not read; beyond, the connection is dropped."""
READ_BUFFER_BYTES = 4_096
"""asyncio holds 256 KiB for each TLS connection. Most messages are shorter than this; a longer one
is read in turns."""


class Welcome(Protocol):
    """Opens a session for a certificate, or gives None."""

    def __call__(self, der: bytes, address: str, close: Callable[[int], None]) -> Session | None:
        """Judge the certificate of the peer at `address`; `close` ends its connection."""


class Connection(TcpConnection):  # type: ignore[misc] # aiocoap is untyped
    """One connection of a device; `session` is None until its certificate is accepted."""

    _my_max_message_size = MESSAGE_BYTES_MAX

    def __init__(self, server: "TcpServer") -> None:
        super().__init__(server, server.log, server.loop, is_server=True)
        self._server = server
        self.session: Session | None = None
        self.exchanges: dict[bytes, Exchange] = {}
        self._spool = b""
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
        """Take bytes: whatever garbage they are ends the connection, not the process."""
        if self.session is None or self._transport.is_closing():
            return
        self._server.heard(self.session)
        data, begin = self._spool + data, 0
        try:
            while (found := wire.frame(data, begin)) is not None:
                token, end = found
                if end - begin > MESSAGE_BYTES_MAX:
                    self.abort("Overly large message announced")
                    return
                if end > len(data):
                    break
                self._take(wire.framed(data, begin, token, end, self))
                begin = end
                if self._transport.is_closing():
                    return
        except error.UnparsableMessage:
            self._server.count("unparsable")
            self.abort("Failed to parse message")
        self._spool = data[begin:]

    def _take(self, message: wire.Heard) -> None:
        """Take one message; one that is empty, or an answer, is passed over."""
        if message.code.is_signalling():
            try:
                self._process_signaling(message)
            except CloseConnection:  # Release or Abort: it goes in good order
                self._reason = 0
                self._transport.close()
        elif self._remote_settings is None:
            self.abort("No CSM received")
        elif message.code.is_request():
            self._server.exchanges.process_request(message)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the session's end."""
        if self._patience is not None:
            self._patience.cancel()
        self._server.connections.discard(self)
        if self.session is None:
            return
        self._server.leave(self.session, self._reason)
        self._server.exchanges.dispatch_error(exc, self)

    def eof_received(self) -> None:
        """The peer closed in good order."""
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


class TcpServer(interfaces.TokenInterface):  # type: ignore[misc] # aiocoap is untyped
    """The listener of coaps+tcp, as an aiocoap transport."""

    _scheme, _default_port = "coaps+tcp", 5684

    def __init__(
        self,
        exchanges: Exchanges,
        context: ssl.SSLContext,
        welcome: Welcome,
        heard: Callable[[Session], None],
        leave: Callable[[Session, int], None],
        count: Callable[[str], None],
    ) -> None:
        self.exchanges = exchanges
        self.log, self.loop = exchanges.log, exchanges.loop
        self.welcome, self.heard, self.leave, self.count = welcome, heard, leave, count
        self.connections: set[Connection] = set()
        self._listener = TlsListener(context, lambda: Connection(self), count)

    @property
    def port(self) -> int:
        """The port, once it listens."""
        return int(self._listener.port)

    async def listen(self, host: str, port: int, *, shared: bool = False) -> None:
        """Begin to listen; `shared` lets other processes listen on the same port."""
        await self._listener.listen(host, port, shared=shared)

    async def fill_or_recognize_remote(self, message: Any) -> bool:
        """Tell whether a message goes to one of our connections."""
        return isinstance(message.remote, Connection) and message.remote._ctx is self

    def send_message(self, message: Message, _failed: Callable[[], None]) -> None:
        """Send an answer, unless its request wants none of its class (RFC 7967)."""
        unwanted, message.opt.no_response = message.opt.no_response or 0, None
        if not unwanted & 1 << (message.code.class_ - 1):
            message.remote._send_message(message)

    async def shutdown(self) -> None:
        """Close the listener and every connection."""
        await self._listener.close()
        for connection in tuple(self.connections):
            with contextlib.suppress(Exception):  # each in its own state of ending
                await connection.release()
            connection._end(0)


def narrow_buffers() -> None:
    """Let every TLS connection of this process hold as little memory as our messages need."""
    sslproto.SSLProtocol.max_size = READ_BUFFER_BYTES
