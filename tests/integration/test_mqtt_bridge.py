"""The MQTT bridge between a real mosquitto with the plugin and a real Kafka."""

import asyncio
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator

import aiomqtt
import cbor2
import pytest

from schemas.commands import InstallCertificate, RefuseCertificate
from schemas.decisions import DeadLetter
from schemas.events import DeviceReported, SessionOpened
from schemas.reasons import Reason
from schemas.topics import DEAD_LETTERS
from tests.bridges.rig import Bridge, Device, Rig, running_rig
from tests.helpers.wait import until_async

pytestmark = pytest.mark.skipif(
    shutil.which("mosquitto_pub") is None or shutil.which("java") is None,
    reason="mosquitto, mosquitto-clients and Java are needed",
)
HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One Kafka and one mosquitto for this module; each test has devices of its own."""
    with running_rig(tmp_path_factory.mktemp("bridge")) as running:
        yield running


@pytest.fixture
async def bridge(rig: Rig) -> AsyncIterator[Bridge]:
    """One bridge; it ends well on SIGTERM, unless the test has ended it."""
    started = await rig.bridge("bridge-a")
    yield started
    if started.process.poll() is None:
        assert started.end() == 0, started.text()


def now() -> int:
    """Return the time in milliseconds."""
    return time.time_ns() // 1_000_000


async def all_recorded(device: Device, count: int, within: float = 15.0) -> None:
    """Wait until a device has been told that 1 to `count` are recorded."""
    wanted = set(range(1, count + 1))
    await until_async(
        lambda: wanted <= device.recorded,
        within=within,
        describe=lambda: f"recorded; missing {sorted(wanted - device.recorded)[:10]}",
    )


def install(device_id: str, name: str, expires_at: int) -> InstallCertificate:
    """Return a command with bytes in it."""
    return InstallCertificate(f"install-{name}", device_id, 1, now(), expires_at, b"\x00\xffDER")


async def test_an_event_carries_the_certificate_of_its_session(rig: Rig, bridge: Bridge) -> None:
    """What a device says stands in the history under the fingerprint that TLS proved."""
    async with rig.device("sensor-1") as device:
        await device.report(1)
        await all_recorded(device, 1)
        found = [one.record for one in rig.history("sensor-1")]
    reported = [one for one in found if isinstance(one, DeviceReported)]
    assert any(isinstance(one, SessionOpened) for one in found)
    assert [one.evidence.certificate_sha256.hex() for one in reported] == [device.fingerprint]


@pytest.mark.parametrize(
    "qos",
    [aiomqtt.QoS.AT_MOST_ONCE, aiomqtt.QoS.AT_LEAST_ONCE, aiomqtt.QoS.EXACTLY_ONCE],
)
async def test_every_quality_of_service_arrives(rig: Rig, bridge: Bridge, qos: aiomqtt.QoS) -> None:
    """A burst of 300 events, at each quality of service, is recorded whole and in order."""
    name = f"burst-{int(qos)}"
    async with rig.device(name) as device:
        for sequence in range(1, 301):
            await device.report(sequence, qos)
        await until_async(
            lambda: len(rig.sequences(name)) == 300,
            describe=lambda: f"{len(rig.sequences(name))} of 300 in the history",
        )
    assert rig.sequences(name) == list(range(1, 301))


async def test_a_device_of_mqtt_3_is_heard(rig: Rig, bridge: Bridge) -> None:
    """MQTT 3.1.1 has no content type: its payload is JSON, its numbers may be absent."""
    identity = rig.credentials("old-1")
    options = {
        "-h": "localhost",
        "-p": rig.layout.device_port,
        "--cafile": rig.ca_file,
        "--cert": identity.certificate_file,
        "--key": identity.key_file,
        "-V": "mqttv311",
        "-i": "old-1",
        "-q": 1,
        "-t": "devices/old-1/events/heat",
        "-m": '{"body": 21.5}',
    }
    words = [str(word) for pair in options.items() for word in pair]
    await asyncio.to_thread(subprocess.run, ["mosquitto_pub", *words], check=True, timeout=20)

    def reports() -> list[DeviceReported]:
        return [
            one.record for one in rig.history("old-1") if isinstance(one.record, DeviceReported)
        ]

    (found,) = await until_async(reports, describe="the report of old-1")
    assert (found.payload, found.numbering) == (b'{"body": 21.5}', None)
    assert found.evidence.certificate_sha256.hex() == identity.fingerprint


async def test_a_refused_message_is_kept_and_its_device_is_told(rig: Rig, bridge: Bridge) -> None:
    """An unknown topic becomes a dead letter, and the device learns the reason."""
    async with rig.device("wrong-1") as device:
        payload = cbor2.dumps({"boot": 1, "sequence": 5, "outcome": "perhaps"})
        await device.say("replies/c-1", payload, "application/cbor")
        await until_async(lambda: device.refused, describe="told of the refusal")
    assert device.refused == {5: Reason.MALFORMED.value}
    (letter,) = rig.history("wrong-1", DEAD_LETTERS)
    assert isinstance(letter.record, DeadLetter)
    assert (letter.record.reason, letter.record.payload) == ("malformed", payload)
    assert bridge.metric('bridge_refused_total{reason="malformed"}') == 1


async def test_a_command_goes_down_as_cbor_and_an_expired_one_does_not(
    rig: Rig, bridge: Bridge
) -> None:
    """Garbage and an expired command are passed over; the valid one behind them arrives."""
    expired = install("valve-1", "old", now() - 1)
    valid = install("valve-1", "new", now() + HOUR_MS)
    async with rig.device("valve-1") as device:
        for record in (b"garbage", expired, valid):
            rig.command("valve-1", record)
        await until_async(lambda: device.commands, describe="a command")
    (packet,) = device.commands
    assert packet.topic == "devices/valve-1/commands/install-new"
    assert packet.content_type == "application/cbor"
    assert 3_000 < (packet.message_expiry_interval or 0) <= 3_600
    fields = cbor2.loads(packet.payload)
    assert fields["type"] == "InstallCertificate"
    assert fields["certificate"] == b"\x00\xffDER"
    (letter,) = rig.history("valve-1", DEAD_LETTERS)
    assert letter.record.payload == b"garbage"
    assert bridge.metric('bridge_refused_total{reason="expired"}') == 1


async def test_a_refused_certificate_closes_the_open_session(rig: Rig, bridge: Bridge) -> None:
    """RefuseCertificate ends the session under it, and lets no new one in."""
    async with rig.device("lost-1") as device:
        fingerprint = bytes.fromhex(device.fingerprint)
        rig.command("lost-1", RefuseCertificate("refuse-1", "lost-1", 1, now(), fingerprint))
        await asyncio.wait_for(device.client.disconnected(), 10)
        with pytest.raises(aiomqtt.NegativeAckError):
            async with rig.device("lost-1"):
                pass


async def test_nothing_is_recorded_while_kafka_stands_still(rig: Rig, bridge: Bridge) -> None:
    """The bridge has the messages, the device is told of none, until Kafka goes on."""
    async with rig.device("patient-1") as device:
        await device.report(1)
        await all_recorded(device, 1)
        before = bridge.metric("mqtt_messages_received_total")
        rig.kafka.signal(signal.SIGSTOP)
        try:
            for sequence in range(2, 52):
                await device.report(sequence)
            await until_async(
                lambda: bridge.metric("mqtt_messages_received_total") >= before + 50,
                describe="the bridge has them",
            )
            assert device.recorded == {1}
        finally:
            rig.kafka.signal(signal.SIGCONT)
        await all_recorded(device, 51)
    assert list(dict.fromkeys(rig.sequences("patient-1"))) == list(range(1, 52))


async def test_the_broker_keeps_what_kafka_does_not_have(rig: Rig, bridge: Bridge) -> None:
    """Kafka down, bridge killed: the messages were not acknowledged, and come again."""
    async with rig.device("kept-1") as device:
        before = bridge.metric("mqtt_messages_received_total")
        rig.kafka.kill()
        for sequence in range(1, 51):
            await device.report(sequence)
        await until_async(
            lambda: bridge.metric("mqtt_messages_received_total") >= before + 50,
            describe="the bridge has them",
        )
        bridge.end(signal.SIGKILL)
        assert device.recorded == set()
        rig.kafka.start()
        second = await rig.bridge("bridge-b")
        await until_async(
            lambda: set(rig.sequences("kept-1")) == set(range(1, 51)),
            within=20,
            describe="all are in the history",
        )
    assert second.end() == 0, second.text()


async def test_kafka_may_die_at_the_moment_of_the_assignment(rig: Rig) -> None:
    """The bridge that has just got its buckets waits for Kafka, and does not abort."""
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


async def test_sigterm_ends_a_bridge_whose_broker_and_kafka_are_away(
    rig: Rig, bridge: Bridge
) -> None:
    """A command waits for a broker that is gone, Kafka stands still: the process still ends."""
    rig.broker.kill()
    rig.broker.wait()
    rig.command("waiting-1", install("waiting-1", "waiting", now() + HOUR_MS))
    rig.kafka.signal(signal.SIGSTOP)
    try:
        assert await asyncio.to_thread(bridge.end) == 0, bridge.text()
    finally:
        rig.kafka.signal(signal.SIGCONT)
        rig.start_broker()


async def test_the_bridge_outlives_the_broker(rig: Rig, bridge: Bridge) -> None:
    """The broker is killed and comes back: the bridge hears devices again by itself."""
    rig.broker.kill()
    rig.broker.wait()
    rig.start_broker()
    async with rig.device("again-1") as device:

        async def heard() -> bool:
            await device.report(1)
            return 1 in device.recorded

        await until_async(heard, within=20, describe=bridge.text)
    assert bridge.metric("mqtt_connection_errors") > 0


async def test_order_and_completeness_survive_a_killed_bridge(rig: Rig, bridge: Bridge) -> None:
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
    assert bridge.process.poll() is None, bridge.text()
    assert others[1].end() == 0, others[1].text()
