"""The MQTT bridge: buckets up, commands down, all acknowledgements after Kafka.

Buckets and commands are owned through one Kafka consumer group on `device.commands`: who owns its
partition p owns the buckets b with b mod partitions == p. A lost session is opened again and the
broker sends what was not acknowledged; repeats are recognised by their numbers downstream.
"""

import asyncio
import time
from collections.abc import Sequence

import aiomqtt
import structlog
from cryptography import x509

from bridges.kafka import Recorder
from bridges.meter import Meter
from bridges.mqtt import outbound
from bridges.mqtt.bucket import BACKOFF_SECONDS, Bucket
from bridges.mqtt.client import Door, command_session
from bridges.mqtt.inbound import PROTOCOL, Translator
from bridges.mqtt.told import Teller
from protocols.mqtt import AT_LEAST_ONCE, Client, Lost
from protocols.waiting import until_first
from schemas.commands import Command, ForDevice

log = structlog.get_logger()


class MqttBridge:
    """Runs the sessions of one bridge process."""

    door = PROTOCOL

    def __init__(
        self,
        door: Door,
        bridge_id: str,
        secret: bytes,
        recorder: Recorder,
        meter: Meter,
        provisioning: Sequence[x509.Certificate] = (),
    ) -> None:
        """Whom a CA of `provisioning` names may enrol; without any, nobody is a newcomer."""
        self._door, self._bridge_id = door, bridge_id
        self._recorder, self._meter = recorder, meter
        self._translator, self._teller = Translator(secret, provisioning), Teller(meter)
        self._newcomers = bool(provisioning)
        self._buckets: dict[int, tuple[Bucket, asyncio.Task[None]]] = {}
        self._bug: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._down: Client | None = None
        self._down_ready = asyncio.Event()

    async def own(self, buckets: set[int]) -> None:
        """Hold exactly these buckets: open what is new, leave what is gone."""
        leaving = [self._buckets.pop(one)[1] for one in set(self._buckets) - buckets]
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        for one in buckets - set(self._buckets):
            bucket = Bucket(
                one, self._door, self._translator, self._recorder, self._teller, self._meter
            )
            task = asyncio.create_task(bucket.hold())
            task.add_done_callback(self._ended)
            self._buckets[one] = bucket, task
        log.info("buckets.owned", count=len(self._buckets))

    def progressed(self) -> None:
        """Acknowledge what Kafka has."""
        for bucket, _ in self._buckets.values():
            bucket.progressed()

    def served(self) -> list[int]:
        """Return the buckets whose session is up, and whose broker is not mute."""
        held = tuple(self._buckets.items())  # the metrics ask from another thread
        return [number for number, (bucket, _) in held if bucket.served()]

    async def keep_down(self) -> None:
        """Keep the session that commands and acknowledgements go down, until cancelled."""
        attempt = 0
        while True:
            try:
                async with command_session(self._door, self._bridge_id) as client:
                    self._down, attempt = client, 0
                    self._down_ready.set()
                    await until_first(
                        self._teller.run(client), client.disconnected(), asyncio.shield(self._bug)
                    )
            except Lost as error:
                log.warning("commands.lost", error=str(error))
            finally:
                self._down = None
                self._down_ready.clear()
            await asyncio.sleep(BACKOFF_SECONDS[min(attempt, len(BACKOFF_SECONDS) - 1)])
            attempt += 1

    async def deliver(self, command: Command) -> None:
        """Publish a command and return when the broker has it; an expired one is dropped."""
        while True:
            now = time.time_ns() // 1_000_000
            messages = outbound.messages(command, now, newcomers=self._newcomers)
            if not messages:
                if isinstance(command, ForDevice):
                    self._meter.refused("expired")
                return
            await self._down_ready.wait()
            client = self._down
            if client is None:
                continue
            try:
                for message in messages:
                    await self._publish(client, message)
            except aiomqtt.NegativeAckError as error:
                log.warning("command.refused", command_id=command.command_id, error=str(error))
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

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A bucket is held until it is cancelled: any other end is a bug, and ends the process."""
        if not task.cancelled() and not self._bug.done() and (error := task.exception()):
            self._bug.set_exception(error)

    @staticmethod
    async def _publish(client: Client, message: outbound.Message) -> None:
        await client.publish(
            message.topic,
            message.payload,
            qos=AT_LEAST_ONCE,
            packet_id=next(client.packet_ids),
            content_type=message.content_type,
            message_expiry_interval=message.expires_seconds,
        )
