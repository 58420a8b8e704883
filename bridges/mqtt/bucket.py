"""One bucket: its session with the broker, read in batches, acknowledged after Kafka.

Rules of this file: nothing is taken while too much waits for Kafka; PUBACKs go out in the order of
the messages (MQTT 5 section 4.6), many in one write; a session that ends takes its unacknowledged
messages with it, and the broker sends them again to the next one. The subscription asks for QoS 1:
a message of QoS 2 has been taken exactly once from its device when it gets here, and a second
two-step handshake could not reach into Kafka. Its number, or the number of its session, makes
the repeats of this last step harmless.
"""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence

import structlog
from mqtt5 import PublishPacket

from bridges.kafka import Recorder
from bridges.meter import Meter
from bridges.mqtt import outbound
from bridges.mqtt.client import Door, bucket_session
from bridges.mqtt.inbound import Taken, Translator
from bridges.mqtt.told import Teller
from protocols.mqtt import AT_LEAST_ONCE, AT_MOST_ONCE, Client, Lost, Message
from protocols.waiting import until_first

log = structlog.get_logger()
BACKOFF_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)
TURN_MESSAGES, TURN_BYTES = 200, 1_048_576
"""What a reader takes before everyone else has a turn, and before it asks for room again."""
WILLS = "devices/+/status"
WILLS_BUCKET = 0
"""Wills pass no hook of the plugin, so they come in no bucket: one bucket's owner counts them."""


def turns(batch: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """Cut a batch into what is taken at once, bounded in messages and, but for one, in bytes."""
    begin = size = 0
    for end, message in enumerate(batch):
        more = len(message.payload) if isinstance(message, PublishPacket) else 0
        size += more
        if end - begin >= TURN_MESSAGES or (size > TURN_BYTES and end > begin):
            yield batch[begin:end]
            begin, size = end, more
    if batch:
        yield batch[begin:]


class Bucket:
    """Holds one bucket, over as many sessions as it takes."""

    def __init__(
        self,
        number: int,
        door: Door,
        translator: Translator,
        recorder: Recorder,
        teller: Teller,
        meter: Meter,
    ) -> None:
        self.number = number
        self._client: Client | None = None
        self._door, self._translator = door, translator
        self._recorder, self._teller, self._meter = recorder, teller, meter
        self._on_way: deque[Taken] = deque()
        self._progressed = asyncio.Event()

    def served(self) -> bool:
        """Tell whether a session is up, over which the broker spoke not long ago."""
        client = self._client
        return client is not None and client.silent_seconds < self._door.keep_alive_seconds

    def progressed(self) -> None:
        """Look at what Kafka has."""
        if self._on_way:
            self._progressed.set()

    async def hold(self) -> None:
        """Keep a session until cancelled."""
        attempt = 0
        while True:
            try:
                async with bucket_session(self._door, self.number) as client:
                    await self._pump(client)
            except Lost as error:
                self._meter.connection_error()
                log.warning("bucket.lost", bucket=self.number, error=str(error))
            finally:
                attempt = 0 if self._client is not None else attempt
                self._client = None
            await asyncio.sleep(BACKOFF_SECONDS[min(attempt, len(BACKOFF_SECONDS) - 1)])
            attempt += 1

    async def _pump(self, client: Client) -> None:
        """Subscribe, read and acknowledge until one of them ends; then the session is over.

        All at once: the SUBACK comes behind the messages that waited in the broker.
        """
        self._on_way = deque()  # of this session: its packet ids mean nothing to another
        await until_first(self._read(client), self._acknowledge(client), self._stay(client))

    async def _stay(self, client: Client) -> None:
        """Be subscribed until the session ends."""
        await client.subscribe(f"bucket/{self.number}/#", max_qos=AT_LEAST_ONCE)
        if self.number == WILLS_BUCKET:
            await client.subscribe(WILLS, max_qos=AT_MOST_ONCE)
        self._client = client
        log.info("bucket.up", bucket=self.number)
        await client.disconnected()

    async def _read(self, client: Client) -> None:
        while True:
            await self._recorder.until_room()
            batch = await client.batch()
            for turn in turns(batch):
                self._take(turn)
                await asyncio.sleep(0)
                await self._recorder.until_room()

    def _take(self, batch: Sequence[Message]) -> None:
        now, sizes, recorded = time.time_ns() // 1_000_000, [], defaultdict[str, list[Taken]](list)
        translate, taken_all = self._translator.translate, list[Taken]()
        for packet in batch:
            if not isinstance(packet, PublishPacket):
                continue
            topic, payload = packet.topic, packet.payload
            sizes.append(len(payload))
            if not topic.startswith("bucket/"):
                self._meter.hint("will")
                continue
            taken = translate(
                topic, payload, packet.content_type or "", packet.user_properties, now
            )
            taken.packet_id = packet.packet_id
            taken_all.append(taken)
            if taken.refused is not None:
                self._meter.refused(taken.refused.value)
            if taken.value is None:
                if taken.hint:
                    self._meter.hint(taken.hint)
                taken.done = True
                self._progressed.set()
            else:
                recorded[taken.topic].append(taken)
        self._recorder.record_all(recorded)
        self._on_way += taken_all
        self._meter.received(sizes)

    async def _acknowledge(self, client: Client) -> None:
        """Acknowledge to the broker, and to the devices, what Kafka has."""
        while True:
            await self._progressed.wait()
            self._progressed.clear()
            packet_ids, on_way = [], self._on_way
            while on_way and on_way[0].done:
                taken = on_way.popleft()
                if taken.packet_id is not None:
                    packet_ids.append(taken.packet_id)
                self._tell(taken)
            if packet_ids:
                await client.puback_all(packet_ids)

    def _tell(self, taken: Taken) -> None:
        if not taken.device_id:
            return
        if taken.refused is not None:
            self._teller.say(taken.whom, outbound.refused(taken))
        elif taken.number is not None:
            self._teller.recorded(taken.whom, taken.number)
        elif taken.presented:
            self._teller.say(taken.whom, outbound.presented(taken.presented))
