"""What devices say, from their session to the history."""

import asyncio
import subprocess

import aiomqtt
import cbor2
import pytest

from schemas.decisions import DeadLetter
from schemas.events import DeviceReported, SessionOpened
from schemas.reasons import Reason
from schemas.topics import DEAD_LETTERS
from tests.helpers.wait import until_async
from tests.integration.bridge.rig import Bridge, Rig, all_recorded


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
    """A reply with an outcome that does not exist becomes a dead letter; the device learns why."""
    before = bridge.metric('bridge_refused_total{reason="malformed"}')
    async with rig.device("wrong-1") as device:
        payload = cbor2.dumps({"boot": 1, "sequence": 5, "outcome": "perhaps"})
        await device.say("replies/c-1", payload, "application/cbor")
        await until_async(lambda: device.refused, describe="told of the refusal")
    assert device.refused == {5: Reason.MALFORMED.value}
    (letter,) = rig.history("wrong-1", DEAD_LETTERS)
    assert isinstance(letter.record, DeadLetter)
    assert (letter.record.reason, letter.record.payload) == ("malformed", payload)
    assert bridge.metric('bridge_refused_total{reason="malformed"}') == before + 1
