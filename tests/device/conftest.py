"""A device CA, a broker and a bridge, made at run time."""

import asyncio
import json
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cbor2
import pytest
from aiomqtt import PublishPacket, QoS

from device import provision
from device.provision import DeviceCa
from protocols.mqtt import Client
from tests.device.authorities import ADDRESS, issue_server, make_ca, write_pem
from tests.helpers.artefacts import Artefacts, serving
from tests.helpers.wait import until


@pytest.fixture(scope="session")
def ca() -> DeviceCa:
    """Return the device CA of this test run."""
    return make_ca("test device CA")


@pytest.fixture(scope="session")
def artefact_server() -> Iterator[Artefacts]:
    """Serve artefacts for the whole session."""
    with serving() as served:
        yield served


@pytest.fixture
def artefacts(artefact_server: Artefacts) -> Artefacts:
    """Return the server of artefacts, as new."""
    artefact_server.held.clear()
    artefact_server.answers, artefact_server.asked = 200, 0
    return artefact_server


def free_port() -> int:
    """Return a TCP port that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """Tell whether something accepts connections on the port."""
    with socket.socket() as probe:
        return probe.connect_ex((ADDRESS, port)) == 0


@dataclass
class Broker:
    """A running mosquitto: `port` for devices over mutual TLS, `plain` for the bridge."""

    folder: Path
    port: int
    plain: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def ca_file(self) -> Path:
        """Return what devices verify the broker with."""
        return self.folder / "service.pem"

    def start(self) -> None:
        """Start it and wait until both ports answer."""
        self.process = subprocess.Popen(
            ["mosquitto", "-c", str(self.folder / "mosquitto.conf")],
            stderr=(self.folder / "mosquitto.log").open("ab"),
        )
        until(lambda: answers(self.port) and answers(self.plain), within=5)

    def stop(self) -> None:
        """Stop it; persistent sessions are written to disk."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture
def broker(tmp_path: Path, ca: DeviceCa) -> Iterator[Broker]:
    """Run a broker that demands device certificates."""
    if shutil.which("mosquitto") is None:
        pytest.skip("mosquitto is not installed")
    folder = tmp_path / "broker"
    folder.mkdir()
    service = make_ca("test service CA")
    write_pem(service, folder, "service")
    write_pem(ca, folder, "devices")
    issue_server(service, folder)
    one = Broker(folder, free_port(), free_port())
    (folder / "mosquitto.conf").write_text(
        f"""per_listener_settings true
set_tcp_nodelay true
persistence true
persistence_location {folder}/
user root
listener {one.plain} {ADDRESS}
allow_anonymous true
listener {one.port} {ADDRESS}
cafile {folder}/devices.pem
certfile {folder}/server.pem
keyfile {folder}/server.key
tls_version tlsv1.3
require_certificate true
use_identity_as_username true
"""
    )
    one.start()
    yield one
    one.stop()


@dataclass
class Bridge:
    """A tiny bridge: records what devices say, and hands commands down."""

    client: Client
    recording: bool = True
    said: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    recorded: list[tuple[int, int]] = field(default_factory=list)

    async def listen(self) -> None:
        """Take everything that devices publish, for ever."""
        async for packet in self.client.messages():
            assert isinstance(packet, PublishPacket)
            assert packet.packet_id is not None
            await self.client.puback(packet.packet_id)
            _, device_id, level, *_ = packet.topic.split("/")
            as_json = packet.content_type == "application/json"
            value = json.loads(packet.payload) if as_json else cbor2.loads(packet.payload)
            self.said.append((packet.topic, value))
            if level in ("events", "replies") and self.recording:
                number = (value["boot"], value["sequence"])
                self.recorded.append(number)
                await self.send(
                    f"devices/{device_id}/recorded",
                    json.dumps({"boot": number[0], "sequence": number[1]}).encode(),
                    "application/json",
                )

    async def send(self, topic: str, payload: bytes, content_type: str) -> None:
        """Publish with QoS 1."""
        identifier = next(self.client.packet_ids)
        await self.client.publish(
            topic,
            payload,
            qos=QoS.AT_LEAST_ONCE,
            packet_id=identifier,
            content_type=content_type,
        )

    async def command(self, device_id: str, command_id: str, type: str, **fields: Any) -> None:
        """Send a command as CBOR."""
        body = {"type": type, "command_id": command_id, **fields}
        topic = f"devices/{device_id}/commands/{command_id}/cbor"
        await self.send(topic, cbor2.dumps(body), "application/cbor")

    def heard(self, tail: str) -> list[dict[str, Any]]:
        """Return what was said on topics that end so."""
        return [value for topic, value in self.said if topic.endswith(tail)]


@pytest.fixture
async def bridge(broker: Broker) -> AsyncIterator[Bridge]:
    """Connect a bridge to the broker."""
    client = Client(hostname=ADDRESS, port=broker.plain, identifier="bridge")
    async with client:
        for level in ("events/+", "replies/+", "status"):
            await client.subscribe(f"devices/+/{level}", max_qos=QoS.AT_LEAST_ONCE)
        one = Bridge(client)
        task = asyncio.create_task(one.listen())
        yield one
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def lamp(tmp_path: Path, ca: DeviceCa) -> Path:
    """Return the directory of device `lamp`, which holds its first identity."""
    provision.provision(ca, "lamp", tmp_path / "lamp", 3600)
    return tmp_path / "lamp"
