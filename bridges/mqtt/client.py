"""The bridge's sessions with the broker: the only module of the bridge that opens aiomqtt clients.

aiomqtt is pinned to 3.0.0a1; what it lacks is completed here, on private methods. A reset while
reading or closing ends its background loops without telling the callers that wait (read in its
source, seen when the broker is killed). A QoS 0 message that finds no reader waiting is dropped:
of a burst of 300, 10 came through (seen). Its socket leaves Nagle's algorithm on: 40 ms between a
PUBACK and the PUBLISH behind it.
"""

import asyncio
import contextlib
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiomqtt

NEVER_EXPIRES = 0xFFFFFFFF
RECEIVE_MAX = 2_000
UNREAD_MAX = 20_000
"""Messages that wait to be read; beyond, the connection itself waits."""
FULL_SECONDS = 0.01
AT_LEAST_ONCE = aiomqtt.QoS.AT_LEAST_ONCE
AT_MOST_ONCE = aiomqtt.QoS.AT_MOST_ONCE
Lost = (aiomqtt.ConnectError, aiomqtt.NegativeAckError, aiomqtt.ProtocolError, OSError)
"""What ends a session; the caller opens it again."""


@dataclass(frozen=True, slots=True)
class Door:
    """Where the broker's service listener is, and who we are there."""

    host: str
    port: int
    ca: Path
    cert: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """Return the TLS context: 1.3 at least, the broker verified, our certificate shown."""
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(self.ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(self.cert, self.key)
        return context


class Client(aiomqtt.Client):
    """aiomqtt's client, whose every ending is told and whose QoS 0 messages wait to be read."""

    async def __aexit__(self, *ending: Any) -> None:
        try:
            await super().__aexit__(*ending)
        except BaseExceptionGroup as group:  # its background tasks failed: the session is over
            if group.split((Exception, asyncio.CancelledError))[1] is not None:
                raise
            raise aiomqtt.ConnectError(self._endpoint) from group

    async def _connect(self) -> None:
        await super()._connect()
        if self._unix_socket is None:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def _send(self, packet: Any) -> None:
        if not hasattr(self, "_writer") or self._writer.transport.is_closing():
            raise aiomqtt.ConnectError(self._endpoint)
        await super()._send(packet)

    async def _receive(self) -> Any:
        try:
            while True:
                packet = await super()._receive()
                if not isinstance(packet, aiomqtt.PublishPacket) or not self._unread(packet):
                    return packet
                while len(self._queue) >= UNREAD_MAX:  # noqa: ASYNC110 - the deque tells nobody
                    await asyncio.sleep(FULL_SECONDS)
                self._queue.append(packet)
        except OSError as error:
            await self._close()
            raise aiomqtt.ConnectError(self._endpoint) from error

    def _unread(self, packet: aiomqtt.PublishPacket) -> bool:
        """Tell whether aiomqtt would drop it: QoS 0, and nobody is reading right now."""
        return packet.qos == AT_MOST_ONCE and not self._getters

    async def _close_inner(self) -> None:
        with contextlib.suppress(OSError):
            await super()._close_inner()
        if not self._disconnected.done():
            self._getters.clear()
            self._connected = asyncio.Future()
            self._disconnected.set_result(None)


def bucket_session(door: Door, bucket: int) -> aiomqtt.Client:
    """Return the persistent session of one bucket; the broker keeps its messages for us."""
    return Client(
        hostname=door.host,
        port=door.port,
        ssl_context=door.context(),
        identifier=f"@bucket-{bucket}",
        clean_start=False,
        session_expiry_interval=NEVER_EXPIRES,
        receive_max=RECEIVE_MAX,
        keep_alive=30,
    )


def command_session(door: Door, bridge_id: str) -> aiomqtt.Client:
    """Return the session that commands and acknowledgements go down."""
    return Client(
        hostname=door.host,
        port=door.port,
        ssl_context=door.context(),
        identifier=f"@commands-{bridge_id}",
        clean_start=True,
        keep_alive=30,
    )
