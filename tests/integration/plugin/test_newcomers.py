"""Newcomers: who comes with a provisioning certificate, and the little that it may do."""

import asyncio
import base64
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from mqtt5 import PublishPacket

from bridges.mqtt.broker import config
from bridges.mqtt.broker.build import build
from tests.integration.plugin.rig import (
    CONTROL,
    DEADLINE_SECONDS,
    MOSQUITTO,
    QOS1,
    Broker,
    Credential,
    Service,
    bucket_topic,
    client,
    cut,
    device,
    free_port,
    make_broker,
    publish,
    run,
    running,
    service,
    verified,
)

NOT_AUTHORIZED = aiomqtt.PubAckReasonCode.NOT_AUTHORIZED
ROOM = 2


@pytest.fixture(scope="module")
def open_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that lets newcomers in, two at a time."""
    folder = tmp_path_factory.mktemp("newcomers")
    with running(make_broker(folder, build(folder / "build"), {}, ROOM)) as started:
        yield started


def client_id(credential: Credential) -> str:
    """Return the client id that a newcomer must take: nobody else can have it."""
    return f"~{credential.fingerprint}"


@contextlib.asynccontextmanager
async def newcomer(
    broker: Broker, credential: Credential, **options: Any
) -> AsyncIterator[aiomqtt.Client]:
    """Connect with a maker's certificate."""
    port = broker.settings.device_port
    async with client(broker, port, credential, client_id(credential), **options) as connected:
        yield connected


async def enrols(broker: Broker, sender: aiomqtt.Client, name: str) -> None:
    """Subscribe as a newcomer does."""
    await sender.subscribe(f"newcomers/{name}/recorded", max_qos=QOS1)
    await sender.subscribe(f"newcomers/{name}/commands/+", max_qos=QOS1)


def told(bridge: Service, name: str) -> list[dict[str, Any]]:
    """Return all that was said of the sessions under a name, in its order."""
    topic = bucket_topic(name, f"sessions/{name}")
    return [json.loads(one.payload) for one in bridge.messages if one.topic == topic]


def test_a_newcomer_presents_its_certificate_once_a_session(open_broker: Broker) -> None:
    """The certificate comes whole and stamped when it asks for its commands; answers pass."""

    async def scenario() -> None:
        mine = open_broker.authority.newcomer("lamp")
        async with service(open_broker) as bridge:
            for _ in range(2):
                async with newcomer(open_broker, mine) as sender:
                    await sender.subscribe("newcomers/lamp/recorded", max_qos=QOS1)
                    await sender.subscribe("newcomers/lamp/commands/+", max_qos=QOS1)
                    await sender.subscribe("newcomers/lamp/commands/+/cbor", max_qos=QOS1)
                    await publish(sender, "newcomers/lamp/replies/c-1", b"done")
                answer = await bridge.on(bucket_topic("lamp", "newcomers/lamp/replies/c-1"))
                seen = verified(answer)
                assert seen is not None
                assert seen.sender.certificate.hex() == mine.fingerprint
                await bridge.event("lamp", "closed", seen.sender.session)
                kinds = [(one["event"], one["newcomer"]) for one in told(bridge, "lamp")]
                assert kinds == [("presented", True), ("closed", True)]
                presented = await bridge.event("lamp", "presented", seen.sender.session)
                der = base64.b64decode(str(presented["certificate_der"]), validate=True)
                assert der == mine.certificate.public_bytes(Encoding.DER)
                bridge.messages.clear()

    run(scenario)


def test_a_newcomer_that_asks_for_nothing_is_told_of_nowhere(open_broker: Broker) -> None:
    """A connection alone is no event: nothing of it reaches the history."""

    async def scenario() -> None:
        mine = open_broker.authority.newcomer("mute")
        async with service(open_broker) as bridge:
            async with newcomer(open_broker, mine):
                pass
            async with device(open_broker, open_broker.authority.device("mute")):
                pass
            await bridge.event("mute", "closed")
            assert [one["event"] for one in told(bridge, "mute")] == ["opened", "closed"]

    run(scenario)


@pytest.mark.parametrize(
    ("topic", "event", "reason"),
    [
        ("devices/poor/events/heat", "refused-message", "provisioning-only"),
        ("devices/poor/replies/c-1", "refused-message", "provisioning-only"),
        ("newcomers/poor/events/heat", "refused-message", "provisioning-only"),
        ("newcomers/poor/status", "refused-message", "provisioning-only"),
        ("newcomers/poor/replies/c-1/more", "refused-message", "provisioning-only"),
        ("newcomers/poor/commands/c-1", "refused-message", "provisioning-only"),
        ("newcomers/rich/replies/c-1", "foreign-topic", "foreign-topic"),
        ("devices/rich/events/heat", "foreign-topic", "foreign-topic"),
        ("sessions/poor", "foreign-topic", "foreign-topic"),
        ("bucket/0/newcomers/poor/replies/c-1", "foreign-topic", "foreign-topic"),
        (CONTROL, "foreign-topic", "foreign-topic"),
        ("newcomers/poor/replies/".ljust(513, "x"), "refused-message", "topic-too-long"),
    ],
)
def test_a_newcomer_says_answers_and_nothing_else(
    open_broker: Broker, topic: str, event: str, reason: str
) -> None:
    """Whatever is no answer to a command is refused and told, with its reason."""

    async def scenario() -> None:
        async with service(open_broker) as bridge:
            async with newcomer(open_broker, open_broker.authority.newcomer("poor")) as sender:
                assert await publish(sender, topic, b"forged") == NOT_AUTHORIZED
                refused = await bridge.event("poor", event)
                assert (refused["reason"], refused["newcomer"]) == (reason, True)
            assert b"forged" not in [message.payload for message in bridge.messages]

    run(scenario)


def test_a_newcomer_hears_its_enrolment_and_nothing_else(open_broker: Broker) -> None:
    """No pattern reaches into the topics of the device of its name, or of anybody."""

    async def scenario() -> None:
        mine = open_broker.authority.newcomer("curious")
        async with service(open_broker) as bridge, newcomer(open_broker, mine) as listener:
            for pattern in (
                "#", "bucket/#", "newcomers/#", "newcomers/curious/#", "newcomers/curious/+",
                "newcomers/curious/replies/+", "newcomers/+/commands/#", "newcomers/other/recorded",
                "devices/curious/commands/#", "devices/curious/recorded", "$SYS/#",
                "$share/g/newcomers/curious/commands/#",
            ):  # fmt: skip
                with pytest.raises(aiomqtt.NegativeAckError):
                    await listener.subscribe(pattern)
            assert told(bridge, "curious") == []
            await enrols(open_broker, listener, "curious")
            await publish(bridge.client, "devices/curious/commands/1", b"the device's")
            await publish(bridge.client, "newcomers/other/commands/1", b"another's")
            await publish(bridge.client, "newcomers/curious/commands/1", b"its own")
            async with asyncio.timeout(DEADLINE_SECONDS):
                message = await anext(listener.messages())
            assert isinstance(message, PublishPacket)
            assert message.payload == b"its own"

    run(scenario)


def test_a_newcomer_takes_nothing_from_the_device_of_its_name(open_broker: Broker) -> None:
    """It cannot take its session, nor write or read where the device does, nor the other way."""

    async def scenario() -> None:
        mine = open_broker.authority.newcomer("twin")
        async with (
            service(open_broker) as bridge,
            device(open_broker, open_broker.authority.device("twin")) as owner,
        ):
            await owner.subscribe("devices/twin/commands/+", max_qos=QOS1)
            for pattern in ("newcomers/twin/commands/+", "newcomers/twin/recorded"):
                with pytest.raises(aiomqtt.NegativeAckError):
                    await owner.subscribe(pattern)
            for name in ("twin", "~twin", f"~{'0' * 64}", "@twin"):
                with pytest.raises(aiomqtt.NegativeAckError, match="NOT_AUTHORIZED"):
                    async with client(open_broker, open_broker.settings.device_port, mine, name):
                        pass
            refused = await bridge.event("twin", "refused")
            assert (refused["reason"], refused["newcomer"]) == ("client-id-mismatch", True)
            async with newcomer(open_broker, mine) as other:
                await enrols(open_broker, other, "twin")
                await publish(owner, "newcomers/twin/replies/c-1", b"a device enrols")
                await publish(bridge.client, "newcomers/twin/commands/1", b"the newcomer's")
                await publish(bridge.client, "devices/twin/commands/2", b"the device's")
                async with asyncio.timeout(DEADLINE_SECONDS):
                    message = await anext(owner.messages())
                assert isinstance(message, PublishPacket)
                assert message.payload == b"the device's"
            await publish(owner, "devices/twin/status", b"still here")
            await bridge.on(bucket_topic("twin", "devices/twin/status"))
            assert not [one for one in bridge.messages if one.payload == b"a device enrols"]

    run(scenario)


def test_a_newcomers_will_is_sent_nowhere(open_broker: Broker) -> None:
    """Neither under the name of the device nor in its own tree."""

    async def scenario() -> None:
        async with service(open_broker) as bridge:
            for topic in ("devices/late/status", "newcomers/late/replies/c-1"):
                mine = open_broker.authority.newcomer("late")
                will = aiomqtt.Will(topic, payload=b"forged", qos=QOS1)
                async with newcomer(open_broker, mine, will=will) as sender:
                    await enrols(open_broker, sender, "late")
                    await cut(sender)
                await bridge.event("late", "closed")
                bridge.messages.clear()
            await publish(bridge.client, CONTROL, b"{}")
            await bridge.on(f"{CONTROL}/response")
            assert b"forged" not in [one.payload for one in bridge.messages]

    run(scenario)


def test_newcomers_are_few_and_push_no_device_out(open_broker: Broker) -> None:
    """One more than the bound ends the newcomer that came first; a device stays."""

    async def scenario() -> None:
        issue = open_broker.authority.newcomer
        async with (
            service(open_broker) as bridge,
            device(open_broker, open_broker.authority.device("old")) as owner,
            newcomer(open_broker, issue("one")) as first,
            newcomer(open_broker, issue("two")) as second,
            newcomer(open_broker, issue("three")),
        ):
            await asyncio.wait_for(first.disconnected(), DEADLINE_SECONDS)
            refused = await bridge.event("one", "refused")
            assert (refused["reason"], refused["reason_code"]) == ("too-many-newcomers", 151)
            await publish(second, "newcomers/two/replies/c-1", b"")
            await bridge.on(bucket_topic("two", "newcomers/two/replies/c-1"))
            await publish(owner, "devices/old/status", b"")
            await bridge.on(bucket_topic("old", "devices/old/status"))

    run(scenario)


def test_a_certificate_that_has_enrolled_is_good_for_nothing(open_broker: Broker) -> None:
    """A refused certificate is cut off and let in no more; so are all of a refused name."""

    async def scenario() -> None:
        mine, device_ones = open_broker.authority.newcomer("done"), open_broker.authority
        async with service(open_broker) as bridge:
            async with newcomer(open_broker, mine) as sender:
                await enrols(open_broker, sender, "done")
                answer = await bridge.order(refuse={"certificate": mine.fingerprint})
                assert (answer["ok"], answer["closed"]) == (True, 1)
                await asyncio.wait_for(sender.disconnected(), DEADLINE_SECONDS)
            with pytest.raises(aiomqtt.NegativeAckError, match="NOT_AUTHORIZED"):
                async with newcomer(open_broker, mine):
                    pass
            assert (await bridge.event("done", "refused"))["reason"] == "refused-certificate"
            async with (
                device(open_broker, device_ones.device("done")) as owner,
                newcomer(open_broker, device_ones.newcomer("done")) as other,
            ):
                assert (await bridge.order(refuse={"device": "done"}))["closed"] == 2
                for one in (owner, other):
                    await asyncio.wait_for(one.disconnected(), DEADLINE_SECONDS)

    run(scenario)


def test_both_twins_of_a_certificate_that_has_enrolled_are_cut_off(open_broker: Broker) -> None:
    """As newcomers they are two, each with a session of its own: one order ends both."""

    async def scenario() -> None:
        mine, authority = open_broker.authority.newcomer("double"), open_broker.authority
        other = authority.twin(mine, authority.makers)
        async with (
            service(open_broker) as bridge,
            newcomer(open_broker, mine) as first,
            newcomer(open_broker, other) as second,
        ):
            answer = await bridge.order(refuse={"certificate": mine.fingerprint})
            assert (answer["ok"], answer["closed"]) == (True, 2)
            for one in (first, second):
                await asyncio.wait_for(one.disconnected(), DEADLINE_SECONDS)

    run(scenario)


def test_only_the_named_ca_itself_makes_newcomers(open_broker: Broker, tmp_path: Path) -> None:
    """Its root is not trusted, though TLS gets by without it; what stands under it is refused."""

    async def scenario() -> None:
        authority = open_broker.authority
        urn = x509.UniformResourceIdentifier("urn:fleetcert:device:false")
        above = authority.issue("false", authority.makers_root, sans=[urn])
        with pytest.raises((OSError, aiomqtt.ConnectError)):
            async with newcomer(open_broker, above):
                pass
        below = authority.issue("another CA", authority.makers, ca=True)
        false = authority.issue("false", below, sans=[urn])
        async with service(open_broker) as bridge:
            with pytest.raises(aiomqtt.NegativeAckError, match="NOT_AUTHORIZED"):
                async with newcomer(open_broker, false):
                    pass
            assert (await bridge.event("@unknown", "refused"))["reason"] == "unknown-issuer"

    run(scenario)


def test_a_certificate_is_told_up_to_a_bound(open_broker: Broker) -> None:
    """A longer one is refused when it would be told, by its reason."""

    async def scenario() -> None:
        authority, oid = open_broker.authority, x509.ObjectIdentifier("2.25.1")
        async with service(open_broker) as bridge:
            for size, event in ((14_000, "presented"), (17_000, "refused-message")):
                padding = x509.UnrecognizedExtension(oid, bytes(size))
                mine = authority.newcomer("long", further=padding)
                async with newcomer(open_broker, mine) as sender:
                    with contextlib.suppress(aiomqtt.NegativeAckError):
                        await sender.subscribe("newcomers/long/commands/+", max_qos=QOS1)
                    said = await bridge.event("long", event)
            assert said["reason"] == "certificate-too-long"

    run(scenario)


def test_nobody_is_a_newcomer_by_default(broker: Broker) -> None:
    """Without a provisioning CA the handshake fails, and no trust file is written."""

    async def scenario() -> None:
        assert broker.settings.device_trust == broker.settings.device_ca
        with pytest.raises((OSError, aiomqtt.ConnectError)):
            async with newcomer(broker, broker.authority.newcomer("lamp")):
                pass

    run(scenario)


@pytest.mark.parametrize("whose", ["devices", "services"])
def test_an_authority_of_ours_is_no_provisioning_ca(
    broker: Broker, tmp_path: Path, whose: str
) -> None:
    """Named by mistake, it would weaken our own: the broker does not start."""
    ours = tmp_path / "ours.pem"
    authority: Credential = getattr(broker.authority, whose)
    ours.write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    settings = replace(
        broker.settings, data_dir=tmp_path, device_port=free_port(), service_port=free_port(),
        provisioning_issuers=ours, newcomers_max=1,
    )  # fmt: skip
    path = config.write(settings)
    done = subprocess.run(
        [str(MOSQUITTO), "-c", str(path)], capture_output=True, timeout=5, check=False
    )
    assert done.returncode != 0
    assert b"it is the makers' list" in done.stderr


def test_the_trusted_form_is_openssls(open_broker: Broker, tmp_path: Path) -> None:
    """Byte for byte what `openssl x509 -trustout -addtrust clientAuth` writes."""
    given = tmp_path / "makers.pem"
    certificate = open_broker.authority.makers.certificate
    given.write_bytes(certificate.public_bytes(Encoding.PEM))
    said = subprocess.run(
        ["openssl", "x509", "-in", str(given), "-trustout", "-addtrust", "clientAuth"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout == config.trusted_for_clients(certificate)
