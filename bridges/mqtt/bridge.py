"""The MQTT bridge: bucket sessions up, commands down, all acknowledgements after Kafka.

Buckets and commands are owned through one Kafka consumer group on `device.commands`: who owns its
partition p owns the buckets b with b mod partitions == p. A lost session is opened again and the
broker sends what was not acknowledged; repeats are recognised by their numbers downstream.
"""

import asyncio
import contextlib
import time
from collections import defaultdict
from dataclasses import dataclass, field

import aiomqtt
import structlog

from bridges.inbound import Translated
from bridges.kafka import Recorder
from bridges.meter import Meter
from bridges.mqtt import outbound
from bridges.mqtt.client import Door, bucket_session, command_session
from bridges.mqtt.inbound import Received, translate
from protocols.mqtt import AT_LEAST_ONCE, AT_MOST_ONCE, Client, Lost
from schemas.commands import Command
from schemas.topics import DEAD_LETTERS, DEVICE_EVENTS

log = structlog.get_logger()
BACKOFF_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)
POLL_SECONDS = 0.003
YIELD_EVERY = 200
"""Messages after which a pump lets the acknowledgements have a turn."""


@dataclass(slots=True)
class Session:
    """One connection of a bucket: what Kafka has and the broker and device do not know yet."""

    client: Client
    done: list[tuple[int | None, Translated]] = field(default_factory=list)


class MqttBridge:
    """Runs the sessions of one bridge process."""

    def __init__(
        self, door: Door, bridge_id: str, secret: bytes, recorder: Recorder, meter: Meter
    ) -> None:
        self._door, self._bridge_id, self._secret = door, bridge_id, secret
        self._recorder, self._meter = recorder, meter
        self._buckets: dict[int, asyncio.Task[None]] = {}
        self._down: Client | None = None
        self._down_ready = asyncio.Event()

    async def own(self, buckets: set[int]) -> None:
        """Hold exactly these buckets: open what is new, leave what is gone."""
        leaving = [self._buckets.pop(one) for one in set(self._buckets) - buckets]
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        for one in buckets - set(self._buckets):
            self._buckets[one] = asyncio.create_task(self._hold(one))
        log.info("buckets.owned", count=len(self._buckets))

    async def keep_down(self) -> None:
        """Keep the session that commands and acknowledgements go down, until cancelled."""
        attempt = 0
        while True:
            try:
                async with command_session(self._door, self._bridge_id) as client:
                    self._down, attempt = client, 0
                    self._down_ready.set()
                    await client.disconnected()
            except Lost as error:
                log.warning("commands.lost", error=str(error))
            finally:
                self._down = None
                self._down_ready.clear()
            attempt = await self._back_off(attempt)

    async def deliver(self, command: Command) -> None:
        """Publish a command and return when the broker has it; an expired one is dropped."""
        while True:
            now = time.time_ns() // 1_000_000
            message = outbound.message(command, now)
            if message is None:
                self._meter.refused("expired")
                return
            await self._down_ready.wait()
            client = self._down
            if client is None:
                continue
            try:
                await client.publish(
                    message.topic,
                    message.payload,
                    qos=AT_LEAST_ONCE,
                    packet_id=next(client.packet_ids),
                    content_type=message.content_type,
                    message_expiry_interval=message.expires_seconds,
                )
            except aiomqtt.NegativeAckError as error:
                log.warning("command.refused", command=command.command_id, error=str(error))
                self._meter.refused("broker")
                return
            except Lost:
                await asyncio.sleep(BACKOFF_SECONDS[0])
                continue
            self._meter.sent(1)
            return

    async def close(self) -> None:
        """Leave every session; the broker keeps what is not acknowledged."""
        await self.own(set())

    async def _hold(self, bucket: int) -> None:
        attempt = 0
        while True:
            try:
                async with bucket_session(self._door, bucket) as client:
                    attempt = 0
                    await client.subscribe(f"bucket/{bucket}/#", max_qos=AT_LEAST_ONCE)
                    await self._pump(Session(client))
            except Lost as error:
                self._meter.connection_error()
                log.warning("bucket.lost", bucket=bucket, error=str(error))
            attempt = await self._back_off(attempt)

    async def _pump(self, session: Session) -> None:
        """Read and acknowledge until one of both ends; then the session is over."""
        tasks = [
            asyncio.create_task(self._read(session)),
            asyncio.create_task(self._acknowledge(session)),
            asyncio.create_task(session.client.disconnected()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _read(self, session: Session) -> None:
        count = 0
        async for packet in session.client.messages():
            if isinstance(packet, aiomqtt.PublishPacket):
                self._take(session, packet)
                count += 1
                if count % YIELD_EVERY == 0:
                    await asyncio.sleep(0)

    def _take(self, session: Session, packet: aiomqtt.PublishPacket) -> None:
        received = Received(
            packet.topic,
            packet.payload,
            packet.content_type or "",
            list(packet.user_properties or ()),
        )
        self._meter.received(len(packet.payload))
        translated = translate(received, self._secret, time.time_ns() // 1_000_000)
        done = (packet.packet_id, translated)
        if translated.refused is not None:
            self._meter.refused(translated.refused.value)
        if translated.record is None:
            session.done.append(done)
            return
        topic = DEVICE_EVENTS if translated.refused is None else DEAD_LETTERS
        self._recorder.record(
            topic, translated.key, translated.record, lambda: session.done.append(done)
        )

    async def _acknowledge(self, session: Session) -> None:
        """Acknowledge to the broker and to the devices what Kafka has."""
        while True:
            self._recorder.poll()
            if not session.done:
                await asyncio.sleep(POLL_SECONDS)
                continue
            batch, session.done[:] = session.done[:], []
            for packet_id, _ in batch:
                if packet_id is not None:
                    await session.client.puback(packet_id)
            await self._tell([translated for _, translated in batch])

    async def _tell(self, batch: list[Translated]) -> None:
        """Tell devices what is recorded. Lost on the way, it is told again when they repeat."""
        client = self._down
        if client is None:
            return
        numbers: dict[str, list[tuple[int, int]]] = defaultdict(list)
        messages: list[tuple[str, bytes]] = []
        for one in batch:
            if one.numbering is None or not one.device_id:
                continue
            number = (one.numbering.boot, one.numbering.sequence)
            if one.refused is None:
                numbers[one.device_id].append(number)
            else:
                messages.append((one.device_id, outbound.refused(*number, one.refused.value)))
        messages.extend((device, outbound.recorded(pairs)) for device, pairs in numbers.items())
        for device_id, payload in messages:
            with contextlib.suppress(*Lost):
                await client.publish(
                    f"devices/{device_id}/recorded",
                    payload,
                    qos=AT_MOST_ONCE,
                    content_type="application/json",
                )
        self._meter.sent(len(messages))

    async def _back_off(self, attempt: int) -> int:
        await asyncio.sleep(BACKOFF_SECONDS[min(attempt, len(BACKOFF_SECONDS) - 1)])
        return attempt + 1
