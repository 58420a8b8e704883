"""Sessions of devices and of buckets: how they end, what they leave, what the door says of them."""

import asyncio
import signal
import ssl
import time

import aiomqtt
import pytest
from mqtt5 import ConnAckPacket, ConnectPacket, read

from schemas.envelope import BROADCAST_KEY
from schemas.events import DoorServed, SessionClosed, SessionOpened
from tests.helpers.wait import until_async
from tests.integration.bridge.rig import BUCKETS, PARTITIONS, QOS1, Bridge, Rig


def closings(rig: Rig, device_id: str) -> list[SessionClosed]:
    """Return what the history says of a device's ended sessions."""
    found = [one.record for one in rig.history(device_id)]
    return [one for one in found if isinstance(one, SessionClosed)]


async def test_a_session_without_a_sign_of_life_is_closed(rig: Rig, bridge: Bridge) -> None:
    """A device that says it will speak each second, and does not, is told of as gone."""
    identity = rig.credentials("mute-1")
    context = ssl.create_default_context(cafile=str(rig.ca_file))
    context.load_cert_chain(identity.certificate_file, identity.key_file)
    reader, writer = await asyncio.open_connection(
        "localhost", rig.layout.device_port, ssl=context, server_hostname="localhost"
    )
    writer.write(ConnectPacket(client_id="mute-1", clean_start=True, keep_alive=1).write())
    packet, _ = read(memoryview(await reader.read(1024)))
    assert isinstance(packet, ConnAckPacket)
    await until_async(lambda: closings(rig, "mute-1"), within=20, describe="told as closed")
    assert await asyncio.wait_for(reader.read(), 5) is not None
    writer.transport.abort()
    opened = [one.record for one in rig.history("mute-1")]
    assert [type(one) for one in opened] == [SessionOpened, SessionClosed]


async def test_birth_and_will_are_hints(rig: Rig, bridge: Bridge) -> None:
    """Both are counted and recorded nowhere; the broker's own word on the session is."""
    kinds = ("birth", "will")
    before = {one: bridge.metric(f'mqtt_hints_total{{kind="{one}"}}') for one in kinds}
    will = aiomqtt.Will("devices/mortal-1/status", payload=b'{"status": "offline"}', qos=QOS1)
    async with rig.device("mortal-1", will=will) as device:
        await device.say("status", b'{"status": "online"}', "application/json")
        device.client.abort()
    for kind in kinds:
        name = f'mqtt_hints_total{{kind="{kind}"}}'
        await until_async(
            lambda name=name, kind=kind: bridge.metric(name) == before[kind] + 1, describe=name
        )
    await until_async(lambda: closings(rig, "mortal-1"), describe="told as closed")
    found = [type(one.record) for one in rig.history("mortal-1")]
    assert found == [SessionOpened, SessionClosed]


def words(rig: Rig) -> list[tuple[int, DoorServed]]:
    """Return all heartbeats of the door, with their partitions."""
    return [
        (one.partition, one.record)
        for one in rig.fleet.read("device.events")
        if one.key == BROADCAST_KEY and isinstance(one.record, DoorServed)
    ]


async def test_the_door_tells_what_it_serves_and_only_while_it_does(rig: Rig) -> None:
    """Every share in every partition, with rising numbers; nothing while the broker is down."""
    rig.end_the_bridge()
    before = time.time_ns() // 1_000_000  # other bridges' words may still arrive, and out of order
    bridge = await rig.bridge("bridge-heart", "--heartbeat-seconds", "0.5")
    wanted = {(partition, share) for partition in range(PARTITIONS) for share in range(BUCKETS)}

    def since(number: int) -> set[tuple[int, int]]:
        return {(at, one.share) for at, one in words(rig) if one.number > number}

    await until_async(lambda: since(before) == wanted, describe="all shares in all partitions")
    rig.broker.kill()
    rig.broker.wait()
    await until_async(
        lambda: sum(one["event"] == "bucket.lost" for one in bridge.said()) >= BUCKETS,
        describe="every bucket is lost",
    )
    last = max(one.number for _, one in words(rig))
    with pytest.raises(AssertionError, match="a word"):
        await until_async(lambda: since(last + 500), within=1.5, describe="a word of a lost bucket")
    rig.start_broker()
    await until_async(lambda: since(last) == wanted, within=20, describe="all are told of again")
    assert bridge.end() == 0, bridge.text()
    told = [(at, one) for at, one in words(rig) if one.number > before]
    for share in range(BUCKETS):
        numbers = [one.number for at, one in told if one.share == share and at == 0]
        assert numbers == sorted(set(numbers))
    assert {(one.door, one.shares) for _, one in told} == {("mqtt", BUCKETS)}


async def test_a_broker_that_stands_still_is_not_served(rig: Rig) -> None:
    """SIGSTOP breaks no connection; the door notices within a keep-alive that nothing comes."""
    rig.end_the_bridge()
    options = ("--heartbeat-seconds", "0.5", "--keep-alive-seconds", "2")
    bridge = await rig.bridge("bridge-still", *options)
    await until_async(lambda: words(rig), describe="the door is served")

    def newest() -> int:
        return max(one.number for _, one in words(rig))

    rig.broker.send_signal(signal.SIGSTOP)
    stopped = time.time_ns() // 1_000_000
    try:
        with pytest.raises(AssertionError, match="a word"):
            await until_async(
                lambda: newest() > stopped + 2_500, within=5, describe="a word of a mute broker"
            )
    finally:
        rig.broker.send_signal(signal.SIGCONT)
    await until_async(lambda: newest() > stopped + 5_000, within=20, describe="served again")
    assert bridge.end() == 0, bridge.text()
