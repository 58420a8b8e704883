"""One MQTT 5 connection over TLS with a client certificate: the only module that knows aiomqtt.

Rules of this file: one `Link` per connection, never re-used, because the identity may change
between two. aiomqtt is pinned to 3.0.0a1; some of its private methods are replaced, for reasons
read in its source: it connects with a blocking IPv4 socket, on which asyncio does not set
TCP_NODELAY; a reset while reading ends its loop without telling the waiting callers; a failing
close does the same; a write to a lost TLS connection is no ConnectError; a QoS 0 message that
finds nobody reading is dropped; each client fills a buffer of 16 MiB. The contract is covered by
tests/device/test_agent_over_mqtt.py.
"""

import asyncio
import contextlib
import logging
import ssl
import types
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiomqtt import (
    Client,
    ConnAckPacket,
    ConnectError,
    NegativeAckError,
    ProtocolError,
    PublishPacket,
    QoS,
    Will,
)
from aiomqtt._client import _SlidingWindowBuffer
from mqtt5 import ConnAckReasonCode, ConnectPacket, Packet

from device.store import Identity

CONNECT_SECONDS_MAX = 20.0
PUBACK_SECONDS_MAX = 30.0
CLOSE_SECONDS_MAX = 2.0
BUFFER_BYTES = 262_144
RECEIVE_MAX = 16
UNREAD_MAX = 1_000
"""Messages that wait to be read; beyond, the connection itself waits."""
FULL_SECONDS = 0.01

_log = logging.getLogger("fleetcert.device.link")


class Unreachable(ConnectionError):
    """There was no connection to the broker, or it is not the broker we trust. Try again later."""


class Refused(ConnectionError):
    """The broker was there and did not accept this identity."""


class Lost(ConnectionError):
    """The session ended."""


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is, and how to keep a session with it; spans in seconds."""

    host: str
    port: int
    ca_file: Path
    keep_alive_seconds: int = 60
    session_expiry_seconds: int = 7 * 86_400


@dataclass(frozen=True, slots=True)
class Message:
    """A message from the broker; `packet_id` is None where no acknowledgement is due."""

    topic: str
    payload: bytes
    content_type: str | None
    packet_id: int | None


def tls_context(ca_file: Path, identity: Identity) -> ssl.SSLContext:
    """Return a client context: TLS 1.3 at least, the broker verified, our certificate shown."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(ca_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(identity.certificate_file, identity.key_file)
    return context


class Link:
    """A session with the broker, as an asynchronous context manager.

    Entering raises Unreachable or Refused, every method Lost.
    """

    def __init__(self, broker: Broker, identity: Identity, device_id: str, will: bytes) -> None:
        self._client = _Client(
            hostname=broker.host,
            port=broker.port,
            identifier=device_id,
            ssl_context=tls_context(broker.ca_file, identity),
            clean_start=False,
            session_expiry_interval=broker.session_expiry_seconds,
            keep_alive=broker.keep_alive_seconds,
            receive_max=RECEIVE_MAX,
            max_packet_size=BUFFER_BYTES // 2,
            logger=logging.getLogger("fleetcert.device.mqtt"),
            will=Will(
                f"devices/{device_id}/status",
                payload=will,
                qos=QoS.AT_LEAST_ONCE,
                content_type="application/json",
            ),
        )

    async def __aenter__(self) -> "Link":
        try:
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                await self._client.__aenter__()
        except BaseException as error:
            self._client.abort()
            if isinstance(error, ConnectError | NegativeAckError | ProtocolError):
                raise Refused(str(error)) from error
            if isinstance(error, OSError):  # TimeoutError and ssl.SSLError are such
                kind = Refused if self._client.reached else Unreachable
                raise kind(f"{type(error).__name__}: {error}") from error
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        # Its background tasks may have ended with whatever ended the connection: known by now.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_SECONDS_MAX):
                await self._client.__aexit__(kind, error, trace)
        self._client.abort()

    async def subscribe(self, pattern: str) -> None:
        """Subscribe with QoS 1. Raises Refused when the broker does not grant it."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                await self._client.subscribe(pattern, max_qos=QoS.AT_LEAST_ONCE)
        except (NegativeAckError, ConnectError, OSError) as error:
            raise Refused(f"subscription to {pattern}: {error}") from error

    async def publish(self, topic: str, payload: bytes, content_type: str) -> bool:
        """Publish with QoS 1; return after PUBACK whether the broker took the message."""
        try:
            async with asyncio.timeout(PUBACK_SECONDS_MAX):
                await self._client.publish(
                    topic,
                    payload,
                    qos=QoS.AT_LEAST_ONCE,
                    packet_id=next(self._client.packet_ids),
                    content_type=content_type,
                )
        except NegativeAckError as error:
            _log.warning("broker refused a message topic=%s error=%s", topic, error)
            return False
        except (ConnectError, OSError) as error:
            raise Lost(str(error) or type(error).__name__) from error
        return True

    async def messages(self) -> AsyncIterator[Message]:
        """Yield what the broker sends, until the session ends with Lost."""
        try:
            async for packet in self._client.messages():
                if isinstance(packet, PublishPacket):
                    yield Message(
                        packet.topic, packet.payload, packet.content_type, packet.packet_id
                    )
        except (ConnectError, OSError) as error:
            raise Lost(str(error)) from error

    async def acknowledge(self, message: Message) -> None:
        """Tell the broker that the message is dealt with and need not come again."""
        if message.packet_id is None:
            return
        try:
            await self._client.puback(message.packet_id)
        except (ConnectError, OSError) as error:
            raise Lost(str(error)) from error


class _Client(Client):
    """aiomqtt's client with its connection made asynchronous and its endings made certain."""

    reached = False
    """Whether the broker that we trust was there: TCP and our half of the handshake succeeded."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._buffer_in = _SlidingWindowBuffer(size=BUFFER_BYTES)

    async def _connect(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(
            self._hostname,
            self._port,
            ssl=self._ssl_context,
            server_hostname=self._hostname,
            ssl_shutdown_timeout=CLOSE_SECONDS_MAX,
        )
        self.reached = True
        await self._send(
            ConnectPacket(
                client_id=self.identifier,
                clean_start=self._clean_start,
                will=self._will,
                keep_alive=self._keep_alive,
                session_expiry_interval=self._session_expiry_interval,
                receive_max=self._receive_max,
                max_packet_size=self._max_packet_size,
            )
        )
        packet = await self._receive()
        if not isinstance(packet, ConnAckPacket):
            raise ProtocolError(f"{type(packet).__name__} where CONNACK was due")
        if packet.reason_code != ConnAckReasonCode.SUCCESS:
            raise NegativeAckError(packet)
        if packet.server_keep_alive is not None:
            self._keep_alive = packet.server_keep_alive
        self._send_semaphore = asyncio.BoundedSemaphore(packet.receive_max)
        self._connected.set_result(packet)
        self._disconnected = asyncio.Future()

    async def _send(self, packet: Packet) -> None:
        # In Python 3.11 a TLS transport whose connection is lost raises AttributeError on write.
        if not hasattr(self, "_writer") or self._writer.transport.is_closing():
            raise ConnectError(self._endpoint)
        await super()._send(packet)

    async def _receive(self) -> Packet:
        try:
            while True:
                packet = await super()._receive()
                if not isinstance(packet, PublishPacket) or packet.qos != QoS.AT_MOST_ONCE:
                    return packet
                if self._getters:
                    return packet
                self._queue.append(packet)
                while len(self._queue) > UNREAD_MAX:  # noqa: ASYNC110 - the deque tells nobody
                    await asyncio.sleep(FULL_SECONDS)
        except OSError as error:
            await self._close()
            raise ConnectError(self._endpoint) from error

    async def _close_inner(self) -> None:
        with contextlib.suppress(OSError):
            await super()._close_inner()
        if not self._disconnected.done():
            self._getters.clear()
            self._connected = asyncio.Future()
            self._disconnected.set_result(None)

    def abort(self) -> None:
        """Drop the connection, whatever state it is in."""
        if hasattr(self, "_tasks"):
            self._tasks.cancel()
        if hasattr(self, "_writer"):
            self._writer.transport.abort()
