"""Bad input at the door: each kind has its Reason, its dead letter, its counter; all goes on."""

import asyncio
import json
import subprocess
from typing import Any

import cbor2
import pytest

from schemas.decisions import DeadLetter
from schemas.events import DeviceReported, SessionRefused
from schemas.reasons import Reason
from schemas.topics import DEAD_LETTERS
from tests.helpers.wait import until_async
from tests.integration.bridge.rig import Bridge, Rig, all_recorded

JSON, CBOR = "application/json", "application/cbor"
LETTER_BYTES = 140_000
"""More than a message may have, less than what the broker refuses itself."""


def numbered(**fields: Any) -> dict[str, Any]:
    """Return the fields of a message with a number of its own."""
    return {"boot": 1, "sequence": 9, **fields}


@pytest.mark.parametrize(
    ("name", "tail", "payload", "content_type", "reason"),
    [
        ("json", "events/heat", b'{"boot": 1, "sequence": 9,', JSON, Reason.MALFORMED),
        ("cbor", "events/heat", b"\xa1\x01", CBOR, Reason.MALFORMED),
        ("no-map", "events/heat", b"[1, 2]", JSON, Reason.MALFORMED),
        ("numbers", "events/heat", b'{"boot": 0, "sequence": 9}', JSON, Reason.MALFORMED),
        ("long", "events/heat", b" " * LETTER_BYTES, JSON, Reason.OVERSIZE),
        ("type", "events/heat/inner", b"{}", JSON, Reason.UNKNOWN_TYPE),
        ("outcome", "replies/c", cbor2.dumps(numbered(outcome="so")), CBOR, Reason.MALFORMED),
        ("csr", "replies/c", cbor2.dumps(numbered(signing_request=b"x")), CBOR, Reason.MALFORMED),
    ],
)
async def test_a_refused_message_is_kept_counted_and_told(
    rig: Rig,
    bridge: Bridge,
    name: str,
    tail: str,
    payload: bytes,
    content_type: str,
    reason: Reason,
) -> None:
    """Its bytes stand in a dead letter; its device hears the reason, and is heard afterwards."""
    device_id = f"bad-{name}"
    counter = f'bridge_refused_total{{reason="{reason}"}}'
    before = bridge.metric(counter)
    async with rig.device(device_id) as device:
        await device.say(tail, payload, content_type)
        await until_async(lambda: device.reasons, describe="told of the refusal")
        await device.report(1)
        await all_recorded(device, 1)
    assert device.reasons == [reason]
    (letter,) = [one.record for one in rig.history(device_id, DEAD_LETTERS)]
    assert isinstance(letter, DeadLetter)
    assert (letter.reason, letter.payload) == (reason, payload)
    assert bridge.metric(counter) == before + 1


@pytest.mark.parametrize(
    ("name", "topic", "reason"),
    [
        ("foreign", "devices/victim/events/heat", Reason.FOREIGN_TOPIC),
        ("unknown", "devices/door-unknown/inventions/x", Reason.UNKNOWN_TYPE),
        ("long", f"devices/door-long/events/{'x' * 600}", Reason.OVERSIZE),
    ],
)
async def test_what_the_broker_refuses_stands_in_the_history(
    rig: Rig, bridge: Bridge, name: str, topic: str, reason: Reason
) -> None:
    """The broker takes it not; its device hears why, and the refusal is an event."""
    device_id = f"door-{name}"
    counter = f'bridge_refused_total{{reason="{reason}"}}'
    before = bridge.metric(counter)
    async with rig.device(device_id) as device:
        identifier = next(device.client.packet_ids)
        with pytest.raises(Exception, match="NOT_AUTHORIZED"):
            await device.client.publish(topic, b"{}", qos=1, packet_id=identifier)
        await until_async(lambda: device.reasons, describe="told of the refusal")
    assert device.reasons == [reason]
    refused = [one.record for one in rig.history(device_id)]
    assert [one.reason for one in refused if isinstance(one, SessionRefused)] == [reason]
    assert bridge.metric(counter) == before + 1


async def test_what_is_far_too_long_is_refused_by_the_broker(rig: Rig, bridge: Bridge) -> None:
    """A PUBLISH of more than 256 KiB is not even read whole; the next message is taken."""
    identity = rig.credentials("giant-1")
    payload = rig.layout.data_dir / "giant"
    payload.write_bytes(b" " * 300_000)
    options = {
        "-h": "localhost",
        "-p": rig.layout.device_port,
        "--cafile": rig.ca_file,
        "--cert": identity.certificate_file,
        "--key": identity.key_file,
        "-V": "mqttv5",
        "-i": "giant-1",
        "-q": 1,
        "-t": "devices/giant-1/events/heat",
        "-f": payload,
    }
    words = [str(word) for pair in options.items() for word in pair]
    done = await asyncio.to_thread(
        subprocess.run, ["mosquitto_pub", *words], capture_output=True, check=False, timeout=20
    )
    assert done.stderr, "the client was told nothing"  # its words differ between versions
    async with rig.device("giant-1") as device:
        await device.report(1)
        await all_recorded(device, 1)
    reports = [
        one.record for one in rig.history("giant-1") if isinstance(one.record, DeviceReported)
    ]
    assert [one.numbering.sequence for one in reports if one.numbering] == [1]
    assert rig.history("giant-1", DEAD_LETTERS) == []


async def test_a_clock_far_off_refuses_nothing(rig: Rig, bridge: Bridge) -> None:
    """A device's time is data: kept as it is said, beside the time of the door."""
    async with rig.device("dreamer-1") as device:
        payload = json.dumps(numbered(sequence=1, at=4_102_444_800_000)).encode()
        await device.say("events/heat", payload, JSON)
        await all_recorded(device, 1)
    (reported,) = [one.record for one in rig.history("dreamer-1") if hasattr(one.record, "said_at")]
    assert reported.said_at == 4_102_444_800_000
    assert reported.evidence.received_at < reported.said_at
