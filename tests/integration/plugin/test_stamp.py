"""The stamp: what it says, that it holds, and that nothing else passes for it."""

import asyncio
import subprocess
from typing import Any

from bridges.mqtt.broker import stamp
from tests.integration.plugin.rig import (
    SECRET,
    Broker,
    bucket_topic,
    device,
    forged,
    publish,
    run,
    service,
    verified,
)


def test_a_message_is_stamped_with_its_session(broker: Broker) -> None:
    """A PUBLISH arrives in its bucket with a stamp that verifies, numbered from 1."""

    async def scenario() -> None:
        credential = broker.authority.device("stamped")
        async with service(broker) as bridge, device(broker, credential) as sender:
            for number in (1, 2):
                topic = f"devices/stamped/events/e{number}"
                await publish(sender, topic, b"payload", content_type="application/json")
                message = await bridge.on(bucket_topic("stamped", topic))
                seen = verified(message)
                assert seen is not None
                assert seen.sender.certificate.hex() == credential.fingerprint
                assert (seen.sender.client, seen.counter) == ("stamped", number)
                assert seen.sender.address == "127.0.0.1"
                assert message.content_type == "application/json"
                opened = await bridge.event("stamped", "opened")
                assert opened["session"] == seen.sender.session
                properties = message.user_properties
                assert stamp.verify(properties, message.topic, b"other", SECRET) is None
                assert stamp.verify(properties, message.topic, b"payload", bytes(32)) is None

    run(scenario)


def test_forged_stamps_are_removed(broker: Broker) -> None:
    """What a device writes under the plugin's names is taken out; its own properties stay."""

    async def scenario() -> None:
        credential = broker.authority.device("forger")
        async with service(broker) as bridge, device(broker, credential) as sender:
            properties = [("mine", "1"), *forged("f" * 64), ("mine", "2"), ("fleetcert-x", "y")]
            options: dict[str, Any] = {"user_properties": properties, "correlation_data": b"\0\1"}
            options |= {"response_topic": "answer"}
            await publish(sender, "devices/forger/status", b"", **options)
            message = await bridge.on(bucket_topic("forger", "devices/forger/status"))
            seen = verified(message)
            assert seen is not None
            assert seen.sender.client == "forger"
            assert message.user_properties[:2] == [("mine", "1"), ("mine", "2")]
            assert len(message.user_properties) == 2 + 1
            assert (message.correlation_data, message.response_topic) == (b"\0\1", "answer")

    run(scenario)


def test_an_old_device_is_stamped_too(broker: Broker) -> None:
    """A device that speaks MQTT 3.1.1 needs nothing from MQTT 5 to be stamped."""

    async def scenario() -> None:
        credential = broker.authority.device("old")
        async with service(broker) as bridge:
            command = ["mosquitto_pub", "-V", "311", "-h", "127.0.0.1", "-i", "old", "-q", "1"]
            command += ["-p", str(broker.settings.device_port), "-m", "{}"]
            command += ["-t", "devices/old/events/boot", "--tls-version", "tlsv1.3"]
            command += ["--cafile", str(broker.authority.root.chain_file)]
            command += ["--cert", str(credential.chain_file), "--key", str(credential.key_file)]
            done = await asyncio.to_thread(subprocess.run, command, check=False, timeout=5)
            assert done.returncode == 0
            message = await bridge.on(bucket_topic("old", "devices/old/events/boot"))
            seen = verified(message)
            assert seen is not None
            assert seen.sender.certificate.hex() == credential.fingerprint
            assert (await bridge.event("old", "closed"))["reason"] == "disconnected"

    run(scenario)


def test_nothing_of_a_device_is_retained(broker: Broker) -> None:
    """A retained PUBLISH is delivered once, and not replayed to whoever subscribes later."""

    async def scenario() -> None:
        topic = "devices/keeper/status"
        async with device(broker, broker.authority.device("keeper")) as sender:
            async with service(broker) as bridge:
                await publish(sender, topic, b"birth", retain=True)
                assert not (await bridge.on(bucket_topic("keeper", topic))).retain
            async with service(broker) as late:
                await publish(sender, topic, b"second")
                await late.wait(lambda message: message.payload == b"second")
                assert not [each for each in late.messages if each.payload == b"birth"]

    run(scenario)
