"""The reference device over CoAP against the bridge in this process: both transports alike."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from bridges.coap.sessions import ENDED
from device.agent import Agent
from device.coap.link import COAPS, COAPS_TCP
from device.observer import Observer
from device.settings import Settings
from device.store import Store
from schemas.commands import DropCertificate, InstallCertificate
from schemas.decisions import DeadLetter
from schemas.events import CommandAnswered, DeviceReported, SessionClosed
from tests.coap.rig import Authorities, Identity, Running, running
from tests.helpers.wait import until_async

pytest.importorskip("fleetcert_dtls13", reason="built by `make setup` where Rust is")
pytestmark = pytest.mark.parametrize("scheme", [COAPS_TCP, COAPS])
WITHIN = 20.0
FAR = 2**41
QUICK = Settings(
    backoff_seconds=0.05, backoff_max_seconds=0.2, resend_seconds=1.0, refusals_max=100
)


class Told(Observer):
    """Remembers how sessions ended, and what was refused."""

    def __init__(self) -> None:
        self.endings: list[str] = []
        self.refused: list[str] = []
        self.connected: list[str] = []

    def on_connected(self, fingerprint: str) -> None:
        """Remember."""
        self.connected.append(fingerprint)

    def on_disconnected(self, why: str) -> None:
        """Remember."""
        self.endings.append(why)

    def on_refused(self, boot: int, sequence: int, reason: str) -> None:
        """Remember."""
        self.refused.append(reason)


def keep(folder: Path, identity: Identity) -> Store:
    """Put an identity into a device's store, and make it the current one."""
    store = Store(folder)
    key = serialization.load_der_private_key(identity.key, None)
    store.settle(store.add(key, x509.load_der_x509_certificate(identity.certificate)).fingerprint)
    return store


def agent(
    bridge: Running, folder: Path, scheme: str, told: Told | None = None, **changes: Any
) -> Agent:
    """Return an agent whose store is in the folder."""
    values = {"port": bridge.port, "ca_file": bridge.authorities.service_ca} | changes
    return Agent(
        "pump-1",
        folder,
        "localhost",
        values["port"],
        values["ca_file"],
        settings=QUICK,
        observer=told or Told(),
        scheme=scheme,
    )


async def test_events_in_their_order_each_once(
    authorities: Authorities, tmp_path: Path, scheme: str
) -> None:
    """Thirty events, one of them of forty kilobytes: recorded in order, none twice."""
    keep(tmp_path, authorities.device("pump-1"))
    async with running(authorities) as bridge:
        one = agent(bridge, tmp_path, scheme)
        async with one.running():
            for number in range(30):
                await one.report("step", "x" * 40_000 if number == 7 else number)
            await asyncio.wait_for(one.drained(), WITHIN)
        found = [one.numbering.sequence for one in bridge.kafka.of(DeviceReported)]
        assert found == sorted(set(found))
        assert len(found) == 31, "thirty and a health event"
        await until_async(lambda: bridge.kafka.of(SessionClosed), describe="it says goodbye")
        assert bridge.sessions == 0
        (closed,) = bridge.kafka.of(SessionClosed)
        assert closed.reason_code == ENDED


async def test_while_kafka_is_away_the_order_is_kept(
    authorities: Authorities, tmp_path: Path, scheme: str
) -> None:
    """5.03 makes the device ask again with the same number, and nothing overtakes it."""
    keep(tmp_path, authorities.device("pump-1"))
    async with running(authorities, record_seconds=0.1) as bridge:
        one = agent(bridge, tmp_path, scheme)
        async with one.running():
            await one.report("step", 0)
            await asyncio.wait_for(one.drained(), WITHIN)
            bridge.kafka.away = True
            for number in range(1, 6):
                await one.report("step", number)
            await until_async(
                lambda: len(bridge.kafka.of(DeviceReported)) >= 3, describe="one is asked for"
            )
            bridge.kafka.away = False
            await asyncio.wait_for(one.drained(), WITHIN)
        found = [one.numbering.sequence for one in bridge.kafka.of(DeviceReported)]
        assert list(dict.fromkeys(found)) == sorted(set(found))


async def test_commands_are_answered_and_leave_the_list(
    authorities: Authorities, tmp_path: Path, scheme: str
) -> None:
    """A command that comes while it listens, and one that waited for it."""
    keep(tmp_path, authorities.device("pump-1"))
    async with running(authorities) as bridge:
        one = agent(bridge, tmp_path, scheme)
        async with one.running():
            await one.report("step", 0)
            await asyncio.wait_for(one.drained(), WITHIN)
            await bridge.bridge.deliver(DropCertificate("d-1", "pump-1", 1, 1, FAR, b"f" * 32))
            await bridge.bridge.deliver(InstallCertificate("i-1", "pump-1", 2, 1, FAR, b"no DER"))
            await until_async(
                lambda: len(bridge.kafka.of(CommandAnswered)) == 2,
                within=WITHIN,
                describe="both are answered",
            )
            (session,) = bridge.bridge.sessions.of("pump-1")
            await until_async(lambda: not session.commands, describe="the list is empty")
        answers = {one.command_id: one.outcome for one in bridge.kafka.of(CommandAnswered)}
    assert answers == {"d-1": "done", "i-1": "refused"}


async def test_what_is_refused_for_good_is_let_go(
    authorities: Authorities, tmp_path: Path, scheme: str
) -> None:
    """A malformed reply: kept as a dead letter, told to the device, not sent again."""
    keep(tmp_path, authorities.device("pump-1"))
    told = Told()
    async with running(authorities) as bridge:
        one = agent(bridge, tmp_path, scheme, told)
        async with one.running():
            one.outbox.put(
                "devices/pump-1/replies/c-1",
                "application/json",
                lambda boot, sequence: (
                    b'{"boot": %d, "sequence": %d, "outcome": "perhaps"}' % (boot, sequence)
                ),
            )
            await asyncio.wait_for(one.drained(), WITHIN)
        assert len(bridge.kafka.of(DeadLetter)) == 1
    (why,) = told.refused
    assert why.startswith("4.00")


async def test_a_refused_identity_is_told_from_an_absent_bridge(
    authorities: Authorities, tmp_path: Path, scheme: str
) -> None:
    """Refused counts against the identity; unreachable, and not our server, do not."""
    keep(tmp_path / "late", authorities.expired("pump-1"))
    keep(tmp_path / "good", authorities.device("pump-1"))
    late, away, wrong = Told(), Told(), Told()
    async with running(authorities) as bridge:
        async with agent(bridge, tmp_path / "late", scheme, late).running():
            await until_async(lambda: late.endings, within=WITHIN, describe="an ending")
        async with agent(
            bridge, tmp_path / "good", scheme, wrong, ca_file=authorities.device_ca
        ).running():
            await until_async(lambda: wrong.endings, within=WITHIN, describe="an ending")
        port = bridge.port
    async with agent(bridge, tmp_path / "good", scheme, away, port=port).running():
        await until_async(lambda: away.endings, within=WITHIN, describe="an ending")
    assert late.endings[0].startswith("refused")
    assert wrong.endings[0].startswith("unreachable")
    assert away.endings[0].startswith("unreachable")
    assert not late.connected
    assert not wrong.connected


async def test_a_new_identity_is_used_from_the_next_session_on(
    authorities: Authorities, tmp_path: Path, scheme: str
) -> None:
    """InstallCertificate: the reply goes out under the old one, the next event under the new."""
    old = authorities.device("pump-1")
    store, told = keep(tmp_path, old), Told()
    key = store.pending_key("r-1")
    new = authorities.certify("pump-1", key.public_key())
    async with running(authorities) as bridge:
        one = agent(bridge, tmp_path, scheme, told)
        async with one.running():
            await one.report("step", 0)
            await asyncio.wait_for(one.drained(), WITHIN)
            await bridge.bridge.deliver(InstallCertificate("i-1", "pump-1", 1, 1, FAR, new))
            await until_async(
                lambda: len(told.connected) == 2, within=WITHIN, describe="it comes again"
            )
            await one.report("step", 1)
            await asyncio.wait_for(one.drained(), WITHIN)
        steps = [one for one in bridge.kafka.of(DeviceReported) if one.event_type == "step"]
        (answer,) = bridge.kafka.of(CommandAnswered)
    shown = [one.evidence.certificate_sha256 for one in steps]
    assert shown[0] == answer.evidence.certificate_sha256 == old.fingerprint
    assert shown[1] != old.fingerprint
