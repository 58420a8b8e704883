"""Wills pass no message hook of the broker: what is left of them."""

import asyncio
import contextlib
from typing import Any

import aiomqtt
import pytest

from tests.integration.plugin.rig import (
    CONTROL,
    DEADLINE_SECONDS,
    QOS1,
    Broker,
    bucket_topic,
    cut,
    device,
    forged,
    publish,
    run,
    service,
    verified,
)


@pytest.mark.parametrize("delay", [0, 1])
def test_a_will_never_verifies(broker: Broker, delay: int) -> None:
    """A will comes out unstamped, on the device's own topic, at once or later."""

    async def scenario() -> None:
        name = f"dying-{delay}"
        credential = broker.authority.device(name)
        will = aiomqtt.Will(
            f"devices/{name}/status",
            payload=b"gone",
            qos=QOS1,
            will_delay_interval=delay,
            user_properties=forged(credential.fingerprint),
        )
        async with service(broker) as bridge:
            options: dict[str, Any] = {"will": will, "session_expiry_interval": 60}
            async with device(broker, credential, **options) as sender:
                await bridge.event(name, "opened")
                await cut(sender)
                message = await bridge.on(f"devices/{name}/status")
            assert verified(message) is None
            assert (await bridge.event(name, "closed"))["reason"] == "disconnected"
            assert not any(
                each.topic.endswith(f"devices/{name}/status") and each.topic.startswith("bucket")
                for each in bridge.messages
            )

    run(scenario)


@pytest.mark.parametrize(
    ("topic", "retain"),
    [
        ("devices/mortal/status", True),
        ("devices/mortal/events/x", False),
        ("devices/mortal/commands/x", False),
        ("devices/victim/status", False),
        ("devices/victim/commands/x", False),
        ("bucket/0/devices/mortal/status", False),
    ],
)
def test_other_wills_are_dropped(broker: Broker, topic: str, retain: bool) -> None:
    """A will is never retained, and speaks on the device's own status topic only."""

    async def scenario() -> None:
        credential = broker.authority.device("mortal")
        async with service(broker) as bridge:
            before = (await bridge.order(status={}))["refused_messages"]
            will = aiomqtt.Will(topic, payload=b'{"status":{}}', qos=QOS1, retain=retain)
            async with device(broker, credential, will=will) as sender:
                await bridge.event("mortal", "opened")
                await cut(sender)
                await bridge.event("mortal", "closed")
            after = (await bridge.order(status={}))["refused_messages"]
            assert after == int(str(before)) + 1
            assert topic not in [message.topic for message in bridge.messages]
            assert b'{"status":{}}' not in [message.payload for message in bridge.messages]

    run(scenario)


def test_a_will_gives_no_order(broker: Broker) -> None:
    """An order as a device's will is dropped; a newer broker refuses the whole connection."""

    async def scenario() -> None:
        credential = broker.authority.device("plotter")
        async with service(broker) as bridge:
            before = (await bridge.order(status={}))["refusals"]
            will = aiomqtt.Will(CONTROL, payload=b'{"refuse":{"device":"victim"}}', qos=QOS1)
            with contextlib.suppress(aiomqtt.ConnectError):
                async with device(broker, credential, will=will) as sender:
                    await bridge.event("plotter", "opened")
                    await cut(sender)
                    await bridge.event("plotter", "closed")
            assert (await bridge.order(status={}))["refusals"] == before

    run(scenario)


def test_a_will_of_a_session_taken_over_is_judged_as_a_will(broker: Broker) -> None:
    """The newer connection of the same device does not lend its session to the old will."""

    async def scenario() -> None:
        credential = broker.authority.device("twice")
        will = aiomqtt.Will("devices/twice/events/x", payload=b"forged", qos=QOS1)
        async with service(broker) as bridge:
            async with device(broker, credential, will=will) as first:
                one = await bridge.event("twice", "opened")
                async with device(broker, credential) as second:
                    closed = await bridge.event("twice", "closed", str(one["session"]))
                    assert closed["reason"] == "taken-over"
                    await publish(second, "devices/twice/events/y", b"mine")
                    await bridge.on(bucket_topic("twice", "devices/twice/events/y"))
                    await asyncio.wait_for(first.disconnected(), DEADLINE_SECONDS)
            assert not [each for each in bridge.messages if each.payload == b"forged"]

    run(scenario)
