"""The bridge's sessions with the broker: the only module of the bridge that opens aiomqtt clients.

aiomqtt is pinned to 3.0.0a1. A reset while reading or closing ends its background loops without
telling the callers that wait (read in its source, seen when the broker is killed): three of its
private methods are completed here, so that every ending is told.
"""

import asyncio
import contextlib
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiomqtt

NEVER_EXPIRES = 0xFFFFFFFF
RECEIVE_MAX = 2_000
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


class _Client(aiomqtt.Client):
    """aiomqtt's client, whose every ending is told to those who wait."""

    async def _send(self, packet: Any) -> None:
        if not hasattr(self, "_writer") or self._writer.transport.is_closing():
            raise aiomqtt.ConnectError(self._endpoint)
        await super()._send(packet)

    async def _receive(self) -> Any:
        try:
            return await super()._receive()
        except OSError as error:
            await self._close()
            raise aiomqtt.ConnectError(self._endpoint) from error

    async def _close_inner(self) -> None:
        with contextlib.suppress(OSError):
            await super()._close_inner()
        if not self._disconnected.done():
            self._getters.clear()
            self._connected = asyncio.Future()
            self._disconnected.set_result(None)


def bucket_session(door: Door, bucket: int) -> aiomqtt.Client:
    """Return the persistent session of one bucket; the broker keeps its messages for us."""
    return _Client(
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
    return _Client(
        hostname=door.host,
        port=door.port,
        ssl_context=door.context(),
        identifier=f"@commands-{bridge_id}",
        clean_start=True,
        keep_alive=30,
    )
