"""The MQTT 5 client of bridges and devices: the only module that knows aiomqtt's inside.

aiomqtt is pinned to 3.0.0a1; what it lacks is completed here, on its private methods, for reasons
read in its source and seen. It connects with a blocking IPv4 socket that leaves Nagle's algorithm
on: 40 ms between a PUBACK and the PUBLISH behind it. A reset while reading or closing ends its
loops without telling the callers that wait. A QoS 0 message that finds no reader is dropped: of a
burst of 300, 10 came through. It reads packet by packet and writes each acknowledgement alone; each
client fills a buffer of 16 MiB; a client that waits for its reader no longer answers for itself.
Whoever is cancelled while it leaves a session goes on as if it were not.

Rules of this file: one client per connection, never used again; whatever ends the session is told
to every waiting caller as `Lost`; what arrives waits unread up to a limit, then the connection
waits, while the keep-alive goes on.
"""

import asyncio
import contextlib
import struct
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Any

import aiomqtt
from aiomqtt import ConnectError, NegativeAckError, ProtocolError, PublishPacket, PubRelPacket
from mqtt5 import (
    ConnAckPacket,
    ConnAckReasonCode,
    ConnectPacket,
    DisconnectPacket,
    Packet,
    PingReqPacket,
    PingRespPacket,
    PubAckPacket,
    PubCompPacket,
    PubRecPacket,
    SubAckPacket,
    UnsubAckPacket,
    read,
)

READ_BYTES = 262_144
UNREAD_BYTES_MAX = 1_048_576
"""Bytes that wait to be read; beyond, the connection itself waits."""
PACKET_BYTES_MAX = 524_288
GATHERED_MAX = 32
"""Packets in one read, from which on it is worth its wake-up: nothing more is waited for."""
CLOSE_SECONDS_MAX = 2.0
SILENCE_MAX = 1.5
"""Keep-alives without a word of the broker, after which the session is given up."""
REFUSAL = 0x80
"""Reason codes from here on are refusals (MQTT 5 section 2.4); the codec's have no order."""

PUBACK, PUBACK_HEADER, SUCCESS = struct.Struct(">HHB"), 0x4003, 0
"""A PUBACK: type and length, packet id, reason code (MQTT 5 section 3.4)."""

AT_MOST_ONCE = aiomqtt.QoS.AT_MOST_ONCE
AT_LEAST_ONCE = aiomqtt.QoS.AT_LEAST_ONCE
EXACTLY_ONCE = aiomqtt.QoS.EXACTLY_ONCE
Lost = (ConnectError, NegativeAckError, ProtocolError, OSError)
"""What ends a session; the caller opens another."""

Message = PublishPacket | PubRelPacket
INCOMING = (PublishPacket, PubRelPacket)


class Client(aiomqtt.Client):
    """aiomqtt's client: read and acknowledged in batches, and every ending told."""

    reached = False
    """Whether the broker that we trust was there: TCP and our half of the handshake succeeded."""

    refused = 0
    """How many messages of `publish_all` the broker did not take."""

    def __init__(
        self,
        *,
        unread_bytes_max: int = UNREAD_BYTES_MAX,
        gather_seconds: float = 0.0,
        **settings: Any,
    ) -> None:
        super().__init__(**{"max_packet_size": PACKET_BYTES_MAX, **settings})
        self._unread_bytes_max, self._gather_seconds = unread_bytes_max, gather_seconds
        del self._buffer_in  # 16 MiB, for a reader that is not used here
        self._rest = b""
        self._unread_bytes = 0
        self._emptied = True
        self._arrived, self._taken, self._acknowledged = (asyncio.Event() for _ in range(3))
        self._in_air: set[int] = set()
        self._in_air_max = 0
        self._heard = self._listened = 0.0
        self._waiting: dict[type, dict[int, asyncio.Future[Any]]] = {
            PubAckPacket: self._pending_pubacks,
            PubRecPacket: self._pending_pubrecs,
            PubCompPacket: self._pending_pubcomps,
            SubAckPacket: self._pending_subacks,
            UnsubAckPacket: self._pending_unsubacks,
        }

    # -- reading -------------------------------------------------------------------------------

    async def batch(self) -> list[Message]:
        """Return all that has arrived, at least one message. Raises ConnectError at the end."""
        while not self._queue:
            if self._disconnected.done():
                raise ConnectError(self._endpoint)
            self._arrived.clear()
            await self._arrived.wait()
        taken = list(self._queue)
        self._queue.clear()
        self._unread_bytes = 0
        self._taken.set()
        return taken

    async def messages(self) -> AsyncIterator[Message]:
        """Yield what arrives, one by one. Raises ConnectError at the end."""
        while True:
            for message in await self.batch():
                yield message

    async def puback_all(self, packet_ids: Iterable[int]) -> None:
        """Acknowledge many QoS 1 messages in one write."""
        await self._write(
            b"".join([PUBACK.pack(PUBACK_HEADER, one, SUCCESS) for one in packet_ids])
        )

    @property
    def silent_seconds(self) -> float:
        """How long ago the broker was heard; pings make it speak."""
        return time.monotonic() - self._heard

    # -- publishing ----------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many messages `publish_all` may send now."""
        return max(0, self._in_air_max - len(self._in_air))

    async def until_room(self) -> None:
        """Wait until `publish_all` may send again. Raises ConnectError at the end."""
        while not self.room:
            self._acknowledged.clear()
            if self._disconnected.done():
                raise ConnectError(self._endpoint)
            await self._acknowledged.wait()

    async def publish_all(self, packets: Sequence[PublishPacket]) -> None:
        """Send QoS 1 messages, at most `room`, in one write; nobody waits for their PUBACK.

        Their ids come from `packet_ids`. What the broker refuses is counted in `refused`.
        """
        assert len(packets) <= self.room
        self._in_air.update(one.packet_id for one in packets if one.packet_id is not None)
        await self._write(b"".join([one.write() for one in packets]))

    # -- the connection ------------------------------------------------------------------------

    def abort(self) -> None:
        """Drop the connection, whatever state it is in."""
        if hasattr(self, "_tasks"):
            self._tasks.cancel()
        if hasattr(self, "_writer"):
            self._writer.transport.abort()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        try:
            if hasattr(self, "_tasks"):
                self._tasks.cancel()
                await asyncio.wait([self._tasks])  # done before aiomqtt's own comes to it
            await super().__aexit__(exc_type, exc, tb)
        except asyncio.CancelledError:
            self.abort()
            raise

    async def _connect(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(
            self._hostname,
            self._port,
            limit=READ_BYTES,
            ssl=self._ssl_context,
            server_hostname=self._hostname if self._ssl_context else None,
            ssl_shutdown_timeout=CLOSE_SECONDS_MAX if self._ssl_context else None,
        )
        self.reached = True
        try:
            await self._introduce()
        except BaseException:
            self._writer.transport.abort()
            raise

    async def _introduce(self) -> None:
        await self._send(
            ConnectPacket(
                client_id=self.identifier,
                clean_start=self._clean_start,
                will=self._will,
                keep_alive=self._keep_alive,
                session_expiry_interval=self._session_expiry_interval,
                receive_max=self._receive_max,
                max_packet_size=self._max_packet_size,
                user_properties=self._user_properties,
            )
        )
        packets: list[Packet] = []
        while not packets:
            packets = await self._arriving()
        packet, *others = packets
        if not isinstance(packet, ConnAckPacket):
            raise ProtocolError(f"{type(packet).__name__} where CONNACK was due")
        if packet.reason_code != ConnAckReasonCode.SUCCESS:
            raise NegativeAckError(packet)
        self.identifier = packet.assigned_client_id or self.identifier
        if packet.server_keep_alive is not None:
            self._keep_alive = packet.server_keep_alive
        self._in_air_max = packet.receive_max // 2
        self._send_semaphore = asyncio.BoundedSemaphore(packet.receive_max - self._in_air_max)
        self._connected.set_result(packet)
        self._disconnected = asyncio.Future()
        for one in others:  # the broker may send a kept session's messages right behind
            self._dispatch(one)

    async def _send(self, packet: Packet) -> None:
        await self._write(packet.write())

    async def _write(self, data: bytes) -> None:
        # In Python 3.11 a TLS transport whose connection is lost raises AttributeError on write.
        if not hasattr(self, "_writer") or self._writer.transport.is_closing():
            raise ConnectError(self._endpoint)
        self._writer.write(data)
        try:
            await self._writer.drain()
        except OSError as error:
            raise ConnectError(self._endpoint) from error
        self._most_recent_packet_sent_time = time.monotonic()

    async def _arriving(self) -> list[Packet]:
        """Read once; return the packets that are whole."""
        try:
            data = await self._reader.read(READ_BYTES)
        except OSError as error:
            raise ConnectError(self._endpoint) from error
        if not data:
            raise ConnectError(self._endpoint)
        self._heard = time.monotonic()
        self._emptied = len(data) < READ_BYTES
        self._unread_bytes += len(data)
        if self._rest:
            data = self._rest + data
        view, packets, left = memoryview(data), [], 0
        try:
            while True:
                packet, size = read(view[left:])
                packets.append(packet)
                left += size
        except IndexError:  # the last one is not whole
            self._rest = data[left:]
        except ValueError as error:
            raise ProtocolError("the broker sent a malformed packet") from error
        if len(self._rest) > PACKET_BYTES_MAX:
            raise ProtocolError(f"the broker sent a packet of more than {PACKET_BYTES_MAX} bytes")
        return packets

    async def _receive_loop(self) -> None:
        """Read until the session ends, and tell everyone who waits."""
        try:
            while True:
                while self._unread_bytes > self._unread_bytes_max and self._queue:
                    self._taken.clear()
                    await self._taken.wait()
                    self._listened = time.monotonic()
                if not self._queue:
                    self._unread_bytes = 0
                asked = time.monotonic()
                packets = await self._arriving()
                for packet in packets:
                    self._dispatch(packet)
                thick = self._heard - asked < self._gather_seconds
                if thick and self._emptied and len(packets) < GATHERED_MAX:
                    await self._gather()
        except (ConnectError, ProtocolError) as error:
            self._logger.info("session ended: %s", error)
            await self._close()
        except Exception:
            self._logger.exception("a bug of ours ended the session")
            await self._close()
            raise

    async def _gather(self) -> None:
        """Let what comes thick wait in the socket for a moment, and be read together.

        The stream pauses the connection itself while it holds much: it must be empty, or reading
        would go on behind its back, without a bound.
        """
        transport = self._writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        try:
            await asyncio.sleep(self._gather_seconds)
        finally:
            transport.resume_reading()

    def _dispatch(self, packet: Packet) -> None:
        if isinstance(packet, INCOMING):
            self._queue.append(packet)
            self._arrived.set()
        elif isinstance(packet, PubAckPacket) and packet.packet_id in self._in_air:
            self._in_air.discard(packet.packet_id)
            self.refused += int(packet.reason_code) >= REFUSAL
            self._acknowledged.set()
        elif type(packet) in self._waiting:
            self._answer(packet)
        elif isinstance(packet, DisconnectPacket):
            raise ProtocolError(f"the broker said goodbye: {packet.reason_code.name}")
        elif not isinstance(packet, PingRespPacket):
            raise ProtocolError(f"{type(packet).__name__} from the broker")

    def _answer(self, packet: Any) -> None:
        """Give an acknowledgement to the caller that waits for it."""
        waiting = self._waiting[type(packet)].get(packet.packet_id)
        if waiting is None or waiting.done():
            self._logger.warning("unsolicited %s", type(packet).__name__)
            return
        waiting.set_result(packet)
        refused = isinstance(packet, PubRecPacket) and int(packet.reason_code) >= REFUSAL
        if refused or isinstance(packet, PubAckPacket | PubCompPacket):
            self._send_semaphore.release()

    async def _pingreq_loop(self) -> None:
        """Keep the session alive, also while nobody reads; give it up when the broker is mute."""
        while not self._disconnected.done():
            await asyncio.sleep(self._keep_alive / 2)
            full = self._unread_bytes > self._unread_bytes_max
            silent = time.monotonic() - max(self._heard, self._listened)
            if not full and silent > SILENCE_MAX * self._keep_alive:
                self._logger.warning("the broker is mute")
                self._writer.transport.abort()
                return
            with contextlib.suppress(ConnectError):
                await self._send(PingReqPacket())

    async def _close_inner(self) -> None:
        self._writer.close()
        # All who close wait for one future of the stream: cancelled in one of them, it would cancel
        # the others, and with them whoever leaves the session.
        closing = asyncio.ensure_future(self._writer.wait_closed())
        closing.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait([closing])
        if not self._disconnected.done():
            self._disconnected.set_result(None)
        for waiting in (self._arrived, self._taken, self._acknowledged):
            waiting.set()
