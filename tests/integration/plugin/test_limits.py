"""What the broker takes of one device, and of how many."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import aiomqtt
import pytest

from tests.integration.plugin.rig import (
    Broker,
    bucket_topic,
    device,
    free_port,
    publish,
    run,
    running,
    service,
)

RATE, BURST, CONNECTIONS = 2, 10, 2


@pytest.fixture
def strict(broker: Broker, tmp_path: Path) -> Iterator[Broker]:
    """A broker with small limits."""
    settings = replace(
        broker.settings,
        data_dir=tmp_path,
        device_port=free_port(),
        service_port=free_port(),
        device_rate_max=RATE,
        device_burst_max=BURST,
        max_device_connections=CONNECTIONS,
    )
    with running(Broker(settings, broker.authority, {})) as started:
        yield started


def test_a_device_that_sends_too_fast_is_refused_and_told_of(strict: Broker) -> None:
    """A burst passes, what exceeds it does not, and another device does not feel it."""

    async def scenario() -> None:
        authority = strict.authority
        async with (
            service(strict) as bridge,
            device(strict, authority.device("hasty")) as hasty,
            device(strict, authority.device("calm")) as calm,
        ):
            answers = [
                await publish(hasty, f"devices/hasty/events/{number}", b"")
                for number in range(3 * BURST)
            ]
            taken = answers.count(aiomqtt.PubAckReasonCode.SUCCESS)
            assert BURST <= taken < 2 * BURST
            assert all(one == aiomqtt.PubAckReasonCode.SUCCESS for one in answers[:BURST])
            assert answers.count(aiomqtt.PubAckReasonCode.NOT_AUTHORIZED) == len(answers) - taken
            refused = await bridge.event("hasty", "refused-message")
            assert refused["reason"] == "rate-exceeded"
            answer = await publish(calm, "devices/calm/status", b"")
            assert answer == aiomqtt.PubAckReasonCode.SUCCESS
            await bridge.on(bucket_topic("calm", "devices/calm/status"))

    run(scenario)


def test_a_topic_that_does_not_exist_is_refused_and_told_of(broker: Broker) -> None:
    """A device may not invent a topic, not even under its own name."""

    async def scenario() -> None:
        credential = broker.authority.device("inventor")
        async with service(broker) as bridge, device(broker, credential) as sender:
            answer = await publish(sender, "devices/inventor/inventions/1", b"")
            assert answer == aiomqtt.PubAckReasonCode.NOT_AUTHORIZED
            refused = await bridge.event("inventor", "refused-message")
            assert refused["reason"] == "unknown-topic"

    run(scenario)


def test_sessions_are_bounded(strict: Broker) -> None:
    """One device more than the limit does not get in; when another leaves, it does."""

    async def scenario() -> None:
        credentials = [strict.authority.device(f"guest-{number}") for number in range(3)]
        async with contextlib.AsyncExitStack() as guests:
            async with device(strict, credentials[0]):
                await guests.enter_async_context(device(strict, credentials[1]))
                with pytest.raises((OSError, aiomqtt.ConnectError)):
                    async with device(strict, credentials[2]):
                        pass
            await guests.enter_async_context(device(strict, credentials[2]))

    run(scenario)
