"""Refusing by certificate and by device, and the orders that do it."""

import asyncio
import json
import signal
from typing import Any

import aiomqtt
import pytest

from bridges.mqtt.broker import stamp
from tests.integration.plugin.rig import (
    BUCKETS,
    CONTROL,
    DEADLINE_SECONDS,
    Broker,
    bucket_topic,
    device,
    publish,
    run,
    service,
    verified,
)


def test_a_refused_certificate_is_cut_off_and_a_new_one_gets_in(broker: Broker) -> None:
    """The open session under it ends, the next is refused; a new certificate is untouched."""

    async def scenario() -> None:
        old, new = broker.authority.device("rotating"), broker.authority.device("rotating")
        async with service(broker) as bridge:
            async with device(broker, old) as sender:
                opened = await bridge.event("rotating", "opened")
                answer = await bridge.order(refuse={"certificate": old.fingerprint})
                assert (answer["ok"], answer["closed"]) == (True, 1)
                await asyncio.wait_for(sender.disconnected(), DEADLINE_SECONDS)
            closed = await bridge.event("rotating", "closed", str(opened["session"]))
            assert (closed["reason"], closed["reason_code"]) == ("refused-certificate", 152)
            with pytest.raises(aiomqtt.NegativeAckError, match="NOT_AUTHORIZED"):
                async with device(broker, old):
                    pass
            refused = await bridge.event("rotating", "refused")
            assert refused["reason"] == "refused-certificate"
            async with device(broker, new) as sender:
                answer = await bridge.order(refuse={"certificate": old.fingerprint})
                assert (answer["ok"], answer["closed"]) == (True, 0)
                await publish(sender, "devices/rotating/status", b"still here")
                await bridge.on(bucket_topic("rotating", "devices/rotating/status"))

    run(scenario)


@pytest.mark.parametrize("turned", [False, True])
def test_the_twin_of_a_refused_certificate_is_cut_off_too(broker: Broker, turned: bool) -> None:
    """Another fingerprint under the same signature: no way in, whichever of the two is refused."""

    async def scenario() -> None:
        made = broker.authority.device("mirrored")
        old, other = made, broker.authority.twin(made, broker.authority.devices)
        if turned:
            old, other = other, old
        assert old.fingerprint != other.fingerprint
        async with service(broker) as bridge:
            async with device(broker, other) as sender:
                opened = await bridge.event("mirrored", "opened")
                assert opened["certificate"] == other.fingerprint
                answer = await bridge.order(refuse={"certificate": old.fingerprint})
                assert (answer["ok"], answer["closed"]) == (True, 1)
                await asyncio.wait_for(sender.disconnected(), DEADLINE_SECONDS)
            for one in (old, other):
                with pytest.raises(aiomqtt.NegativeAckError, match="NOT_AUTHORIZED"):
                    async with device(broker, one):
                        pass
                refused = await bridge.event("mirrored", "refused")
                assert refused["reason"] == "refused-certificate"

    run(scenario)


def test_a_refused_device_is_cut_off_until_allowed(broker: Broker) -> None:
    """A refused name holds for all its certificates, and can be taken back."""

    async def scenario() -> None:
        credential = broker.authority.device("outcast")
        async with service(broker) as bridge:
            async with device(broker, credential) as sender:
                assert (await bridge.order(refuse={"device": "outcast"}))["closed"] == 1
                await asyncio.wait_for(sender.disconnected(), DEADLINE_SECONDS)
            with pytest.raises(aiomqtt.NegativeAckError, match="NOT_AUTHORIZED"):
                async with device(broker, broker.authority.device("outcast")):
                    pass
            assert (await bridge.event("outcast", "refused"))["reason"] == "refused-device"
            assert (await bridge.order(allow={"device": "outcast"}))["ok"] is True
            async with device(broker, credential):
                pass

    run(scenario)


def test_a_killed_broker_keeps_refusals_and_queues(broker: Broker) -> None:
    """After kill -9 a refusal holds, a bridge's queue is there, and `started` is told."""

    async def scenario() -> None:
        credential = broker.authority.device("survivor")
        lasting: dict[str, Any] = {
            "identifier": "@lasting",
            "clean_start": False,
            "session_expiry_interval": 600,
        }
        async with service(broker, **lasting) as bridge:
            await bridge.order(refuse={"device": "survivor"})
        async with device(broker, broker.authority.device("queued")) as sender:
            await publish(sender, "devices/queued/status", b"kept")
        async with service(broker) as bridge:
            await bridge.order(refuse={"certificate": credential.fingerprint})
        broker.stop(signal.SIGKILL)
        broker.start()
        async with service(broker, **lasting) as bridge:
            message = await bridge.on(bucket_topic("queued", "devices/queued/status"))
            assert verified(message) is not None
            for bucket in range(BUCKETS):
                started = await bridge.on(f"bucket/{bucket}/sessions/{stamp.BROKER}")
                seen = verified(started)
                assert seen is not None
                assert seen.sender.client == stamp.BROKER
            await bridge.order(allow={"device": "survivor"})
            with pytest.raises(aiomqtt.NegativeAckError, match="NOT_AUTHORIZED"):
                async with device(broker, credential):
                    pass
            refused = await bridge.event("survivor", "refused")
            assert refused["reason"] == "refused-certificate"

    run(scenario)


@pytest.mark.parametrize(
    "order",
    [
        b"", b"x", b"[]", b"{}", b"{} {}", b"\0", b'{"refuse":{"device":"a"}',
        b'{"refuse":{"certificate":"AA"}}', b'{"refuse":{"device":"a/b"}}', b'{"refuse":{}}',
        b'{"refuse":{"device":"a","certificate":"b"}}', b'{"refuse":{"device":1}}',
        b'{"refuse":{"device":"a"},"allow":{"device":"a"}}', b'{"forget":{"device":"a"}}',
        b'{"status":{}, "status":{}}', b'{"status":1}', b'{"id":1,"status":{}}',
        b'{"refuse":null}', b'{"id":"' + b"x" * 129 + b'","status":{}}', b"[" * 3000, b" " * 5000,
    ],
    ids=range(21),
)  # fmt: skip
def test_a_wrong_order_is_answered_with_what_is_wrong(broker: Broker, order: bytes) -> None:
    """No order can disturb the broker or the service that sent it."""

    async def scenario() -> None:
        async with service(broker) as console:
            before = (await console.order(status={}))["refusals"]
            console.messages.clear()
            await publish(console.client, CONTROL, order)
            answer = json.loads((await console.on(f"{CONTROL}/response")).payload)
            assert answer["ok"] is False
            assert answer["error"]
            assert answer["refusals"] == before

    run(scenario)


def test_a_device_cannot_give_orders(broker: Broker) -> None:
    """A device's order is refused, and changes nothing."""

    async def scenario() -> None:
        async with service(broker) as console:
            before = (await console.order(status={}))["refusals"]
            async with device(broker, broker.authority.device("rebel")) as sender:
                order = b'{"refuse":{"device":"victim"}}'
                answer = await publish(sender, CONTROL, order)
                assert answer == aiomqtt.PubAckReasonCode.NOT_AUTHORIZED
                for topic in ("$CONTROL/#", f"{CONTROL}/response"):
                    with pytest.raises(aiomqtt.NegativeAckError):
                        await sender.subscribe(topic)
            assert (await console.order(status={}))["refusals"] == before

    run(scenario)
