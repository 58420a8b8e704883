"""The bridge contract: one suite, every protocol, on a real Kafka, broker, bridge and device."""

import asyncio
import contextlib
import dataclasses
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from client.local import dtls13
from client.local.layout import HOST
from client.local.ports import free_ports
from client.local.processes import listens
from device.agent import Agent
from device.coap.link import COAPS, COAPS_TCP
from device.commands import Handlers
from device.link import MQTTS
from device.observer import Observer
from device.payloads import Command, Reply
from device.settings import Settings
from schemas.commands import (
    DropCertificate,
    InstallCertificate,
    RefuseCertificate,
    RotateCertificate,
)
from schemas.decisions import DeadLetter
from schemas.events import (
    CertificatePresented,
    CommandAnswered,
    DeviceReported,
    SessionClosed,
    SessionOpened,
)
from schemas.reasons import Reason
from schemas.topics import DEAD_LETTERS
from tests.helpers.wait import until_async
from tests.integration.bridge.rig import Bridge, Rig

PROTOCOLS = [MQTTS, COAPS_TCP, *([COAPS] if dtls13.installed() else [])]
QUICK = Settings(backoff_seconds=0.1, backoff_max_seconds=0.5, resend_seconds=2.0, refusals_max=100)
HOUR_MS = 3_600_000
WITHIN = 45.0


class Told(Observer):
    """Remembers what the agent was told of its items."""

    def __init__(self) -> None:
        self.recorded: set[int] = set()
        self.refused: dict[int, str] = {}
        self.sessions = 0
        self.endings: list[str] = []

    def on_recorded(self, boot: int, sequence: int) -> None:
        """Remember."""
        self.recorded.add(sequence)

    def on_refused(self, boot: int, sequence: int, reason: str) -> None:
        """Remember."""
        self.refused[sequence] = reason

    def on_connected(self, fingerprint: str) -> None:
        """Count."""
        self.sessions += 1

    def on_disconnected(self, why: str) -> None:
        """Remember."""
        self.endings.append(why)


class Listening(Handlers):
    """Does nothing that it is asked, and remembers it."""

    def __init__(self, device_id: str, store: Any) -> None:
        super().__init__(device_id, store)
        self.heard: list[Command] = []

    def answer(self, command: Command) -> Reply:
        """Say that it is done."""
        self.heard.append(command)
        return Reply("done")


class Device(Agent):
    """The reference agent with open ears."""

    handlers_type = Listening
    handlers: Listening


class Coap:
    """A CoAP bridge as a process of the rig."""

    def __init__(self, rig: Rig) -> None:
        self.port, metrics = free_ports(2)
        self._rig, layout = rig, rig.layout
        options = {
            "--bootstrap": rig.kafka.bootstrap,
            "--host": HOST,
            "--port": self.port,
            "--cert": layout.services_dir / "coap.pem",
            "--key": layout.services_dir / "coap.key",
            "--device-ca": layout.pki_dir / "device-ca" / "ca.pem",
            "--provisioning-ca": rig.makers_ca,
            "--plain-port": 0,
            "--renewal-port": 0,
            "--metrics-port": metrics,
        }
        self._words = [str(word) for pair in options.items() for word in pair]
        self._log = layout.log_dir / "coap.log"

    async def start(self) -> None:
        """Start it and wait until it lets devices in."""
        command = [sys.executable, "-m", "bridges", "coap", *self._words]
        self.process = self._rig.spawn(command, self._log)
        await until_async(lambda: listens(self.port), within=WITHIN, describe=self._log.read_text)


@dataclasses.dataclass
class Door:
    """One protocol's way in: how to connect a device, and how to kill and start the bridge."""

    rig: Rig
    scheme: str
    bridge: Bridge | None = None
    coap: Coap | None = None

    @contextlib.asynccontextmanager
    async def device(self, device_id: str, told: Told | None = None) -> AsyncIterator[Device]:
        """Run a device for the time of the block."""
        self.rig.credentials(device_id)
        folder = self.rig.layout.data_dir / "devices" / device_id
        async with self._running(device_id, folder, told) as made:
            yield made

    @contextlib.asynccontextmanager
    async def newcomer(self, device_id: str, told: Told) -> AsyncIterator[Device]:
        """Run whoever comes with a maker's certificate under this name."""
        async with self._running(device_id, self.rig.newcomer(device_id), told) as made:
            yield made

    @contextlib.asynccontextmanager
    async def _running(
        self, device_id: str, folder: Path, told: Told | None
    ) -> AsyncIterator[Device]:
        port = self.coap.port if self.coap else self.rig.layout.device_port
        made = Device(
            device_id,
            folder,
            "localhost",
            port,
            self.rig.ca_file,
            settings=QUICK,
            observer=told or Told(),
            scheme=self.scheme,
        )
        async with made.running():
            yield made

    async def start(self) -> None:
        """Start the bridge."""
        if self.scheme == MQTTS:
            self.rig.end_the_bridge()
            self.bridge = await self.rig.bridge("bridge-a")
        else:
            self.coap = self.coap or Coap(self.rig)
            await self.coap.start()

    def end(self, how: signal.Signals) -> int:
        """End the bridge's process; give its exit status."""
        process = self.coap.process if self.coap else self.bridge.process  # type: ignore[union-attr]
        process.send_signal(how)
        return int(process.wait(20))


@pytest.fixture(scope="module", params=PROTOCOLS)
async def door(rig: Rig, request: pytest.FixtureRequest) -> AsyncIterator[Door]:
    """Each protocol in turn, its bridge running."""
    made = Door(rig, request.param)
    await made.start()
    yield made
    assert made.end(signal.SIGTERM) == 0


pytestmark = pytest.mark.asyncio(loop_scope="module")


def name(door: Door, what: str) -> str:
    """Return a device id that no other test uses."""
    return f"{what}-{door.scheme.replace('+', '-')}"


def of(door: Door, device_id: str, kind: type) -> list[Any]:
    """Return the records of a kind in a device's history."""
    found = [one.record for one in door.rig.history(device_id)]
    return [one for one in found if isinstance(one, kind)]


def install(device_id: str, command_id: str, expires_at: int) -> InstallCertificate:
    """Return a command with bytes in it."""
    now = time.time_ns() // 1_000_000
    return InstallCertificate(command_id, device_id, 1, now, expires_at, b"\x00\xffDER")


async def test_identity_is_the_sessions(door: Door) -> None:
    """Opening, event and closing stand under the certificate that the handshake proved."""
    device_id = name(door, "identity")
    async with door.device(device_id) as one:
        await one.report("heat", 21.5)
        await asyncio.wait_for(one.drained(), WITHIN)
    await until_async(
        lambda: of(door, device_id, SessionClosed), within=WITHIN, describe="the closing"
    )
    identity = door.rig.credentials(device_id)
    kinds = (SessionOpened, DeviceReported, SessionClosed)
    shown = [one.evidence for kind in kinds for one in of(door, device_id, kind)]
    assert {one.certificate_sha256.hex() for one in shown} == {identity.fingerprint}
    assert len({one.session for one in shown}) == 1


async def test_recorded_comes_after_kafka(door: Door) -> None:
    """While Kafka stands still a device is told nothing; then of everything, in order."""
    device_id, told = name(door, "patient"), Told()
    async with door.device(device_id, told) as one:
        await one.report("step", 0)
        await asyncio.wait_for(one.drained(), WITHIN)
        before = set(told.recorded)
        door.rig.kafka.signal(signal.SIGSTOP)
        try:
            numbers = [(await one.report("step", number))[1] for number in range(1, 11)]
            await until_async(lambda: one._sender and one._sender._in_air, describe="on its way")
            assert told.recorded == before
        finally:
            door.rig.kafka.signal(signal.SIGCONT)
        await asyncio.wait_for(one.drained(), WITHIN)
        assert set(numbers) <= told.recorded
    found = [one.numbering.sequence for one in of(door, device_id, DeviceReported)]
    assert list(dict.fromkeys(found)) == sorted(set(found))


async def test_what_is_not_understood_is_kept_and_told(door: Door) -> None:
    """A malformed reply: a dead letter with its bytes, and the device lets it go."""
    device_id, told = name(door, "wrong"), Told()
    async with door.device(device_id, told) as one:
        _, sequence = one.outbox.put(
            f"devices/{device_id}/replies/c-1",
            "application/json",
            lambda boot, sequence: (
                b'{"boot": %d, "sequence": %d, "outcome": "perhaps"}' % (boot, sequence)
            ),
        )
        await one.report("heat", 1)
        await asyncio.wait_for(one.drained(), WITHIN)
    assert set(told.refused) == {sequence}
    (letter,) = door.rig.history(device_id, DEAD_LETTERS)
    assert isinstance(letter.record, DeadLetter)
    assert letter.record.reason == Reason.MALFORMED.value
    assert b"perhaps" in letter.record.payload


async def test_a_valid_command_arrives_and_an_expired_one_does_not(door: Door) -> None:
    """Bytes arrive as they were; the reply stands in the history under the command's id."""
    device_id = name(door, "valve")
    now = time.time_ns() // 1_000_000
    async with door.device(device_id) as one:
        await one.report("heat", 1)
        await asyncio.wait_for(one.drained(), WITHIN)
        for record in (
            install(device_id, "old", now - 1),
            install(device_id, "new", now + HOUR_MS),
        ):
            door.rig.command(device_id, record)
        await until_async(
            lambda: of(door, device_id, CommandAnswered), within=WITHIN, describe="the reply"
        )
        (heard,) = one.handlers.heard
    assert (heard.command_id, heard.fields["certificate"]) == ("new", b"\x00\xffDER")
    assert [one.command_id for one in of(door, device_id, CommandAnswered)] == ["new"]


async def test_a_refused_certificate_ends_the_session_and_begins_none(door: Door) -> None:
    """RefuseCertificate acts on the open session at once, and on every later one."""
    device_id, told = name(door, "lost"), Told()
    async with door.device(device_id, told) as one:
        await one.report("heat", 1)
        await asyncio.wait_for(one.drained(), WITHIN)
        fingerprint = bytes.fromhex(door.rig.credentials(device_id).fingerprint)
        now = time.time_ns() // 1_000_000
        door.rig.command(device_id, RefuseCertificate("r", device_id, 1, now, fingerprint))
        await until_async(
            lambda: [why for why in told.endings if why.startswith("refused")],
            within=WITHIN,
            describe=lambda: f"refused: {told.endings}",
        )
        await one.report("heat", 2)
        assert len(one.outbox) == 1
    assert told.sessions >= 1
    assert (
        len([one for one in of(door, device_id, DeviceReported) if one.event_type == "heat"]) == 1
    )


async def test_a_newcomer_is_asked_for_its_enrolment_and_heard_of_nothing_else(door: Door) -> None:
    """Its certificate is told whole; the device of its name keeps its session and its commands."""
    device_id, told = name(door, "newcomer"), Told()
    now = time.time_ns() // 1_000_000
    shared = (device_id, 1, now, now + HOUR_MS)
    async with door.device(device_id) as owner, door.newcomer(device_id, told) as one:
        await owner.report("heat", 1)
        await asyncio.wait_for(owner.drained(), WITHIN)
        await one.report("heat", 2)
        await until_async(
            lambda: of(door, device_id, CertificatePresented),
            within=WITHIN,
            describe=lambda: f"presented: {told.endings}",
        )
        for record in (
            DropCertificate("drop", *shared, b"f" * 32),
            RotateCertificate("rotate", *shared, b"nonce"),
            InstallCertificate("install", *shared, b"DER"),
        ):
            door.rig.command(device_id, record)
        await until_async(
            lambda: len(of(door, device_id, CommandAnswered)) == 5,
            within=WITHIN,
            describe=lambda: f"answered: {owner.handlers.heard} {one.handlers.heard}",
        )
        assert len(one.outbox) == 1
    await until_async(
        lambda: len(of(door, device_id, SessionClosed)) == 2, within=WITHIN, describe="the ends"
    )
    mine = one.store.current().fingerprint
    (presented,) = of(door, device_id, CertificatePresented)
    der = one.store.current().certificate().public_bytes(Encoding.DER)
    assert (presented.certificate.der, presented.certificate.fingerprint.hex()) == (der, mine)
    under = {
        one.evidence.certificate_sha256.hex() for one in of(door, device_id, DeviceReported)
    } | {one.evidence.certificate_sha256.hex() for one in of(door, device_id, SessionOpened)}
    assert under == {owner.store.current().fingerprint}
    answers = [
        (one.command_id, one.evidence.certificate_sha256.hex() == mine)
        for one in of(door, device_id, CommandAnswered)
    ]
    assert sorted(answers) == [
        ("drop", False), ("install", False), ("install", True), ("rotate", False), ("rotate", True)
    ]  # fmt: skip
    assert told.refused == {}


async def test_a_killed_bridge_loses_nothing(door: Door) -> None:
    """Killed while a device talks: every event arrives once it is back, in order."""
    device_id = name(door, "stream")
    async with door.device(device_id) as one:
        await one.report("step", 0)
        await asyncio.wait_for(one.drained(), WITHIN)
        door.end(signal.SIGKILL)
        for number in range(1, 51):
            await one.report("step", number)
        await door.start()
        await asyncio.wait_for(one.drained(), WITHIN)
    steps = [one for one in of(door, device_id, DeviceReported) if one.event_type == "step"]
    found = [one.numbering.sequence for one in steps]
    assert len(set(found)) == 51
    assert list(dict.fromkeys(found)) == sorted(set(found))
