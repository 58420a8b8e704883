"""A real mosquitto with the plugin, certificates made here, and clients of both listeners."""

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
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import aiomqtt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from mqtt5 import PublishPacket

from bridges.mqtt.broker import config, release, stamp
from pki import twins
from schemas.shares import share_of

BUCKETS = 8
SECRET = bytes(range(32))
DEADLINE_SECONDS = 5.0
CONTROL = "$CONTROL/fleetcert/v1"
QOS1 = aiomqtt.QoS.AT_LEAST_ONCE

MOSQUITTO = release.program()


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
    """A root, a device authority under it, a service authority beside it, and all they issue.

    `makers` is somebody else's, under a root of theirs: the provisioning CA where there is one.
    """

    folder: Path
    issued: int = 0
    root: Credential = field(init=False)
    devices: Credential = field(init=False)
    services: Credential = field(init=False)
    makers_root: Credential = field(init=False)
    makers: Credential = field(init=False)

    def __post_init__(self) -> None:
        """Make the authorities."""
        self.root = self.issue("root", None, ca=True)
        self.devices = self.issue("device CA", self.root, ca=True)
        self.services = self.issue("service CA", None, ca=True)
        self.makers_root = self.issue("makers' root", None, ca=True)
        self.makers = self.issue("makers' CA", self.makers_root, ca=True)

    def issue(
        self,
        name: str,
        issuer: Credential | None,
        *,
        ca: bool = False,
        sans: Sequence[x509.GeneralName] | None = None,
        further: x509.ExtensionType | None = None,
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
        if further is not None:
            builder = builder.add_extension(further, critical=False)
        if sans:
            builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
        made = builder.sign(issuer.key if issuer else key, hashes.SHA256())
        chain = [made] if ca or issuer is None else [made, issuer.certificate]
        return self._save(made, key, chain)

    def device(self, name: str, *, issuer: Credential | None = None, uri: str = "") -> Credential:
        """Issue a device certificate: SAN URI and CN name the same device, unless told."""
        urn = x509.UniformResourceIdentifier(uri or f"urn:fleetcert:device:{name}")
        return self.issue(name, issuer or self.devices, sans=[urn])

    def newcomer(self, name: str, *, further: x509.ExtensionType | None = None) -> Credential:
        """Issue the certificate that the maker gives its devices."""
        urn = x509.UniformResourceIdentifier(f"urn:fleetcert:device:{name}")
        return self.issue(name, self.makers, sans=[urn], further=further)

    def twin(self, of: Credential, issuer: Credential) -> Credential:
        """Make the other certificate that the issuer's signature makes."""
        der = twins.twin(of.certificate, issuer.key.public_key())
        self.issued += 1
        chain = [x509.load_der_x509_certificate(der), issuer.certificate]
        return self._save(chain[0], of.key, chain)

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


def make_broker(
    folder: Path, library: Path, environment: dict[str, str], newcomers_max: int = 0
) -> Broker:
    """Prepare keys, secret and settings; the broker is not started.

    It lets newcomers in where it has room for some.
    """
    authority = Authority(folder)
    makers = folder / "makers.pem"
    makers.write_bytes(authority.makers.certificate.public_bytes(serialization.Encoding.PEM))
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
        provisioning_issuers=makers if newcomers_max else None,
        newcomers_max=newcomers_max,
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
        seen = verified(message)
        content: dict[str, object] = json.loads(message.payload)
        assert seen is not None
        assert seen.sender.client == name
        assert (seen.sender.session, seen.sender.certificate.hex()) == (
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


def verified(message: PublishPacket) -> stamp.Stamp | None:
    """Give the stamp of a message, or None when it has no valid one."""
    return stamp.verify(message.user_properties, message.topic, message.payload, SECRET)


def bucket_topic(name: str, topic: str) -> str:
    """Give the topic that the plugin makes of a device's topic."""
    return f"bucket/{share_of(name, BUCKETS)}/{topic}"


def forged(fingerprint: str) -> list[tuple[str, str]]:
    """Give stamps as somebody without the secret would write them, by their old names too."""
    text = f"{fingerprint} victim {'0' * 32} 127.0.0.1 1 {'0' * 64}"
    return [
        (stamp.NAME, text),
        (stamp.NAME.upper(), text),
        (f"{stamp.NAME}x", text),
        ("fleetcert-certificate", fingerprint),
        ("FleetCert-mac", "0" * 64),
    ]


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a scenario within a time limit, on a loop of its own."""

    async def limited() -> None:
        await asyncio.wait_for(scenario(), 4 * DEADLINE_SECONDS)

    asyncio.run(limited())
