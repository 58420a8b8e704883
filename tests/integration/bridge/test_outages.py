"""Kafka, the broker and other bridges come and go."""

import asyncio
import json
import signal

from confluent_kafka import Consumer, TopicPartition

from protocols.mqtt import EXACTLY_ONCE
from schemas.events import DeviceReported
from schemas.topics import DEVICE_COMMANDS
from tests.helpers.wait import until, until_async
from tests.integration.bridge.rig import (
    BUCKETS,
    HOUR_MS,
    SESSION_TIMEOUT_SECONDS,
    Bridge,
    Rig,
    all_recorded,
    install,
    now,
)


async def test_kafka_may_die_at_the_moment_of_the_assignment(rig: Rig) -> None:
    """The bridge that has just got its buckets waits for Kafka, and does not abort."""
    rig.end_the_bridge()
    started = await rig.owning_bridge("bridge-a")
    rig.kafka.kill()
    rig.kafka.start()
    async with rig.device("early-1") as device:

        async def heard() -> bool:
            await device.report(1)
            return 1 in device.recorded

        await until_async(heard, within=20, describe=started.text)
    assert started.process.poll() is None, started.text()
    assert started.end() == 0, started.text()


async def test_a_bridge_that_is_fenced_joins_again_under_its_name(rig: Rig, alone: Bridge) -> None:
    """Kafka knows another member by its name, once: it has its buckets back by itself."""
    fence(rig, "bridge-a")
    async with rig.device("fenced-1") as device:

        async def heard() -> bool:
            await device.report(1)
            return 1 in device.recorded

        await until_async(
            lambda: "bridge.fenced" in alone.text() and alone.owned() == BUCKETS,
            within=20,
            describe=alone.text,
        )
        await until_async(heard, within=20, describe=alone.text)
    assert alone.process.poll() is None, alone.text()


async def test_of_two_bridges_of_one_name_one_ends_and_says_why(rig: Rig) -> None:
    """They fence each other, until one has heard it twice; the other has the buckets."""
    rig.end_the_bridge()
    twins = [await rig.owning_bridge("bridge-twin"), Bridge(rig, "bridge-twin")]
    await until_async(
        lambda: any(one.process.poll() is not None for one in twins),
        within=30,
        describe=lambda: "\n".join(one.text() for one in twins),
    )
    ended, stays = sorted(twins, key=lambda one: one.process.poll() is None)
    assert ended.process.poll() == 3, ended.text()
    assert "bridge.name_taken" in ended.text()
    await until_async(lambda: stays.owned() == BUCKETS, within=20, describe=stays.text)
    assert stays.end() == 0, stays.text()


def fence(rig: Rig, name: str) -> None:
    """Join the bridges' group under a bridge's name, and go."""
    consumer = Consumer(
        {
            "bootstrap.servers": rig.kafka.bootstrap,
            "group.id": "mqtt-bridges",
            "group.instance.id": name,
            "session.timeout.ms": int(SESSION_TIMEOUT_SECONDS * 1000),
        }
    )
    joined: list[TopicPartition] = []
    consumer.subscribe([DEVICE_COMMANDS], on_assign=lambda _, given: joined.extend(given))
    until(lambda: bool(consumer.poll(0.1) or joined), within=20, describe="joined under its name")
    consumer.close()


async def test_nothing_is_recorded_while_kafka_stands_still(rig: Rig, alone: Bridge) -> None:
    """The bridge has the messages, the device is told of none, until Kafka goes on."""
    async with rig.device("patient-1") as device:
        await device.report(1)
        await all_recorded(device, 1)
        before = alone.metric("mqtt_messages_received")
        rig.kafka.signal(signal.SIGSTOP)
        try:
            for sequence in range(2, 52):
                await device.report(sequence)
            await until_async(
                lambda: alone.metric("mqtt_messages_received") >= before + 50,
                describe="the bridge has them",
            )
            assert device.recorded == {1}
        finally:
            rig.kafka.signal(signal.SIGCONT)
        await all_recorded(device, 51)
    assert list(dict.fromkeys(rig.sequences("patient-1"))) == list(range(1, 52))


async def test_the_broker_keeps_what_kafka_does_not_have(rig: Rig, alone: Bridge) -> None:
    """Kafka down, bridge killed: the messages were not acknowledged, and come again."""
    async with rig.device("kept-1") as device:
        before = alone.metric("mqtt_messages_received")
        rig.kafka.kill()
        for sequence in range(1, 51):
            await device.report(sequence)
        await until_async(
            lambda: alone.metric("mqtt_messages_received") >= before + 50,
            describe="the bridge has them",
        )
        alone.end(signal.SIGKILL)
        assert device.recorded == set()
        rig.kafka.start()
        second = await rig.bridge("bridge-b")
        await until_async(
            lambda: set(rig.sequences("kept-1")) == set(range(1, 51)),
            within=20,
            describe="all are in the history",
        )
    assert second.end() == 0, second.text()


async def test_sigterm_ends_a_bridge_whose_broker_and_kafka_are_away(
    rig: Rig, alone: Bridge
) -> None:
    """A command waits for a broker that is gone, Kafka stands still: the process still ends."""
    rig.broker.kill()
    rig.broker.wait()
    rig.command("waiting-1", install("waiting-1", "waiting", now() + HOUR_MS))
    rig.kafka.signal(signal.SIGSTOP)
    try:
        assert await asyncio.to_thread(alone.end) == 0, alone.text()
    finally:
        rig.kafka.signal(signal.SIGCONT)
        rig.start_broker()


async def test_the_bridge_outlives_the_broker(rig: Rig, alone: Bridge) -> None:
    """The broker is killed and comes back: the bridge hears devices again by itself.

    Meanwhile it shows that no bucket is served, and every lost connection.
    """
    buckets = alone.metric("mqtt_buckets")
    await until_async(
        lambda: alone.metric("mqtt_buckets_served") == buckets, describe="all buckets are served"
    )
    assert alone.metric("mqtt_connection_errors") == 0
    rig.broker.kill()
    rig.broker.wait()
    await until_async(
        lambda: alone.metric("mqtt_connection_errors") >= buckets, describe="errors are shown"
    )
    assert alone.metric("mqtt_buckets_served") == 0
    rig.start_broker()
    async with rig.device("again-1") as device:

        async def heard() -> bool:
            await device.report(1)
            return 1 in device.recorded

        await until_async(heard, within=20, describe=alone.text)
    assert alone.metric("mqtt_connection_errors") > 0


async def test_order_and_completeness_survive_a_killed_bridge(rig: Rig, alone: Bridge) -> None:
    """One of three bridges dies: every message arrives, each device's in order."""
    others = [Bridge(rig, "bridge-b"), Bridge(rig, "bridge-c")]
    await until_async(
        lambda: all(one.owned() for one in others), within=20, describe="three share the buckets"
    )
    names = rig.one_per_bucket("stream")
    count = 400

    async def stream(name: str, halfway: asyncio.Event) -> set[int]:
        async with rig.device(name) as device:
            for sequence in range(1, count + 1):
                await device.report(sequence)
                if sequence == count // 2:
                    halfway.set()
            await until_async(
                lambda: set(rig.sequences(name)) == set(range(1, count + 1)),
                within=30,
                describe=f"all of {name}",
            )
            return device.recorded

    halfway = asyncio.Event()
    streaming = asyncio.gather(*(stream(name, halfway) for name in names))
    await halfway.wait()
    others[0].end(signal.SIGKILL)
    told = await streaming
    for name, recorded in zip(names, told, strict=True):
        sequences = rig.sequences(name)
        assert recorded <= set(sequences)
        assert list(dict.fromkeys(sequences)) == list(range(1, count + 1))
    assert alone.process.poll() is None, alone.text()
    assert others[1].end() == 0, others[1].text()


async def test_a_stopped_kafka_fills_the_broker_not_the_bridge(rig: Rig) -> None:
    """48 MiB come while Kafka stands still: the bridge takes its limit, and holds no more memory.

    What it did not take waits in the broker; nothing is recorded before Kafka goes on, all after.
    """
    rig.end_the_bridge()
    bridge = await rig.bridge("bridge-full", "--waiting-mebibytes", "4")
    body, count = "x" * 96_000, 512
    async with rig.device("heavy-1") as device:
        await device.report(1)
        await all_recorded(device, 1)
        before, taken = bridge.resident_mebibytes(), bridge.metric("mqtt_messages_received")
        rig.kafka.signal(signal.SIGSTOP)
        try:
            for sequence in range(2, count + 2):
                said = json.dumps({"boot": 1, "sequence": sequence, "body": body}).encode()
                await device.say("events/heat", said, "application/json")
            grown = bridge.resident_mebibytes() - before
            assert bridge.metric("mqtt_messages_received") - taken < count // 3
            assert grown < 24, f"the bridge grew by {grown:.0f} MiB"
            assert device.recorded == {1}
        finally:
            rig.kafka.signal(signal.SIGCONT)
        await all_recorded(device, count + 1, within=30)
    assert list(dict.fromkeys(rig.sequences("heavy-1"))) == list(range(1, count + 2))
    assert bridge.end() == 0, bridge.text()


async def test_a_message_of_quality_2_has_one_name_however_often_it_comes(
    rig: Rig, alone: Bridge
) -> None:
    """The bridge dies between Kafka and PUBACK: the repeats carry the session's same number.

    The device numbers nothing itself; whoever reads the history tells one message from two.
    """
    async with rig.device("once-1") as device:
        rig.kafka.signal(signal.SIGSTOP)
        try:
            for _ in range(20):
                await device.say("events/heat", b"{}", "application/json", EXACTLY_ONCE)
        finally:
            alone.end(signal.SIGKILL)
            rig.kafka.signal(signal.SIGCONT)
        second = await rig.bridge("bridge-b")

        def counters() -> set[int]:
            found = [one.record for one in rig.history("once-1")]
            return {one.evidence.counter for one in found if isinstance(one, DeviceReported)}

        await until_async(lambda: counters() == set(range(1, 21)), within=20, describe="all 20")
    assert second.end() == 0, second.text()
