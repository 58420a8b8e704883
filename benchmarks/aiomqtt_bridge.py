"""MQTT to Kafka with aiomqtt and nothing else: what our bridge's own work is measured against.

It passes bytes on: no identity is verified, nothing is encoded, nothing is bounded. aiomqtt is
the client beneath our bridge, here as it comes: packet by packet, each acknowledgement alone.
"""

import asyncio
import contextlib
import os
from functools import partial

import aiomqtt
from confluent_kafka import KafkaError, Message

from benchmarks import passing

POLL_SECONDS = 0.002
RECEIVE_MAX = 10_000


async def main() -> None:
    """Run until killed."""
    environment = os.environ
    host, port = environment["MQTT"].split(":")
    producer = passing.producer()
    client = aiomqtt.Client(
        hostname=host,
        port=int(port),
        identifier=environment["CLIENT_ID"],
        ssl_context=passing.tls(),
        clean_start=False,
        session_expiry_interval=3_600,
        receive_max=RECEIVE_MAX,
    )
    recorded: list[int] = []

    async def acknowledge() -> None:
        while True:
            producer.poll(0)
            taken, recorded[:] = recorded[:], []
            for packet_id in taken:
                await client.puback(packet_id)
            await asyncio.sleep(POLL_SECONDS)

    def delivered(packet_id: int, error: KafkaError | None, _record: Message) -> None:
        if error is None:
            recorded.append(packet_id)

    async with client, asyncio.TaskGroup() as group:
        group.create_task(acknowledge())
        await client.subscribe("bucket/#", max_qos=aiomqtt.QoS.AT_LEAST_ONCE)
        async for message in client.messages():
            assert isinstance(message, aiomqtt.PublishPacket)
            assert message.packet_id
            key = message.topic.split("/", 4)[3]
            told = partial(delivered, message.packet_id)
            producer.produce(environment["TOPIC"], message.payload, key, on_delivery=told)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
