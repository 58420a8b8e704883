"""Who may write, read and subscribe to what."""

import asyncio
import json

import aiomqtt
import pytest
from mqtt5 import PublishPacket

from tests.integration.plugin.rig import (
    DEADLINE_SECONDS,
    QOS1,
    Broker,
    device,
    publish,
    run,
    service,
)


@pytest.mark.parametrize(
    "topic", ["devices/victim/status", "devices/roam", "devices/roamer/status", "bucket/0/x", "x"]
)
def test_a_foreign_topic_is_refused_and_told(broker: Broker, topic: str) -> None:
    """A device that writes outside its own topics is refused, and the bridge hears of it."""

    async def scenario() -> None:
        credential = broker.authority.device("roam")
        async with service(broker) as bridge, device(broker, credential) as sender:
            session = (await bridge.event("roam", "opened"))["session"]
            assert (
                await publish(sender, topic, b"forged") == aiomqtt.PubAckReasonCode.NOT_AUTHORIZED
            )
            told = await bridge.event("roam", "foreign-topic", str(session))
            assert (told["topic"], told["certificate"]) == (topic, credential.fingerprint)
            assert b"forged" not in [message.payload for message in bridge.messages]

    run(scenario)


def test_refused_messages_are_told_sixteen_times(broker: Broker) -> None:
    """A device cannot flood the history with refusals: the rest of them is only counted."""

    async def scenario() -> None:
        async with service(broker) as bridge:
            async with device(broker, broker.authority.device("noisy")) as sender:
                for _ in range(40):
                    await publish(sender, "devices/victim/status", b"")
            closed = await bridge.event("noisy", "closed")
            told = [each for each in bridge.messages if b"foreign-topic" in each.payload]
            assert (closed["refused_messages"], len(told)) == (40, 16)

    run(scenario)


def test_properties_and_topics_are_bounded(broker: Broker) -> None:
    """33 user properties, or a topic of 513 bytes, are refused; one less passes."""

    async def scenario() -> None:
        async with service(broker) as bridge:
            async with device(broker, broker.authority.device("big")) as sender:
                prefix = "devices/big/events/"
                for many, refused in ((32, False), (33, True)):
                    answer = await publish(
                        sender, f"{prefix}{many}", b"", user_properties=[("a", "b")] * many
                    )
                    assert (answer == aiomqtt.PubAckReasonCode.NOT_AUTHORIZED) == refused
                for size, refused in ((512, False), (513, True)):
                    answer = await publish(sender, prefix.ljust(size, "x"), b"")
                    assert (answer == aiomqtt.PubAckReasonCode.NOT_AUTHORIZED) == refused
            reasons = [
                content["reason"]
                for content in map(json.loads, [m.payload for m in bridge.messages if m.payload])
                if content["event"] == "refused-message"
            ]
            assert reasons == ["too-many-properties", "topic-too-long"]

    run(scenario)


def test_a_device_hears_only_its_own_commands(broker: Broker) -> None:
    """A command reaches its device; foreign, wide and shared subscriptions are refused."""

    async def scenario() -> None:
        credential = broker.authority.device("hearer")
        async with service(broker) as bridge, device(broker, credential) as listener:
            await listener.subscribe("devices/hearer/commands/#", max_qos=QOS1)
            for pattern in (
                "#",
                "bucket/#",
                "devices/+/commands/#",
                "devices/victim/#",
                "$share/g/bucket/#",
                "$share/g/devices/hearer/#",
                "$SYS/#",
            ):
                with pytest.raises(aiomqtt.NegativeAckError):
                    await listener.subscribe(pattern)
            await publish(bridge.client, "devices/victim/commands/1", b"not for it")
            await publish(bridge.client, "devices/hearer/commands/1", b"for it")
            async with asyncio.timeout(DEADLINE_SECONDS):
                message = await anext(listener.messages())
            assert isinstance(message, PublishPacket)
            assert message.payload == b"for it"

    run(scenario)


def test_a_service_writes_only_commands_and_acknowledgements(broker: Broker) -> None:
    """Not even a service can put a message into a bucket."""

    async def scenario() -> None:
        async with service(broker) as console:
            for topic in ("bucket/0/devices/victim/status", "devices/victim/status", "x"):
                answer = await publish(console.client, topic, b"")
                assert answer == aiomqtt.PubAckReasonCode.NOT_AUTHORIZED
            for topic in ("devices/victim/commands/1", "devices/victim/recorded"):
                answer = await publish(console.client, topic, b"")
                assert answer == aiomqtt.PubAckReasonCode.SUCCESS

    run(scenario)
