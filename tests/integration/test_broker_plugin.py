"""The broker's identity plugin, against a real mosquitto, with certificates made here."""

import asyncio
import contextlib
import datetime
import json
import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from mqtt5 import PublishPacket

from bridges.mqtt.broker import config, release, stamp
from bridges.mqtt.broker.build import build
from schemas.shares import share_of

BUCKETS = 8
SECRET = bytes(range(32))
DEADLINE_SECONDS = 5.0
CONTROL = "$CONTROL/fleetcert/v1"
QOS1 = aiomqtt.QoS.AT_LEAST_ONCE

MOSQUITTO = release.program()
pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


# ---- certificates ----


@dataclass(frozen=True)
class Credential:
    """A certificate and its key, on disk, with the chain that its holder sends."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    chain_file: Path
    key_file: Path

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the DER, in hexadecimal."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()


@dataclass
class Authority:
    """A root, a device authority under it, a service authority beside it, and all they issue."""

    folder: Path
    issued: int = 0
    root: Credential = field(init=False)
    devices: Credential = field(init=False)
    services: Credential = field(init=False)

    def __post_init__(self) -> None:
        """Make the three authorities."""
        self.root = self.issue("root", None, ca=True)
        self.devices = self.issue("device CA", self.root, ca=True)
        self.services = self.issue("service CA", None, ca=True)

    def issue(
        self,
        name: str,
        issuer: Credential | None,
        *,
        ca: bool = False,
        sans: Sequence[x509.GeneralName] | None = None,
    ) -> Credential:
        """Make a key and a certificate for it."""
        self.issued += 1
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.certificate.subject if issuer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        # what RFC 5280 asks for; Python 3.13 refuses a chain without it
        signer = (issuer.key if issuer else key).public_key()
        known_by = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        signed_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer)
        builder = builder.add_extension(known_by, critical=False)
        builder = builder.add_extension(signed_by, critical=False)
        if ca:
            usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True)
        if sans:
            builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
        made = builder.sign(issuer.key if issuer else key, hashes.SHA256())
        chain = [made] if ca or issuer is None else [made, issuer.certificate]
        return self._save(made, key, chain)

    def device(self, name: str, *, issuer: Credential | None = None, uri: str = "") -> Credential:
        """Issue a device certificate: SAN URI and CN name the same device, unless told."""
        urn = x509.UniformResourceIdentifier(uri or f"urn:fleetcert:device:{name}")
        return self.issue(name, issuer or self.devices, sans=[urn])

    def _save(
        self, made: x509.Certificate, key: ec.EllipticCurvePrivateKey, chain: list[x509.Certificate]
    ) -> Credential:
        """Write PEM files that TLS libraries can read."""
        pem = serialization.Encoding.PEM
        chain_file = self.folder / f"{self.issued}.crt"
        key_file = self.folder / f"{self.issued}.key"
        chain_file.write_bytes(b"".join(each.public_bytes(pem) for each in chain))
        key_file.write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return Credential(made, key, chain_file, key_file)


# ---- the broker ----


@dataclass
class Broker:
    """A running mosquitto with the plugin on both listeners."""

    settings: config.BrokerSettings
    authority: Authority
    environment: dict[str, str]
    extra: str = ""
    """A line more for the device listener."""
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Write its files, start it, and wait until it says that it runs."""
        assert MOSQUITTO is not None
        path = config.write(self.settings)
        listener = f"listener {self.settings.device_port} {self.settings.host}\n"
        text = path.read_text().replace(listener, f"{listener}{self.extra}\n")
        path.write_text(text)
        seen = len(self.errors())
        with self._log.open("ab") as errors:
            self.process = subprocess.Popen(
                [MOSQUITTO, "-c", str(path)], stderr=errors, env=os.environ | self.environment
            )
        self.await_log("running", seen)

    @property
    def _log(self) -> Path:
        return self.settings.data_dir / "stderr.txt"

    def await_log(self, text: str, seen: int) -> None:
        """Wait until a text stands in the log, after what was there before."""
        assert self.process is not None
        deadline = time.monotonic() + DEADLINE_SECONDS
        while text not in self.errors()[seen:]:
            assert self.process.poll() is None, self.errors()
            assert time.monotonic() < deadline, f"no {text!r}: {self.errors()}"

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it with a signal; give its exit status."""
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(DEADLINE_SECONDS)

    def errors(self) -> str:
        """Give what it wrote to its log."""
        return self._log.read_text() if self._log.exists() else ""


def free_port() -> int:
    """Find a port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def make_broker(folder: Path, library: Path, environment: dict[str, str]) -> Broker:
    """Prepare keys, secret and settings; the broker is not started."""
    authority = Authority(folder)
    server = authority.issue(
        "broker", authority.root, sans=[x509.IPAddress(ip_address("127.0.0.1"))]
    )
    trust = folder / "device-trust.pem"
    trust.write_bytes(
        authority.devices.chain_file.read_bytes() + authority.root.chain_file.read_bytes()
    )
    secret = folder / "secret"
    secret.write_bytes(SECRET)
    settings = config.BrokerSettings(
        data_dir=folder / "data",
        device_ca=trust,
        service_ca=authority.services.chain_file,
        device_issuers=authority.devices.chain_file,
        server_cert=server.chain_file,
        server_key=server.key_file,
        plugin=library,
        secret_file=secret,
        host="127.0.0.1",
        device_port=free_port(),
        service_port=free_port(),
        buckets=BUCKETS,
        keepalive_seconds_max=release.keepalive_seconds_max(release.installed()),
        user="root" if os.getuid() == 0 else None,
    )
    return Broker(settings, authority, environment)


@contextlib.contextmanager
def running(broker: Broker) -> Iterator[Broker]:
    """Hold a broker up, and see that it ends well."""
    broker.start()
    try:
        yield broker
    finally:
        status = broker.stop()
        assert status == 0, broker.errors()
        assert "Sanitizer" not in broker.errors()
        assert "runtime error" not in broker.errors()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One broker for all tests of this module; each test has devices of its own."""
    folder = tmp_path_factory.mktemp("broker")
    with running(make_broker(folder, build(folder / "build"), {})) as started:
        yield started


# ---- clients ----


def tls(broker: Broker, credential: Credential) -> ssl.SSLContext:
    """Give a TLS context that shows a certificate."""
    context = ssl.create_default_context(cafile=str(broker.authority.root.chain_file))
    context.load_cert_chain(credential.chain_file, credential.key_file)
    return context


def device(
    broker: Broker, credential: Credential, **options: Any
) -> contextlib.AbstractAsyncContextManager[aiomqtt.Client]:
    """Connect a client on the device listener, named as its certificate names it."""
    name = credential.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    return client(broker, broker.settings.device_port, credential, str(name), **options)


@contextlib.asynccontextmanager
async def client(
    broker: Broker, port: int, credential: Credential, identifier: str, **options: Any
) -> AsyncIterator[aiomqtt.Client]:
    """Connect an MQTT 5 client, and disconnect it whatever is still on its way to it."""
    arguments: dict[str, Any] = {"identifier": identifier, "clean_start": True, **options}
    connecting = aiomqtt.Client(
        hostname="127.0.0.1",
        port=port,
        ssl_context=tls(broker, credential),
        **arguments,
    )
    await connecting.__aenter__()
    try:
        yield connecting
    finally:
        with contextlib.suppress(ssl.SSLError):  # data after close_notify
            await connecting.__aexit__(None, None, None)


@dataclass
class Service:
    """A service client that keeps every message it gets."""

    client: aiomqtt.Client
    messages: list[PublishPacket] = field(default_factory=list)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def listen(self) -> None:
        """Keep and acknowledge messages until cancelled."""
        async for message in self.client.messages():
            assert isinstance(message, PublishPacket)
            if message.packet_id is not None:
                await self.client.puback(message.packet_id)
            async with self.arrived:
                self.messages.append(message)
                self.arrived.notify_all()

    async def wait(self, wanted: Callable[[PublishPacket], bool]) -> PublishPacket:
        """Wait for the first message that is wanted."""
        async with asyncio.timeout(DEADLINE_SECONDS), self.arrived:
            await self.arrived.wait_for(lambda: any(map(wanted, self.messages)))
        return next(filter(wanted, self.messages))

    async def on(self, topic: str) -> PublishPacket:
        """Wait for a message on a topic."""
        return await self.wait(lambda message: message.topic == topic)

    async def event(self, name: str, kind: str, session: str = "") -> dict[str, object]:
        """Wait for an event of a device's sessions, verify its stamp, and give its content."""

        def wanted(message: PublishPacket) -> bool:
            if message.topic != bucket_topic(name, f"sessions/{name}"):
                return False
            content = json.loads(message.payload)
            return content["event"] == kind and session in ("", content["session"])

        message = await self.wait(wanted)
        seen = stamp.verify(message.user_properties, message.payload, SECRET)
        content: dict[str, object] = json.loads(message.payload)
        assert seen is not None
        assert (seen.client, seen.topic) == (name, f"sessions/{name}")
        assert (seen.session, seen.certificate.hex()) == (
            content["session"],
            content["certificate"],
        )
        assert message.qos == QOS1
        assert not message.retain
        return content

    async def order(self, **order: object) -> dict[str, object]:
        """Give the plugin an order; wait for the answer with the same id."""
        identifier = os.urandom(8).hex()
        await publish(self.client, CONTROL, json.dumps({"id": identifier, **order}).encode())
        answer = await self.wait(
            lambda message: (
                message.topic == f"{CONTROL}/response"
                and json.loads(message.payload).get("id") == identifier
            )
        )
        content: dict[str, object] = json.loads(answer.payload)
        return content


@contextlib.asynccontextmanager
async def service(broker: Broker, **options: Any) -> AsyncIterator[Service]:
    """Connect a service that listens to all buckets."""
    credential = broker.authority.issue("console", broker.authority.services)
    identifier = str(options.pop("identifier", f"@test-{os.urandom(4).hex()}"))
    port = broker.settings.service_port
    async with client(broker, port, credential, identifier, **options) as connected:
        listener = Service(connected)
        listening = asyncio.create_task(listener.listen())
        for pattern in ("bucket/#", "devices/+/status", f"{CONTROL}/response"):
            await connected.subscribe(pattern, max_qos=QOS1)
        try:
            yield listener
        finally:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError, aiomqtt.ConnectError):
                await listening


async def publish(
    sender: aiomqtt.Client, topic: str, payload: bytes, **options: Any
) -> aiomqtt.PubAckReasonCode:
    """Publish with QoS 1; give the broker's answer, a refusal included."""
    try:
        await asyncio.wait_for(
            sender.publish(
                topic,
                payload,
                qos=QOS1,
                packet_id=next(sender.packet_ids),
                **options,
            ),
            DEADLINE_SECONDS,
        )
    except aiomqtt.NegativeAckError as refusal:
        if "NOT_AUTHORIZED" not in str(refusal):
            raise
        return aiomqtt.PubAckReasonCode.NOT_AUTHORIZED
    return aiomqtt.PubAckReasonCode.SUCCESS


async def cut(sender: aiomqtt.Client) -> None:
    """Break a connection without a DISCONNECT, so that its will is sent."""
    sender._writer.transport.abort()  # no public way: the library always says goodbye
    await asyncio.wait_for(sender.disconnected(), DEADLINE_SECONDS)


def bucket_topic(name: str, topic: str) -> str:
    """Give the topic that the plugin makes of a device's topic."""
    return f"bucket/{share_of(name, BUCKETS)}/{topic}"


def forged(fingerprint: str) -> list[tuple[str, str]]:
    """Give stamp properties as somebody without the secret would write them."""
    return [
        ("fleetcert-certificate", fingerprint),
        ("fleetcert-client", "victim"),
        ("fleetcert-session", "0" * 32),
        ("fleetcert-counter", "1"),
        ("fleetcert-address", "127.0.0.1"),
        ("fleetcert-topic", "devices/victim/status"),
        ("fleetcert-mac", "0" * 64),
        ("FleetCert-mac", "0" * 64),
    ]


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a scenario within a time limit, on a loop of its own."""

    async def limited() -> None:
        await asyncio.wait_for(scenario(), 4 * DEADLINE_SECONDS)

    asyncio.run(limited())


# ---- the stamp ----


def test_a_message_is_stamped_with_its_session(broker: Broker) -> None:
    """A PUBLISH arrives in its bucket with a stamp that verifies, numbered from 1."""

    async def scenario() -> None:
        credential = broker.authority.device("stamped")
        async with service(broker) as bridge, device(broker, credential) as sender:
            for number in (1, 2):
                topic = f"devices/stamped/events/e{number}"
                await publish(sender, topic, b"payload", content_type="application/json")
                message = await bridge.on(bucket_topic("stamped", topic))
                seen = stamp.verify(message.user_properties, message.payload, SECRET)
                assert seen is not None
                assert seen.certificate.hex() == credential.fingerprint
                assert (seen.client, seen.counter) == ("stamped", number)
                assert (seen.address, seen.topic) == ("127.0.0.1", topic)
                assert message.content_type == "application/json"
                opened = await bridge.event("stamped", "opened")
                assert opened["session"] == seen.session
                assert stamp.verify(message.user_properties, b"other", SECRET) is None
                assert stamp.verify(message.user_properties, b"payload", bytes(32)) is None

    run(scenario)


def test_forged_stamps_are_removed(broker: Broker) -> None:
    """What a device writes under the plugin's names is taken out; its own properties stay."""

    async def scenario() -> None:
        credential = broker.authority.device("forger")
        async with service(broker) as bridge, device(broker, credential) as sender:
            properties = [("mine", "1"), *forged("f" * 64), ("mine", "2"), ("fleetcert-x", "y")]
            options: dict[str, Any] = {"user_properties": properties, "correlation_data": b"\0\1"}
            options |= {"response_topic": "answer"}
            await publish(sender, "devices/forger/status", b"", **options)
            message = await bridge.on(bucket_topic("forger", "devices/forger/status"))
            seen = stamp.verify(message.user_properties, message.payload, SECRET)
            assert seen is not None
            assert seen.client == "forger"
            assert message.user_properties[:2] == [("mine", "1"), ("mine", "2")]
            assert len(message.user_properties) == 2 + 7
            assert (message.correlation_data, message.response_topic) == (b"\0\1", "answer")

    run(scenario)


def test_an_old_device_is_stamped_too(broker: Broker) -> None:
    """A device that speaks MQTT 3.1.1 needs nothing from MQTT 5 to be stamped."""

    async def scenario() -> None:
        credential = broker.authority.device("old")
        async with service(broker) as bridge:
            command = ["mosquitto_pub", "-V", "311", "-h", "127.0.0.1", "-i", "old", "-q", "1"]
            command += ["-p", str(broker.settings.device_port), "-m", "{}"]
            command += ["-t", "devices/old/events/boot", "--tls-version", "tlsv1.3"]
            command += ["--cafile", str(broker.authority.root.chain_file)]
            command += ["--cert", str(credential.chain_file), "--key", str(credential.key_file)]
            done = await asyncio.to_thread(subprocess.run, command, check=False, timeout=5)
            assert done.returncode == 0
            message = await bridge.on(bucket_topic("old", "devices/old/events/boot"))
            seen = stamp.verify(message.user_properties, message.payload, SECRET)
            assert seen is not None
            assert seen.certificate.hex() == credential.fingerprint
            assert (await bridge.event("old", "closed"))["reason"] == "disconnected"

    run(scenario)


@pytest.mark.parametrize("delay", [0, 1])
def test_a_will_never_verifies(broker: Broker, delay: int) -> None:
    """A will comes out unstamped, on the device's own topic, at once or later."""

    async def scenario() -> None:
        name = f"dying-{delay}"
        credential = broker.authority.device(name)
        will = aiomqtt.Will(
            f"devices/{name}/status",
            payload=b"gone",
            qos=QOS1,
            will_delay_interval=delay,
            user_properties=forged(credential.fingerprint),
        )
        async with service(broker) as bridge:
            options: dict[str, Any] = {"will": will, "session_expiry_interval": 60}
            async with device(broker, credential, **options) as sender:
                await bridge.event(name, "opened")
                await cut(sender)
                message = await bridge.on(f"devices/{name}/status")
            assert stamp.verify(message.user_properties, message.payload, SECRET) is None
            assert (await bridge.event(name, "closed"))["reason"] == "disconnected"
            assert not any(
                each.topic.endswith(f"devices/{name}/status") and each.topic.startswith("bucket")
                for each in bridge.messages
            )

    run(scenario)


@pytest.mark.parametrize(
    ("topic", "retain"),
    [
        ("devices/mortal/status", True),
        ("devices/mortal/events/x", False),
        ("devices/mortal/commands/x", False),
        ("devices/victim/status", False),
        ("devices/victim/commands/x", False),
        ("bucket/0/devices/mortal/status", False),
    ],
)
def test_other_wills_are_dropped(broker: Broker, topic: str, retain: bool) -> None:
    """A will is never retained, and speaks on the device's own status topic only."""

    async def scenario() -> None:
        credential = broker.authority.device("mortal")
        async with service(broker) as bridge:
            before = (await bridge.order(status={}))["refused_messages"]
            will = aiomqtt.Will(topic, payload=b'{"status":{}}', qos=QOS1, retain=retain)
            async with device(broker, credential, will=will) as sender:
                await bridge.event("mortal", "opened")
                await cut(sender)
                await bridge.event("mortal", "closed")
            after = (await bridge.order(status={}))["refused_messages"]
            assert after == int(str(before)) + 1
            assert topic not in [message.topic for message in bridge.messages]
            assert b'{"status":{}}' not in [message.payload for message in bridge.messages]

    run(scenario)


def test_a_will_gives_no_order(broker: Broker) -> None:
    """An order as a device's will is dropped; a newer broker refuses the whole connection."""

    async def scenario() -> None:
        credential = broker.authority.device("plotter")
        async with service(broker) as bridge:
            before = (await bridge.order(status={}))["refusals"]
            will = aiomqtt.Will(CONTROL, payload=b'{"refuse":{"device":"victim"}}', qos=QOS1)
            with contextlib.suppress(aiomqtt.ConnectError):
                async with device(broker, credential, will=will) as sender:
                    await bridge.event("plotter", "opened")
                    await cut(sender)
                    await bridge.event("plotter", "closed")
            assert (await bridge.order(status={}))["refusals"] == before

    run(scenario)


def test_a_will_of_a_session_taken_over_is_judged_as_a_will(broker: Broker) -> None:
    """The newer connection of the same device does not lend its session to the old will."""

    async def scenario() -> None:
        credential = broker.authority.device("twice")
        will = aiomqtt.Will("devices/twice/events/x", payload=b"forged", qos=QOS1)
        async with service(broker) as bridge:
            async with device(broker, credential, will=will) as first:
                one = await bridge.event("twice", "opened")
                async with device(broker, credential) as second:
                    closed = await bridge.event("twice", "closed", str(one["session"]))
                    assert closed["reason"] == "taken-over"
                    await publish(second, "devices/twice/events/y", b"mine")
                    await bridge.on(bucket_topic("twice", "devices/twice/events/y"))
                    await asyncio.wait_for(first.disconnected(), DEADLINE_SECONDS)
            assert not [each for each in bridge.messages if each.payload == b"forged"]

    run(scenario)


def test_nothing_of_a_device_is_retained(broker: Broker) -> None:
    """A retained PUBLISH is delivered once, and not replayed to whoever subscribes later."""

    async def scenario() -> None:
        topic = "devices/keeper/status"
        async with device(broker, broker.authority.device("keeper")) as sender:
            async with service(broker) as bridge:
                await publish(sender, topic, b"birth", retain=True)
                assert not (await bridge.on(bucket_topic("keeper", topic))).retain
            async with service(broker) as late:
                await publish(sender, topic, b"second")
                await late.wait(lambda message: message.payload == b"second")
                assert not [each for each in late.messages if each.payload == b"birth"]

    run(scenario)


# ---- topics ----


@pytest.mark.parametrize(
    "topic", ["devices/victim/status", "devices/roam", "devices/roamer/status", "bucket/0/x", "x"]
)
def test_a_foreign_topic_is_refused_and_told(broker: Broker, topic: str) -> None:
    """A device that writes outside its own topics is refused, and the bridge hears of it."""

    async def scenario() -> None:
        credential = broker.authority.device("roam")
        async with service(broker) as bridge, device(broker, credential) as sender:
            session = (await bridge.event("roam", "opened"))["session"]
            assert (
                await publish(sender, topic, b"forged") == aiomqtt.PubAckReasonCode.NOT_AUTHORIZED
            )
            told = await bridge.event("roam", "foreign-topic", str(session))
            assert (told["topic"], told["certificate"]) == (topic, credential.fingerprint)
            assert b"forged" not in [message.payload for message in bridge.messages]

    run(scenario)


def test_refused_messages_are_told_sixteen_times(broker: Broker) -> None:
    """A device cannot flood the history with refusals: the rest of them is only counted."""

    async def scenario() -> None:
        async with service(broker) as bridge:
            async with device(broker, broker.authority.device("noisy")) as sender:
                for _ in range(40):
                    await publish(sender, "devices/victim/status", b"")
            closed = await bridge.event("noisy", "closed")
            told = [each for each in bridge.messages if b"foreign-topic" in each.payload]
            assert (closed["refused_messages"], len(told)) == (40, 16)

    run(scenario)


def test_properties_and_topics_are_bounded(broker: Broker) -> None:
    """33 user properties, or a topic of 513 bytes, are refused; one less passes."""

    async def scenario() -> None:
        async with service(broker) as bridge:
            async with device(broker, broker.authority.device("big")) as sender:
                prefix = "devices/big/events/"
                for many, refused in ((32, False), (33, True)):
                    answer = await publish(
                        sender, f"{prefix}{many}", b"", user_properties=[("a", "b")] * many
                    )
                    assert (answer == aiomqtt.PubAckReasonCode.NOT_AUTHORIZED) == refused
                for size, refused in ((512, False), (513, True)):
                    answer = await publish(sender, prefix.ljust(size, "x"), b"")
                    assert (answer == aiomqtt.PubAckReasonCode.NOT_AUTHORIZED) == refused
            reasons = [
                content["reason"]
                for content in map(json.loads, [m.payload for m in bridge.messages if m.payload])
                if content["event"] == "refused-message"
            ]
            assert reasons == ["too-many-properties", "topic-too-long"]

    run(scenario)


def test_a_device_hears_only_its_own_commands(broker: Broker) -> None:
    """A command reaches its device; foreign, wide and shared subscriptions are refused."""

    async def scenario() -> None:
        credential = broker.authority.device("hearer")
        async with service(broker) as bridge, device(broker, credential) as listener:
            await listener.subscribe("devices/hearer/commands/#", max_qos=QOS1)
            for pattern in (
                "#",
                "bucket/#",
                "devices/+/commands/#",
                "devices/victim/#",
                "$share/g/bucket/#",
                "$share/g/devices/hearer/#",
                "$SYS/#",
            ):
                with pytest.raises(aiomqtt.NegativeAckError):
                    await listener.subscribe(pattern)
            await publish(bridge.client, "devices/victim/commands/1", b"not for it")
            await publish(bridge.client, "devices/hearer/commands/1", b"for it")
            async with asyncio.timeout(DEADLINE_SECONDS):
                message = await anext(listener.messages())
            assert isinstance(message, PublishPacket)
            assert message.payload == b"for it"

    run(scenario)


# ---- connections ----


def test_a_session_is_told_from_opening_to_closing(broker: Broker) -> None:
    """`opened` has counter 0 and comes before the first message; `closed` has the last number."""

    async def scenario() -> None:
        async with service(broker) as bridge:
            async with device(broker, broker.authority.device("told")) as sender:
                await publish(sender, "devices/told/status", b"up")
            await bridge.event("told", "closed")
            mine = [m for m in bridge.messages if m.topic.startswith(bucket_topic("told", ""))]
            mine = [m for m in mine if m.topic.split("/")[3] == "told"]
            seen = [stamp.verify(m.user_properties, m.payload, SECRET) for m in mine]
            assert [each.counter for each in seen if each] == [0, 1, 2]
            assert len({each.session for each in seen if each}) == 1

    run(scenario)


def test_a_client_id_must_be_the_common_name(broker: Broker) -> None:
    """A device cannot connect under another id; the refusal is told under its own name."""

    async def scenario() -> None:
        credential = broker.authority.device("honest")
        async with service(broker) as bridge:
            for name in ("victim", "@test", "honest2"):
                with pytest.raises(aiomqtt.NegativeAckError, match="NOT_AUTHORIZED"):
                    async with client(broker, broker.settings.device_port, credential, name):
                        pass
            refused = await bridge.event("honest", "refused")
            assert (refused["reason"], refused["reason_code"]) == ("client-id-mismatch", 135)

    run(scenario)


def test_a_certificate_must_name_one_device(broker: Broker) -> None:
    """A missing, other or second SAN URI, or a common name out of form, is refused."""

    async def scenario() -> None:
        authority = broker.authority
        urn = x509.UniformResourceIdentifier
        two = [urn("urn:fleetcert:device:two"), urn("urn:fleetcert:device:three")]
        cases = [
            (authority.device("other", uri="urn:fleetcert:device:else"), "other", "uri-mismatch"),
            (authority.issue("bare", authority.devices), "bare", "uri-mismatch"),
            (authority.issue("two", authority.devices, sans=two), "two", "uri-mismatch"),
            (authority.device("a/b"), stamp.UNKNOWN, "invalid-name"),
        ]
        async with service(broker) as bridge:
            for credential, name, reason in cases:
                with pytest.raises(aiomqtt.NegativeAckError, match="NOT_AUTHORIZED"):
                    async with device(broker, credential):
                        pass
                assert (await bridge.event(name, "refused"))["reason"] == reason

    run(scenario)


def test_each_listener_takes_its_own_authority_only(broker: Broker) -> None:
    """A service certificate opens no device session, nor the other way: TLS refuses both."""

    async def scenario() -> None:
        authority, settings = broker.authority, broker.settings
        console = authority.issue("console", authority.services)
        for port, credential, name in (
            (settings.device_port, authority.device("false", issuer=authority.services), "false"),
            (settings.device_port, console, "@spy"),
            (settings.service_port, authority.device("spy"), "@spy"),
        ):
            with pytest.raises((OSError, aiomqtt.ConnectError)):
                async with client(broker, port, credential, name):
                    pass

    run(scenario)


def test_an_authority_beside_the_device_ca_makes_no_device(broker: Broker) -> None:
    """Under the root, which TLS must trust, only the device CA itself issues devices."""

    async def scenario() -> None:
        other = broker.authority.issue("other CA", broker.authority.root, ca=True)
        false = broker.authority.device("false", issuer=other)
        async with service(broker) as bridge:
            with pytest.raises(aiomqtt.NegativeAckError, match="NOT_AUTHORIZED"):
                async with device(broker, false):
                    pass
            refused = await bridge.event(stamp.UNKNOWN, "refused")
            assert refused["reason"] == "unknown-issuer"

    run(scenario)


def test_a_stranger_does_not_get_past_tls(broker: Broker, tmp_path: Path) -> None:
    """A certificate of another root, or none, ends in the handshake on both listeners."""

    async def scenario() -> None:
        stranger = Authority(tmp_path).device("stranger")
        for port in (broker.settings.device_port, broker.settings.service_port):
            with pytest.raises((OSError, aiomqtt.ConnectError)):
                async with client(broker, port, stranger, "stranger"):
                    pass

    run(scenario)


def test_services_have_ids_that_no_device_can_have(broker: Broker) -> None:
    """A service without `@` is refused, so no device can take a service's session away."""

    async def scenario() -> None:
        credential = broker.authority.issue("console", broker.authority.services)
        with pytest.raises(aiomqtt.NegativeAckError, match="NOT_AUTHORIZED"):
            async with client(broker, broker.settings.service_port, credential, "plain"):
                pass
        async with client(broker, broker.settings.service_port, credential, "") as unnamed:
            assert unnamed.identifier.startswith("@auto-")

    run(scenario)


def test_tls_before_1_3_is_refused(broker: Broker) -> None:
    """A handshake of at most TLS 1.2 fails on both listeners."""
    context = tls(broker, broker.authority.device("late"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    for port in (broker.settings.device_port, broker.settings.service_port):
        with socket.create_connection(("127.0.0.1", port)) as raw, pytest.raises(ssl.SSLError):
            context.wrap_socket(raw, server_hostname="127.0.0.1")


# ---- refusals ----


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
            assert stamp.verify(message.user_properties, message.payload, SECRET) is not None
            for bucket in range(BUCKETS):
                started = await bridge.on(f"bucket/{bucket}/sessions/{stamp.BROKER}")
                seen = stamp.verify(started.user_properties, started.payload, SECRET)
                assert seen is not None
                assert seen.client == stamp.BROKER
            await bridge.order(allow={"device": "survivor"})
            with pytest.raises(aiomqtt.NegativeAckError, match="NOT_AUTHORIZED"):
                async with device(broker, credential):
                    pass
            refused = await bridge.event("survivor", "refused")
            assert refused["reason"] == "refused-certificate"

    run(scenario)


def test_a_reload_changes_nothing(broker: Broker) -> None:
    """After SIGHUP the plugin still judges before the access list does."""
    assert broker.process is not None
    seen = len(broker.errors())
    broker.process.send_signal(signal.SIGHUP)
    broker.await_log("Reloading config", seen)
    test_forged_stamps_are_removed(broker)
    test_a_foreign_topic_is_refused_and_told(broker, "devices/victim/status")
    test_a_device_cannot_give_orders(broker)


def test_a_torn_line_is_cut_and_a_strange_one_stops_the_start(
    broker: Broker, tmp_path: Path
) -> None:
    """A refusal half written was never answered; anything else unreadable fails closed."""
    settings = replace(
        broker.settings, data_dir=tmp_path, device_port=free_port(), service_port=free_port()
    )
    other = Broker(settings, broker.authority, {})
    whole = f"device:one\ncertificate:{'a' * 64}\n!device:one\n"
    settings.refused_file.write_text(whole + "device:tw")
    with running(other):
        assert settings.refused_file.read_text() == whole
    settings.refused_file.write_text("device:one\nnonsense\n")
    with pytest.raises(AssertionError, match="not a refusal after byte 11"):
        other.start()


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


def test_a_service_writes_only_commands_and_acknowledgements(broker: Broker) -> None:
    """Not even a service can put a message into a bucket."""

    async def scenario() -> None:
        async with service(broker) as console:
            for topic in ("bucket/0/devices/victim/status", "devices/victim/status", "x"):
                answer = await publish(console.client, topic, b"")
                assert answer == aiomqtt.PubAckReasonCode.NOT_AUTHORIZED
            for topic in ("devices/victim/commands/1", "devices/victim/recorded"):
                answer = await publish(console.client, topic, b"")
                assert answer == aiomqtt.PubAckReasonCode.SUCCESS

    run(scenario)


# ---- without a broker, and under the sanitizers ----


@pytest.mark.parametrize("broken", ["buckets", "secret", "issuers"])
def test_a_plugin_that_is_not_set_up_keeps_the_broker_down(
    broker: Broker, tmp_path: Path, broken: str
) -> None:
    """Without a secret, a bucket count or issuers the broker does not start."""
    short = tmp_path / "short"
    short.write_bytes(bytes(31))
    settings = replace(broker.settings, data_dir=tmp_path, device_port=free_port())
    if broken == "secret":
        settings = replace(settings, secret_file=short)
    elif broken == "issuers":
        settings = replace(settings, device_issuers=short)
    path = config.write(replace(settings, service_port=free_port()))
    if broken == "buckets":
        path.write_text(path.read_text().replace(f"buckets {BUCKETS}", "buckets 0"))
    done = subprocess.run(
        [str(MOSQUITTO), "-c", str(path)], capture_output=True, timeout=5, check=False
    )
    assert done.returncode != 0
    assert b"the identity plugin cannot start" in done.stderr


def test_without_the_connect_hook_a_device_can_do_nothing(broker: Broker, tmp_path: Path) -> None:
    """`use_identity_as_username` makes mosquitto skip the hook: then everything is denied."""
    settings = replace(
        broker.settings, data_dir=tmp_path, device_port=free_port(), service_port=free_port()
    )
    other = Broker(settings, broker.authority, {}, extra="use_identity_as_username true")

    async def scenario() -> None:
        async with service(other) as bridge:
            async with device(other, broker.authority.device("unseen")) as sender:
                for topic in ("devices/unseen/status", "devices/unseen/events/x"):
                    answer = await publish(sender, topic, b"")
                    assert answer == aiomqtt.PubAckReasonCode.NOT_AUTHORIZED
                with pytest.raises(aiomqtt.NegativeAckError):
                    await sender.subscribe("devices/unseen/commands/#")
            assert not [each for each in bridge.messages if "unseen" in each.topic]

    with running(other):
        run(scenario)


def test_settings_cannot_smuggle_lines(broker: Broker) -> None:
    """A path with a line break is refused, not written into the configuration."""
    with pytest.raises(ValueError, match="line break"):
        config.render(replace(broker.settings, host="127.0.0.1\nallow_anonymous true"))


def test_the_plugin_is_clean_under_the_sanitizers(tmp_path: Path) -> None:
    """Sessions, forgeries, take-overs, orders and kicks give AddressSanitizer nothing to say."""
    found = subprocess.run(
        ["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    )
    environment = {
        "LD_PRELOAD": found.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    library = build(tmp_path / "build", sanitize=True)
    with running(make_broker(tmp_path, library, environment)) as sanitized:
        test_forged_stamps_are_removed(sanitized)
        test_a_will_of_a_session_taken_over_is_judged_as_a_will(sanitized)
        test_refused_messages_are_told_sixteen_times(sanitized)
        test_properties_and_topics_are_bounded(sanitized)
        test_a_certificate_must_name_one_device(sanitized)
        test_a_refused_certificate_is_cut_off_and_a_new_one_gets_in(sanitized)
        test_a_killed_broker_keeps_refusals_and_queues(sanitized)
        for order in (b"", b"\0", b"[" * 3000, b" " * 5000, b'{"refuse":{"device":1}}'):
            test_a_wrong_order_is_answered_with_what_is_wrong(sanitized, order)
