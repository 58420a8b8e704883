"""One MQTT 5 connection over TLS with a client certificate, in the agent's own words.

Rules of this file: one `Link` per connection, never re-used, because the identity may change
between two; the session's end is `Lost`, a door that said no is `Refused`. The contract is covered
by tests/device/test_agent_over_mqtt.py.
"""

import asyncio
import contextlib
import logging
import ssl
import types
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from aiomqtt import ConnectError, NegativeAckError, ProtocolError, PublishPacket, Will

from device.store import Identity
from protocols.mqtt import AT_LEAST_ONCE, Client

CONNECT_SECONDS_MAX = 20.0
PUBACK_SECONDS_MAX = 30.0
CLOSE_SECONDS_MAX = 2.0
PACKET_BYTES_MAX = 131_072
RECEIVE_MAX = 16
UNREAD_BYTES_MAX = RECEIVE_MAX * PACKET_BYTES_MAX
"""All that the broker may send unasked: a SUBACK comes behind it, before anyone reads."""
MQTTS = "mqtts"
DEVICES, NEWCOMERS, NEWCOMER_MARK = "devices", "newcomers", "~"
"""Trees of topics, and how a newcomer's client id begins: docs/mqtt.md."""

_log = logging.getLogger("fleetcert.device.link")


class Unreachable(ConnectionError):
    """There was no connection to the broker, or it is not the broker we trust. Try again later."""


class Refused(ConnectionError):
    """The broker was there and did not accept this identity."""


class Lost(ConnectionError):
    """The session ended."""


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the door is, and how to keep a session with it; spans in seconds.

    `scheme` is mqtts, coaps+tcp or coaps.
    """

    host: str
    port: int
    ca_file: Path
    keep_alive_seconds: int = 60
    session_expiry_seconds: int = 7 * 86_400
    scheme: str = MQTTS


@dataclass(frozen=True, slots=True)
class Message:
    """A message from the broker; `packet_id` is None where no acknowledgement is due."""

    topic: str
    payload: bytes
    content_type: str | None
    packet_id: int | None


def trusting(ca_file: Path) -> ssl.SSLContext:
    """Return a client context: TLS 1.3 at least, the server verified, nothing shown."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(ca_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def tls_context(ca_file: Path, identity: Identity) -> ssl.SSLContext:
    """Return a client context: TLS 1.3 at least, the broker verified, our certificate shown."""
    context = trusting(ca_file)
    context.load_cert_chain(identity.certificate_file, identity.key_file)
    return context


class Session(Protocol):
    """What the agent asks of a session, over whatever protocol; an asynchronous context manager.

    Entering raises Unreachable or Refused, every method Lost.
    """

    async def __aenter__(self) -> Self:
        """Connect."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        """Disconnect."""

    async def subscribe(self, pattern: str) -> None:
        """Ask for what comes down on these topics."""

    async def publish(self, topic: str, payload: bytes, content_type: str) -> bool:
        """Say something; return whether the door took it."""

    def messages(self) -> AsyncIterator[Message]:
        """Yield what comes down."""

    async def acknowledge(self, message: Message) -> None:
        """Tell that a message is dealt with."""


class Link:
    """A session with the broker, as an asynchronous context manager.

    Entering raises Unreachable or Refused, every method Lost.
    """

    def __init__(self, broker: Broker, identity: Identity, device_id: str, will: bytes) -> None:
        """Under a maker's certificate the device is a newcomer: it enrols, under topics of its own.

        Its client id is its certificate's, its session leaves nothing behind.
        """
        enrols = identity.provisioning
        self._tree = NEWCOMERS if enrols else DEVICES
        self._client = Client(
            hostname=broker.host,
            port=broker.port,
            identifier=f"{NEWCOMER_MARK}{identity.fingerprint}" if enrols else device_id,
            ssl_context=tls_context(broker.ca_file, identity),
            clean_start=enrols,
            session_expiry_interval=0 if enrols else broker.session_expiry_seconds,
            keep_alive=broker.keep_alive_seconds,
            receive_max=RECEIVE_MAX,
            max_packet_size=PACKET_BYTES_MAX,
            unread_bytes_max=UNREAD_BYTES_MAX,
            logger=logging.getLogger("fleetcert.device.mqtt"),
            will=None
            if enrols
            else Will(
                f"{DEVICES}/{device_id}/status",
                payload=will,
                qos=AT_LEAST_ONCE,
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
                await self._client.subscribe(self._up(pattern), max_qos=AT_LEAST_ONCE)
        except (NegativeAckError, ConnectError, OSError) as error:
            raise Refused(f"subscription to {pattern}: {error}") from error

    async def publish(self, topic: str, payload: bytes, content_type: str) -> bool:
        """Publish with QoS 1; return after PUBACK whether the broker took the message."""
        try:
            async with asyncio.timeout(PUBACK_SECONDS_MAX):
                await self._client.publish(
                    self._up(topic),
                    payload,
                    qos=AT_LEAST_ONCE,
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
                    topic = DEVICES + packet.topic.removeprefix(self._tree)
                    yield Message(topic, packet.payload, packet.content_type, packet.packet_id)
        except (ConnectError, OSError) as error:
            raise Lost(str(error)) from error

    def _up(self, topic: str) -> str:
        """Return a topic of the device in the tree that this session may use."""
        return self._tree + topic.removeprefix(DEVICES)

    async def acknowledge(self, message: Message) -> None:
        """Tell the broker that the message is dealt with and need not come again."""
        if message.packet_id is None:
            return
        try:
            await self._client.puback(message.packet_id)
        except (ConnectError, OSError) as error:
            raise Lost(str(error)) from error
