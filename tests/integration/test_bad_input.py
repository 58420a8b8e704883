"""Bad input that passes the door and meets the machine: a Reason each time, and the stack goes on.

What the door itself refuses is in tests/integration/bridge/test_refusals.py.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import cbor2
import pytest
from aiomqtt import NegativeAckError, PublishPacket
from confluent_kafka import Producer

from device.provision import DeviceCa, provision
from device.store import Identity
from protocols.mqtt import AT_LEAST_ONCE, Client
from schemas import topics
from schemas.commands import RotateCertificate
from schemas.decisions import DeadLetter, Decision
from schemas.envelope import BROADCAST_KEY
from schemas.reasons import Reason
from tests.helpers.stack import RunningStack
from tests.helpers.wait import until_async

VALID_SECONDS = 90 * 86_400
WITHIN = 20.0


def identity(stack: RunningStack, folder: Path, device_id: str, *, register: bool) -> Identity:
    """Give a device an identity of the stack's device CA, and register it where asked."""
    ca = stack.authorities.device
    made = provision(DeviceCa(ca.certificate, ca.key), device_id, folder / device_id, VALID_SECONDS)
    if register:
        stack.fleet.register(device_id, certificate=made.certificate_file.read_bytes())
    return made


@contextlib.asynccontextmanager
async def connected(stack: RunningStack, device_id: str, held: Identity) -> AsyncIterator[Client]:
    """Connect a device that hears its commands in CBOR."""
    ca = stack.layout.pki_dir / "service-ca" / "ca.pem"
    context = ssl.create_default_context(cafile=str(ca))
    context.load_cert_chain(held.certificate_file, held.key_file)
    client = Client(
        hostname="localhost",
        port=stack.layout.device_port,
        ssl_context=context,
        identifier=device_id,
        clean_start=True,
        keep_alive=30,
    )
    async with client:
        await client.subscribe(f"devices/{device_id}/commands/+/cbor", max_qos=AT_LEAST_ONCE)
        yield client


async def say(client: Client, topic: str, value: object) -> None:
    """Publish a map as CBOR with QoS 1."""
    await client.publish(
        topic,
        cbor2.dumps(value),
        qos=AT_LEAST_ONCE,
        packet_id=next(client.packet_ids),
        content_type="application/cbor",
    )


def decisions(stack: RunningStack, device_id: str) -> list[Decision]:
    """Return what the machine decided about a device."""
    key = f"device:{device_id}".encode()
    found = [one.record for one in stack.fleet.read(topics.DECISIONS) if one.key == key]
    return [one for one in found if isinstance(one, Decision)]


async def decided(stack: RunningStack, device_id: str, reason: Reason) -> Decision:
    """Wait until the machine has decided something for this reason."""
    found = await until_async(
        lambda: [one for one in decisions(stack, device_id) if one.reason == reason],
        within=WITHIN,
        describe=lambda: f"{reason}: {[(d.name, d.reason) for d in decisions(stack, device_id)]}",
    )
    return found[0]


async def test_an_unknown_device_is_recorded_and_refused(
    stack: RunningStack, tmp_path: Path
) -> None:
    """A certificate of ours that nobody registered: its event stands, the machine refuses it."""
    held = identity(stack, tmp_path, "stray-1", register=False)
    async with connected(stack, "stray-1", held) as client:
        await say(client, "devices/stray-1/events/heat", {"boot": 1, "sequence": 1})
        refused = await decided(stack, "stray-1", Reason.UNKNOWN_DEVICE)
    assert refused.name == "EventRefused"
    assert stack.fleet.find("stray-1") is None


async def test_another_devices_topic_is_a_decision(stack: RunningStack, tmp_path: Path) -> None:
    """The broker refuses the message; the machine knows who tried, under which certificate."""
    held = identity(stack, tmp_path, "thief-1", register=True)
    async with connected(stack, "thief-1", held) as client:
        with pytest.raises(NegativeAckError):
            await say(client, "devices/victim-1/events/heat", {"boot": 1, "sequence": 1})
        refused = await decided(stack, "thief-1", Reason.FOREIGN_TOPIC)
    assert refused.subject == "device:thief-1"


async def test_a_bad_signing_request_is_refused_and_nothing_is_signed(
    stack: RunningStack, tmp_path: Path
) -> None:
    """A rotation is asked for; the answer is no COSE: dead letter, and the rotation waits on."""
    held = identity(stack, tmp_path, "scrawl-1", register=True)
    await until_async(lambda: stack.fleet.find("scrawl-1"), within=WITHIN, describe="a row")
    async with connected(stack, "scrawl-1", held) as client:
        await say(client, "devices/scrawl-1/events/health", {"boot": 1, "sequence": 1})
        stack.fleet.rotate("scrawl-1")
        async with asyncio.timeout(WITHIN):
            command = await anext(client.messages())
        assert isinstance(command, PublishPacket)
        asked = cbor2.loads(command.payload)
        assert asked["type"] == RotateCertificate.__name__
        reply = {"boot": 1, "sequence": 2, "outcome": "done", "signing_request": b"scrawl"}
        await say(client, f"devices/scrawl-1/replies/{asked['command_id']}", reply)

        def letters() -> list[DeadLetter]:
            found = [one for one in stack.fleet.read(topics.DEAD_LETTERS) if one.key == b"scrawl-1"]
            return [one.record for one in found if isinstance(one.record, DeadLetter)]

        (letter,) = await until_async(letters, within=WITHIN, describe="a dead letter")
        await say(client, "devices/scrawl-1/events/health", {"boot": 1, "sequence": 3})
    assert (letter.reason, letter.payload) == (Reason.MALFORMED, cbor2.dumps(reply))
    row = stack.fleet.find("scrawl-1")
    assert row is not None
    assert len(row.certificates) == 1


@pytest.mark.parametrize("topic", [topics.DEVICE_EVENTS, topics.DEVICE_COMMANDS])
async def test_garbage_in_a_topic_is_set_aside_and_passed(
    stack: RunningStack, tmp_path: Path, topic: str
) -> None:
    """Bytes that are no record, in every partition: kept as they are, and the next is heard."""
    garbage = f"garbage of {topic}".encode()
    producer = Producer({"bootstrap.servers": stack.layout.bootstrap})
    for partition in range(stack.layout.partitions):
        producer.produce(topic, garbage, b"anyone", partition)
        producer.produce(topic, None, BROADCAST_KEY, partition)
    assert producer.flush(10) == 0

    def kept() -> bool:
        found = [one.record for one in stack.fleet.read(topics.DEAD_LETTERS)]
        letters = [one for one in found if isinstance(one, DeadLetter) and one.payload == garbage]
        return len(letters) >= stack.layout.partitions

    await until_async(kept, within=WITHIN, describe="a dead letter of each partition")
    device_id = f"after-{topic.replace('.', '-')}"
    held = identity(stack, tmp_path, device_id, register=True)
    await until_async(lambda: stack.fleet.find(device_id), within=WITHIN, describe="a row")
    async with connected(stack, device_id, held) as client:
        await say(client, f"devices/{device_id}/events/health", {"boot": 1, "sequence": 1})
        stack.fleet.rotate(device_id)
        async with asyncio.timeout(WITHIN):
            command = await anext(client.messages())
    assert isinstance(command, PublishPacket)
