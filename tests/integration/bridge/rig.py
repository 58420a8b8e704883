"""A real Kafka, a real mosquitto with the plugin, bridges as processes, and plain MQTT devices."""

import asyncio
import contextlib
import json
import os
import re
import secrets
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiomqtt
from confluent_kafka import Producer
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from client.fleet import Fleet, Found
from client.local import launch, setup, topics
from client.local.layout import HOST, Layout
from client.local.ports import free_ports
from client.local.processes import listens
from configuration.cluster import Cluster
from configuration.model import Configuration
from device.provision import DeviceCa, provision
from device.store import Store
from pki import authority
from pki.profile import issue_device
from protocols.mqtt import Client
from schemas import codec
from schemas.commands import InstallCertificate
from schemas.events import DeviceReported
from schemas.shares import share_of
from schemas.topics import DEVICE_COMMANDS, DEVICE_EVENTS, PARTITIONER
from tests.helpers.kafka import TOOLS, KafkaBroker, kafka_broker
from tests.helpers.wait import until, until_async

BUCKETS, PARTITIONS = 4, 3
SESSION_TIMEOUT_SECONDS = 2.0
VALID_SECONDS = 3600
HOUR_MS = 3_600_000
QOS1 = aiomqtt.QoS.AT_LEAST_ONCE


@dataclass
class Device:
    """A plain MQTT 5 device: what it was told, and what the broker said to its messages."""

    device_id: str
    fingerprint: str
    client: aiomqtt.Client
    recorded: set[int] = field(default_factory=set)
    refused: dict[int, str] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    commands: list[aiomqtt.PublishPacket] = field(default_factory=list)

    async def report(self, sequence: int, qos: aiomqtt.QoS = QOS1) -> Any:
        """Publish one numbered event; give the broker's acknowledgement."""
        body = {"boot": 1, "sequence": sequence, "body": "warm"}
        return await self.say("events/heat", json.dumps(body).encode(), "application/json", qos)

    async def say(
        self, tail: str, payload: bytes, content_type: str, qos: aiomqtt.QoS = QOS1
    ) -> Any:
        """Publish under the device's own topics."""
        number = next(self.client.packet_ids) if qos else None
        topic = f"devices/{self.device_id}/{tail}"
        acknowledged = await self.client.publish(
            topic, payload, qos=qos, packet_id=number, content_type=content_type
        )
        if qos == aiomqtt.QoS.EXACTLY_ONCE:
            assert number is not None
            await self.client.pubrel(number)
        return acknowledged

    async def listen(self) -> None:
        """Take what comes down, for ever."""
        async for packet in self.client.messages():
            if not isinstance(packet, aiomqtt.PublishPacket):
                continue
            if packet.packet_id is not None:
                await self.client.puback(packet.packet_id)
            if not packet.topic.endswith("/recorded"):
                self.commands.append(packet)
                continue
            said = json.loads(packet.payload)
            if "refused" in said:
                self.reasons.append(said["refused"])
                self.refused[said.get("sequence", 0)] = said["refused"]
            self.recorded |= {sequence for _, sequence in said.get("recorded", [])}


class Bridge:
    """One bridge process."""

    def __init__(self, rig: "Rig", name: str, *more: str) -> None:
        self._log = rig.layout.log_dir / f"{name}-{secrets.token_hex(4)}.log"
        self._metrics = free_ports(1)[0]
        layout = rig.layout
        options = {
            "--bootstrap": rig.kafka.bootstrap,
            "--mqtt-host": "localhost",
            "--mqtt-port": layout.service_port,
            "--ca": layout.pki_dir / "service-ca" / "ca.pem",
            "--cert": layout.services_dir / "bridge.pem",
            "--key": layout.services_dir / "bridge.key",
            "--secret-file": layout.stamp_secret,
            "--provisioning-ca": rig.makers_ca,
            "--buckets": BUCKETS,
            "--bridge-id": name,
            "--session-timeout-seconds": SESSION_TIMEOUT_SECONDS,
            "--metrics-port": self._metrics,
        }
        words = [str(word) for pair in options.items() for word in pair]
        self.process = rig.spawn(
            [sys.executable, "-m", "bridges", "mqtt", *words, *more], self._log
        )

    def metric(self, name: str) -> float:
        """Return the value of one metric line, 0 where it is not there yet."""
        with urllib.request.urlopen(f"http://{HOST}:{self._metrics}/metrics", timeout=5) as answer:
            found = re.search(rf"^{re.escape(name)} (\S+)$", answer.read().decode(), re.MULTILINE)
        return float(found.group(1)) if found else 0.0

    def owned(self) -> int:
        """Return how many buckets it last said to own; one process writes one log."""
        said = [line for line in self.said() if line.get("event") == "buckets.owned"]
        return int(said[-1]["count"]) if said else 0

    def said(self) -> list[dict[str, Any]]:
        """Return its structured log."""
        lines = self._log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def resident_mebibytes(self) -> float:
        """Return the memory that it holds now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found.group(1)) / 1024

    def text(self) -> str:
        """Return all it wrote."""
        return self._log.read_text()

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it with a signal; give its exit status."""
        self.process.send_signal(how)
        return self.process.wait(20)


class Rig:
    """Everything around the bridges, in one directory."""

    def __init__(self, directory: Path, kafka: KafkaBroker) -> None:
        device_port, service_port = free_ports(2)
        self.kafka = kafka
        self.maker = authority.create(directory / "maker", now=datetime.now(UTC))
        self.makers_ca = directory / "maker" / "device-ca" / "ca.pem"
        trusted = {"provisioning": {"ca": [str(self.makers_ca)]}}
        self.layout = Layout(
            Configuration.model_validate({"iot": {"mqtt": {"qos": 2}, "security": trusted}}),
            data_dir=directory,
            tools_dir=TOOLS,
            device_port=device_port,
            service_port=service_port,
            buckets=BUCKETS,
        )
        self.layout.log_dir.mkdir(parents=True, exist_ok=True)
        topics.create_topics(Cluster(kafka.bootstrap), PARTITIONS)
        _, plugin = setup.tools(self.layout)
        setup.identities(self.layout)
        user = "root" if os.geteuid() == 0 else None
        self._configuration = setup.broker(self.layout, plugin, user)
        devices = authority.load(self.layout.pki_dir).device
        self._devices = DeviceCa(devices.certificate, devices.key)
        self.fleet = Fleet(kafka.bootstrap, actor="tests")
        self._producer = Producer(
            {"bootstrap.servers": kafka.bootstrap, "partitioner": PARTITIONER}
        )
        self._spawned: list[subprocess.Popen[bytes]] = []
        self._running: Bridge | None = None
        self.start_broker()

    def start_broker(self) -> None:
        """Start mosquitto and wait until both listeners answer."""
        command = ["mosquitto", "-c", str(self._configuration)]
        self.broker = self.spawn(command, self.layout.log_dir / "mosquitto.log")
        ports = (self.layout.device_port, self.layout.service_port)
        until(lambda: all(listens(one) for one in ports), describe="mosquitto listens")

    def spawn(self, command: list[str], log: Path) -> subprocess.Popen[bytes]:
        """Start a process that dies with this one."""
        path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, launch.__file__, str(os.getpid()), *command],
                stdout=output,
                stderr=output,
                env=os.environ | {"PATH": path},
            )
        self._spawned.append(process)
        return process

    def close(self) -> None:
        """End the shared bridge, and kill whatever else still runs."""
        self.end_the_bridge()
        for process in self._spawned:
            process.kill()
            process.wait()

    async def the_bridge(self) -> Bridge:
        """Return the bridge that tests share while they leave it in peace."""
        if self._running is None or self._running.process.poll() is not None:
            self._running = await self.bridge("bridge-a")
        return self._running

    def end_the_bridge(self) -> None:
        """End the shared bridge, and see that it ended well."""
        running, self._running = self._running, None
        if running is not None and running.process.poll() is None:
            assert running.end() == 0, running.text()

    async def owning_bridge(self, name: str, *more: str) -> Bridge:
        """Start a bridge; return it as soon as it owns buckets."""
        started = Bridge(self, name, *more)
        await until_async(
            lambda: started.process.poll() is not None or started.owned(),
            within=20,
            describe=lambda: f"{name} owns buckets: {started.text()}",
        )
        assert started.process.poll() is None, started.text()
        return started

    async def bridge(self, name: str, *more: str) -> Bridge:
        """Start a bridge; return it when every bucket has a subscriber."""
        started = await self.owning_bridge(name, *more)
        for device_id in self.one_per_bucket("probe"):
            async with self.device(device_id) as probe:
                await until_async(
                    lambda probe=probe: self._has_subscriber(probe), describe="a subscriber"
                )
        return started

    async def _has_subscriber(self, probe: Device) -> bool:
        answer = await probe.say("events/probe", b"{}", "application/json")
        return bool(answer.reason_code == aiomqtt.PubAckReasonCode.SUCCESS)

    @staticmethod
    def one_per_bucket(prefix: str) -> list[str]:
        """Return device ids, one in each bucket."""
        found: dict[int, str] = {}
        number = 0
        while len(found) < BUCKETS:
            name = f"{prefix}-{number}"
            found.setdefault(share_of(name, BUCKETS), name)
            number += 1
        return [found[one] for one in sorted(found)]

    def credentials(self, device_id: str) -> Any:
        """Return the identity of a device: made once, then kept."""
        folder = self.layout.data_dir / "devices" / device_id
        return provision(self._devices, device_id, folder, VALID_SECONDS)

    def newcomer(self, device_id: str) -> Path:
        """Return the folder of a device that has its maker's certificate, made once."""
        folder = self.layout.data_dir / "newcomers" / device_id
        store = Store(folder)
        if not store.identities():
            key, began = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
            began, lifetime = began - timedelta(hours=1), timedelta(seconds=2 * VALID_SECONDS)
            der = issue_device(self.maker, device_id, key.public_key(), "made", began, lifetime)
            made = store.add(key, x509.load_der_x509_certificate(der), provisioning=True)
            store.settle(made.fingerprint)
        return folder

    @contextlib.asynccontextmanager
    async def device(self, device_id: str, **options: Any) -> AsyncIterator[Device]:
        """Connect a device; whatever ended its session is forgiven at the end."""
        identity = self.credentials(device_id)
        context = ssl.create_default_context(cafile=str(self.ca_file))
        context.load_cert_chain(identity.certificate_file, identity.key_file)
        client = Client(
            hostname="localhost",
            port=self.layout.device_port,
            ssl_context=context,
            identifier=device_id,
            **{"clean_start": True, **options},
        )
        await client.__aenter__()
        device = Device(device_id, identity.fingerprint, client)
        for tail in ("recorded", "commands/+", "commands/+/cbor"):
            await client.subscribe(f"devices/{device_id}/{tail}", max_qos=QOS1)
        listening = asyncio.create_task(device.listen())
        try:
            yield device
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            with contextlib.suppress(Exception):  # the broker may have closed it before
                await client.__aexit__(None, None, None)

    @property
    def ca_file(self) -> Path:
        """What devices verify the broker with."""
        return self.layout.pki_dir / "service-ca" / "ca.pem"

    def command(self, device_id: str, record: Any) -> None:
        """Write to `device.commands`: a command, or bytes as they are."""
        value = record if isinstance(record, bytes) else codec.encode(record)
        self._producer.produce(DEVICE_COMMANDS, value, device_id.encode())
        assert self._producer.flush(10) == 0

    def history(self, device_id: str, topic: str = DEVICE_EVENTS) -> list[Found]:
        """Return the records of one device, in their order."""
        return [one for one in self.fleet.read(topic) if one.key == device_id.encode()]

    def sequences(self, device_id: str) -> list[int]:
        """Return the numbers of a device's reports, in the order of the history."""
        return [
            one.record.numbering.sequence
            for one in self.history(device_id)
            if isinstance(one.record, DeviceReported) and one.record.numbering is not None
        ]


@contextlib.contextmanager
def running_rig(directory: Path) -> Iterator[Rig]:
    """Hold Kafka and mosquitto up; bridges come and go with the tests."""
    with kafka_broker(directory / "kafka") as kafka:
        rig = Rig(directory / "rig", kafka)
        try:
            yield rig
        finally:
            rig.close()


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
