"""The MQTT 5 client of bridges and devices: the only module that knows aiomqtt's inside.

aiomqtt is pinned to 3.0.0a1; what it lacks is completed here, on its private methods, for reasons
read in its source and seen. It connects with a blocking IPv4 socket that leaves Nagle's algorithm
on: 40 ms between a PUBACK and the PUBLISH behind it. A reset while reading or closing ends its
loops without telling the callers that wait. A QoS 0 message that finds no reader is dropped: of a
burst of 300, 10 came through. It reads packet by packet and writes each acknowledgement alone; each
client fills a buffer of 16 MiB; a client that waits for its reader no longer answers for itself.
Whoever is cancelled while it leaves a session goes on as if it were not. So the connection itself
is ours (`protocols/wire.py`), and what aiomqtt would have read from a stream comes to `_took`.

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

from protocols.waiting import until_first
from protocols.wire import Wire

READ_BYTES = 16_384
"""What is read at once, where not said otherwise: the largest record of TLS."""
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

    _wire: Wire

    reached = False
    """Whether the broker that we trust was there: TCP and our half of the handshake succeeded."""

    refused = 0
    """How many messages of `publish_all` the broker did not take."""

    def __init__(
        self,
        *,
        unread_bytes_max: int = UNREAD_BYTES_MAX,
        read_bytes: int = READ_BYTES,
        gather_seconds: float = 0.0,
        **settings: Any,
    ) -> None:
        super().__init__(**{"max_packet_size": PACKET_BYTES_MAX, **settings})
        self._unread_bytes_max, self._read_bytes = unread_bytes_max, read_bytes
        self._gather_seconds = gather_seconds
        del self._buffer_in  # 16 MiB, for a reader that is not used here
        self._first: asyncio.Future[Packet] = asyncio.get_running_loop().create_future()
        self._partial = b""
        self._unread_bytes = 0
        self._full = self._gathering = False
        self._arrived, self._acknowledged = asyncio.Event(), asyncio.Event()
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
        if self._full:
            self._full = False
            self._go_on()
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
        if hasattr(self, "_wire"):
            self._wire.abort()

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
        assert self._hostname is not None  # no Unix socket is ever asked for
        self._wire = await Wire.open(
            self._hostname,
            self._port,
            self._took,
            tls=self._ssl_context,
            read_bytes=self._read_bytes,
            close_seconds=CLOSE_SECONDS_MAX,
        )
        self.reached = True
        try:
            await self._introduce()
        except BaseException:
            self._wire.abort()
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
        try:
            await until_first(asyncio.wait([self._first]), self._wire.over())
        except OSError as error:
            if not self._first.done():  # a refusal may come with the end
                raise ConnectError(self._endpoint) from error
        except ProtocolError:
            if not self._first.done():
                raise
        packet = self._first.result()
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

    async def _send(self, packet: Packet) -> None:
        await self._write(packet.write())

    async def _write(self, data: bytes) -> None:
        if not hasattr(self, "_wire"):
            raise ConnectError(self._endpoint)
        try:
            await self._wire.write(data)
        except OSError as error:
            raise ConnectError(self._endpoint) from error
        self._most_recent_packet_sent_time = time.monotonic()

    def _took(self, data: memoryview) -> None:
        """Take apart what was read; leave the socket alone while much is unread, or to gather."""
        began = time.monotonic()
        thick, self._heard = began - self._listened < self._gather_seconds, began
        self._unread_bytes = len(data) + (self._unread_bytes if self._queue else 0)
        packets = self._whole(data)
        first = 0
        if packets and not self._first.done():
            self._first.set_result(packets[0])
            first = 1
        for packet in packets[first:]:
            if isinstance(packet, INCOMING):
                self._queue.append(packet)
            else:
                self._dispatch(packet)
        if self._queue:
            self._arrived.set()
        self._full = self._unread_bytes > self._unread_bytes_max and bool(self._queue)
        if thick and len(packets) < GATHERED_MAX and not self._gathering:
            self._gathering = True
            asyncio.get_running_loop().call_later(self._gather_seconds, self._gathered)
        if self._full or self._gathering:
            self._wire.rest()
        else:
            self._listened = time.monotonic()

    def _gathered(self) -> None:
        self._gathering = False
        self._go_on()

    def _go_on(self) -> None:
        """Read again, where nothing speaks against it."""
        if not self._full and not self._gathering:
            self._listened = time.monotonic()
            self._wire.go_on()

    def _whole(self, data: memoryview) -> list[Packet]:
        """Return the packets that are whole by now."""
        if self._partial:
            data = memoryview(self._partial + data)
        packets, left = list[Packet](), 0
        try:
            while True:
                packet, size = read(data[left:])
                packets.append(packet)
                left += size
        except IndexError:  # the last one is not whole
            self._partial = bytes(data[left:])
        except ValueError as error:
            raise ProtocolError("the broker sent a malformed packet") from error
        if len(self._partial) > PACKET_BYTES_MAX:
            raise ProtocolError(f"the broker sent a packet of more than {PACKET_BYTES_MAX} bytes")
        return packets

    async def _receive_loop(self) -> None:
        """Stay until nothing more comes, and tell everyone who waits."""
        try:
            await self._wire.over()
        except (OSError, ProtocolError) as error:
            self._logger.info("session ended: %s", error)
        except Exception:
            self._logger.exception("a bug of ours ended the session")
            await self._close()
            raise
        await self._close()

    def _dispatch(self, packet: Packet) -> None:
        if isinstance(packet, PubAckPacket) and packet.packet_id in self._in_air:
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
            silent = time.monotonic() - max(self._heard, self._listened)
            if not self._full and silent > SILENCE_MAX * self._keep_alive:
                self._logger.warning("the broker is mute")
                self._wire.abort()
                return
            with contextlib.suppress(ConnectError):
                await self._send(PingReqPacket())

    async def _close_inner(self) -> None:
        await self._wire.close()
        if not self._disconnected.done():
            self._disconnected.set_result(None)
        for waiting in (self._arrived, self._acknowledged):
            waiting.set()
