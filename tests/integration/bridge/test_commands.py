"""Commands and orders on their way down."""

import asyncio
import base64
import json
import ssl
import threading
from typing import Any

import aiomqtt
import cbor2
import paho.mqtt.client as mqtt
import pytest

from schemas.commands import RefuseCertificate
from schemas.events import CommandAnswered
from schemas.topics import DEAD_LETTERS
from tests.helpers.wait import until_async
from tests.integration.bridge.rig import HOUR_MS, Bridge, Rig, install, now


async def test_a_device_chooses_json_or_cbor_and_an_expired_command_does_not_come(
    rig: Rig, bridge: Bridge
) -> None:
    """Garbage and an expired command are passed over; the valid one arrives in both forms."""
    before = bridge.metric('bridge_refused_total{reason="expired"}')
    expired = install("valve-1", "old", now() - 1)
    valid = install("valve-1", "new", now() + HOUR_MS)
    async with rig.device("valve-1") as device:
        for record in (b"garbage", expired, valid):
            rig.command("valve-1", record)
        await until_async(lambda: len(device.commands) == 2, describe="both forms of a command")
    as_json, as_cbor = device.commands
    assert as_json.topic == "devices/valve-1/commands/install-new"
    assert as_cbor.topic == f"{as_json.topic}/cbor"
    assert (as_json.content_type, as_cbor.content_type) == ("application/json", "application/cbor")
    assert 3_000 < (as_json.message_expiry_interval or 0) <= 3_600
    fields = cbor2.loads(as_cbor.payload)
    assert fields["type"] == "InstallCertificate"
    assert fields["certificate"] == b"\x00\xffDER"
    in_json = json.loads(as_json.payload)
    assert base64.b64decode(in_json.pop("certificate")) == fields.pop("certificate")
    assert in_json == fields
    (letter,) = rig.history("valve-1", DEAD_LETTERS)
    assert letter.record.payload == b"garbage"
    assert bridge.metric('bridge_refused_total{reason="expired"}') == before + 1


async def test_a_command_waits_for_a_sleeping_persistent_session(rig: Rig, bridge: Bridge) -> None:
    """What came while it slept is there when it wakes, but for what has expired meanwhile."""
    lasting: dict[str, Any] = {"clean_start": False, "session_expiry_interval": 600}
    async with rig.device("sleeper-1", **lasting):
        pass
    rig.command("sleeper-1", install("sleeper-1", "brief", now() + 1_000))
    rig.command("sleeper-1", install("sleeper-1", "long", now() + HOUR_MS))
    brief_is_over = now() + 2_100
    await until_async(lambda: now() > brief_is_over, describe="the brief one expired")
    async with rig.device("sleeper-1", **lasting) as device:
        await until_async(lambda: len(device.commands) >= 2, describe="the waiting command")
    assert {one.topic.split("/")[3] for one in device.commands} == {"install-long"}


async def test_a_clean_session_has_nothing_waiting(rig: Rig, bridge: Bridge) -> None:
    """A command for a device without a session is not kept; the next one arrives."""
    async with rig.device("clean-1"):
        pass
    sent = bridge.metric("mqtt_messages_sent")
    rig.command("clean-1", install("clean-1", "missed", now() + HOUR_MS))
    await until_async(
        lambda: bridge.metric("mqtt_messages_sent") > sent, describe="the first has gone down"
    )
    async with rig.device("clean-1") as device:
        rig.command("clean-1", install("clean-1", "heard", now() + HOUR_MS))
        await until_async(lambda: len(device.commands) == 2, describe="the second command")
    assert {one.topic.split("/")[3] for one in device.commands} == {"install-heard"}


class OldDevice:
    """A device of MQTT 3.1.1, by paho: it knows JSON, and nothing of properties."""

    def __init__(self, rig: Rig, device_id: str) -> None:
        self.device_id = device_id
        self._client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, device_id, False, protocol=mqtt.MQTTv311
        )
        identity = rig.credentials(device_id)
        context = ssl.create_default_context(cafile=str(rig.ca_file))
        context.load_cert_chain(identity.certificate_file, identity.key_file)
        self._client.tls_set_context(context)
        self._client.on_connect = self._connected
        self._client.on_message = self._heard
        self.subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: self.subscribed.set()
        self.told: list[dict[str, Any]] = []
        self._client.connect("localhost", rig.layout.device_port)
        self._client.loop_start()

    def _connected(self, client: mqtt.Client, *_: object) -> None:
        client.subscribe(
            [(f"devices/{self.device_id}/{tail}", 1) for tail in ("recorded", "commands/+")]
        )

    def _heard(self, _client: mqtt.Client, _user: object, message: mqtt.MQTTMessage) -> None:
        said = json.loads(message.payload)
        self.told.append(said)
        if "command_id" in said:
            self.say(f"replies/{said['command_id']}", {"boot": 1, "sequence": 2, "outcome": "done"})

    def say(self, tail: str, value: dict[str, Any]) -> None:
        """Publish under its own topics with QoS 1."""
        self._client.publish(f"devices/{self.device_id}/{tail}", json.dumps(value), 1)

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()


async def test_a_device_of_mqtt_3_reports_hears_a_command_and_answers(
    rig: Rig, bridge: Bridge
) -> None:
    """JSON up, `recorded` and a command down as JSON, the reply up: no content type anywhere."""
    device = OldDevice(rig, "ancient-1")
    try:
        await until_async(device.subscribed.is_set, describe="subscribed")
        device.say("events/heat", {"boot": 1, "sequence": 1, "body": 21.5})
        rig.command("ancient-1", install("ancient-1", "old", now() + HOUR_MS))

        def answers() -> list[CommandAnswered]:
            found = [one.record for one in rig.history("ancient-1")]
            return [one for one in found if isinstance(one, CommandAnswered)]

        (answered,) = await until_async(answers, describe="the answer")
        await until_async(
            lambda: {"recorded": [[1, 2]]} in device.told, describe="the reply is recorded"
        )
    finally:
        device.close()
    assert (answered.command_id, answered.outcome) == ("install-old", "done")
    assert rig.sequences("ancient-1") == [1]


async def test_a_refused_certificate_closes_the_open_session(rig: Rig, bridge: Bridge) -> None:
    """RefuseCertificate ends the session under it, and lets no new one in."""
    async with rig.device("lost-1") as device:
        fingerprint = bytes.fromhex(device.fingerprint)
        rig.command("lost-1", RefuseCertificate("refuse-1", "lost-1", 1, now(), fingerprint))
        await asyncio.wait_for(device.client.disconnected(), 10)
        with pytest.raises(aiomqtt.NegativeAckError):
            async with rig.device("lost-1"):
                pass
