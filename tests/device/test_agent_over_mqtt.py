"""The agent against a real broker over mutual TLS, with a small bridge on the other side."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from device import provision
from device.agent import Agent
from device.observer import Observer
from device.outbox import OutboxFull
from device.provision import DeviceCa
from device.settings import Settings
from device.simulator import Plan, Simulator
from device.store import Store
from pki.requests import examine
from tests.device.authorities import ADDRESS, make_ca
from tests.device.conftest import Bridge, Broker
from tests.helpers.wait import until_async

QUICK = Settings(
    resend_seconds=1.0, backoff_seconds=0.05, backoff_max_seconds=0.2, settle_seconds=5
)


class Notes(Observer):
    """Remembers what the agent told."""

    def __init__(self) -> None:
        self.kept: list[tuple[int, int]] = []
        self.recorded: list[tuple[int, int]] = []
        self.sessions: list[str] = []
        self.ends: list[str] = []

    def on_kept(self, boot: int, sequence: int) -> None:
        """Remember it."""
        self.kept.append((boot, sequence))

    def on_recorded(self, boot: int, sequence: int) -> None:
        """Remember it."""
        self.recorded.append((boot, sequence))

    def on_connected(self, fingerprint: str) -> None:
        """Remember it."""
        self.sessions.append(fingerprint)

    def on_disconnected(self, why: str) -> None:
        """Remember it."""
        self.ends.append(why)


def lamp_agent(lamp: Path, broker: Broker, notes: Notes, resend_seconds: float = 1.0) -> Agent:
    """Return the agent of device `lamp`."""
    quick = replace(QUICK, resend_seconds=resend_seconds)
    return Agent("lamp", lamp, ADDRESS, broker.port, broker.ca_file, settings=quick, observer=notes)


@contextlib.asynccontextmanager
async def running_lamp(lamp: Path, broker: Broker) -> AsyncIterator[tuple[Agent, Notes]]:
    """Run the agent for the time of the block."""
    notes = Notes()
    async with lamp_agent(lamp, broker, notes).running() as agent:
        yield agent, notes


async def test_reports_are_recorded_in_order(lamp: Path, broker: Broker, bridge: Bridge) -> None:
    """Each report arrives with its number, in order, and leaves the outbox when recorded."""
    async with running_lamp(lamp, broker) as (agent, notes):
        for number in range(50):
            await agent.report("count", {"n": number})
        async with asyncio.timeout(10):
            await agent.drained()
    heard = bridge.heard("/events/count")
    assert [one["body"]["n"] for one in heard] == list(range(50))
    assert all(abs(one["at"] - time.time() * 1_000) < 60_000 for one in heard)
    assert sorted(notes.kept) == sorted(notes.recorded)
    assert bridge.heard("/events/health")[0]["body"]["fingerprint"] == notes.sessions[0]


async def test_unrecorded_items_are_sent_again(lamp: Path, broker: Broker, bridge: Bridge) -> None:
    """PUBACK is not enough: an item is repeated with the same number until it is recorded."""
    bridge.recording = False
    async with running_lamp(lamp, broker) as (agent, _):
        await agent.report("count", 1)
        await until_async(lambda: len(bridge.heard("/events/count")) >= 2)
        bridge.recording = True
        async with asyncio.timeout(10):
            await agent.drained()
    assert {one["sequence"] for one in bridge.heard("/events/count")} == {1}


async def test_a_full_disk_ends_no_session(lamp: Path, broker: Broker, bridge: Bridge) -> None:
    """What is recorded stays kept and is told again, until the disk takes the letting go."""
    bridge.recording, notes = False, Notes()
    async with lamp_agent(lamp, broker, notes, resend_seconds=0.2).running() as agent:
        await agent.report("count", 1)
        await until_async(lambda: bridge.heard("/events/count"))
        agent.outbox._database.execute("PRAGMA query_only = ON")  # sqlite refuses as on a full disk
        bridge.recording = True
        await until_async(lambda: bridge.recorded.count((1, 1)) > 1)
        with pytest.raises(OutboxFull):
            await agent.report("count", 2)
        agent.outbox._database.execute("PRAGMA query_only = OFF")
        async with asyncio.timeout(10):
            await agent.drained()
    assert len(notes.sessions) == 1


async def test_what_was_kept_survives_a_restart(lamp: Path, broker: Broker, bridge: Bridge) -> None:
    """Items of an earlier boot are sent first, under their old numbers."""
    earlier = lamp_agent(lamp, broker, Notes())
    for number in range(3):
        await earlier.report("count", number)
    earlier.close()
    async with running_lamp(lamp, broker) as (agent, _):
        await agent.report("count", 3)
        async with asyncio.timeout(10):
            await agent.drained()
    heard = [(one["boot"], one["body"]) for one in bridge.heard("/events/count")]
    assert heard == [(1, 0), (1, 1), (1, 2), (2, 3)]


async def test_the_agent_comes_back_after_the_broker(
    lamp: Path, broker: Broker, bridge: Bridge
) -> None:
    """A broker that stops and starts again costs a reconnect, no report."""
    async with running_lamp(lamp, broker) as (agent, notes):
        await until_async(lambda: notes.sessions)
        broker.stop()
        await agent.report("count", 1)
        await until_async(lambda: notes.ends)
        broker.start()
        await until_async(lambda: len(notes.sessions) >= 2)
        assert len(agent.outbox) >= 1


async def test_a_rotation_from_order_to_drop(
    lamp: Path, broker: Broker, bridge: Bridge, ca: DeviceCa
) -> None:
    """New key, request signed by the old, install beside, proof under the new, old one dropped."""
    old = Store(lamp).current().fingerprint
    async with running_lamp(lamp, broker) as (_, notes):
        await until_async(lambda: notes.sessions == [old])
        await bridge.command("lamp", "c-1", "RotateCertificate", nonce=b"nonce-1")
        (request,) = await until_async(lambda: bridge.heard("/replies/c-1"))
        verdict = examine(request["signing_request"], bytes.fromhex(old))
        assert verdict.request_signature_valid
        new = provision.issue(ca, "lamp", x509.load_der_x509_csr(verdict.csr).public_key(), 3600)
        der = new.public_bytes(serialization.Encoding.DER)
        await bridge.command("lamp", "c-2", "InstallCertificate", certificate=der)
        await until_async(lambda: len(notes.sessions) == 2)
        assert notes.sessions[1] != old
        await until_async(lambda: len(bridge.heard("/events/health")) >= 2)
        told = [topic for topic, _ in bridge.said]
        assert told.index("devices/lamp/replies/c-2") < len(told) - 1
        assert bridge.heard("/events/health")[-1]["body"]["fingerprint"] == notes.sessions[1]
        await bridge.command("lamp", "c-3", "DropCertificate", fingerprint=bytes.fromhex(old))
        (dropped,) = await until_async(lambda: bridge.heard("/replies/c-3"))
        assert dropped["outcome"] == "done"
    assert [one.fingerprint for one in Store(lamp).identities()] == [notes.sessions[1]]


async def test_a_refused_new_certificate_leads_back_to_the_old(
    lamp: Path, broker: Broker, bridge: Bridge
) -> None:
    """When the broker refuses the new identity, the agent returns under the old one."""
    old = Store(lamp).current().fingerprint
    stranger = make_ca("stranger")
    async with running_lamp(lamp, broker) as (agent, notes):
        await until_async(lambda: notes.sessions == [old])
        key = agent.store.pending_key("c-1").public_key()
        der = provision.issue(stranger, "lamp", key, 60).public_bytes(serialization.Encoding.DER)
        await bridge.command("lamp", "c-2", "InstallCertificate", certificate=der)
        await until_async(lambda: len(notes.sessions) == 2)
        assert notes.sessions == [old, old]
        assert sum(why.startswith("refused") for why in notes.ends) == QUICK.refusals_max


async def test_an_unknown_command_is_refused(lamp: Path, broker: Broker, bridge: Bridge) -> None:
    """The reply says so; the device goes on."""
    async with running_lamp(lamp, broker) as (_, notes):
        await until_async(lambda: notes.sessions)
        await bridge.command("lamp", "c-9", "SelfDestruct")
        (reply,) = await until_async(lambda: bridge.heard("/replies/c-9"))
        assert reply["outcome"] == "refused"


async def test_a_simulated_fleet_loses_nothing(
    tmp_path: Path, broker: Broker, bridge: Bridge, ca: DeviceCa
) -> None:
    """Twelve devices, some flapping: every kept item is recorded, or still kept at the end.

    A device that flaps reports its health with each session, also after the others have drained.
    """
    plan = Plan(
        tmp_path / "fleet", ADDRESS, broker.port, broker.ca_file, 12,
        rate=20, seconds=1.5, shares={"flaps": 0.25, "sensor-fails": 0.25}, ca=ca,
    )  # fmt: skip
    simulator = Simulator(plan)
    await simulator.run()
    counts = simulator.ledger.counts
    assert counts["kept"] == counts["recorded"] + simulator.left()
    assert counts["recorded"] > 12 * 20
    assert simulator.left() <= 3
    assert bridge.heard("/events/error")
