"""Just-in-time registration on the whole stack: from a maker's certificate to one of ours."""

import asyncio
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiomqtt import NegativeAckError
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from client.connection import Connection
from client.errors import FleetError
from client.local import supervisor
from device.agent import Agent
from device.coap.link import COAPS_TCP
from device.link import MQTTS, tls_context
from device.observer import Observer
from device.settings import Settings
from device.store import Identity, Store
from pki import authority, path
from pki.authority import Authority
from pki.profile import issue_device
from protocols.mqtt import Client
from schemas.events import (
    CertificatePresented,
    CertificateRevoked,
    DeviceReported,
    SessionOpened,
)
from schemas.pending import AUTOMATIC, PendingRow
from schemas.topics import DEVICE_EVENTS
from tests.helpers.stack import RunningStack
from tests.helpers.wait import until, until_async
from tests.integration.test_est import coap, csr, proves

QUICK = Settings(backoff_seconds=0.1, backoff_max_seconds=1.0, resend_seconds=5.0, refusals_max=2)
WITHIN = 40.0


class Refusals(Observer):
    """Remembers why sessions ended, and by which certificate the device is known to wait."""

    def __init__(self) -> None:
        self.ends: list[str] = []
        self.presented: list[str] = []

    def on_presented(self, fingerprint: str) -> None:
        """Note it."""
        self.presented.append(fingerprint)

    def on_disconnected(self, why: str) -> None:
        """Note it."""
        self.ends.append(why)


@pytest.fixture(scope="module", autouse=True)
def approval(stack: RunningStack) -> Iterator[None]:
    """Let unknown devices wait for approval, by a change of the file; old certificates go soon."""
    file = stack.layout.data_dir / "given.yaml"
    usual = file.read_text()
    _reload(stack, file, usual.replace("ca:", "justInTime: approval, ca:"), "approval")
    with stack.under(replace(stack.fleet.partition_row(0).policy, grace_ms=1_000)):
        yield
    _reload(stack, file, usual, "off")


def _reload(stack: RunningStack, file: Path, text: str, mode: str) -> None:
    file.write_text(text)
    os.kill(int(str(supervisor.status(stack.layout)["pid"])), signal.SIGHUP)
    parts = range(stack.layout.partitions)
    until(
        lambda: {stack.fleet.partition_row(one).policy.just_in_time for one in parts} == {mode},
        within=WITHIN,
        describe=f"just_in_time is {mode}",
    )


def made_by(
    maker: Authority, device_id: str, folder: Path, *, provisioning: bool = False
) -> Identity:
    """Give a device the certificate that its maker gives all of its devices.

    Over MQTT it must know what it is; over CoAP it need not.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    began = datetime.now(UTC) - timedelta(hours=1)
    der = issue_device(maker, device_id, key.public_key(), "made", began, timedelta(days=89))
    store = Store(folder)
    made = x509.load_der_x509_certificate(der)
    identity = store.add(key, made, provisioning=provisioning)
    store.settle(identity.fingerprint)
    return identity


def agent(
    stack: RunningStack, device_id: str, folder: Path, ledger: Observer, scheme: str = COAPS_TCP
) -> Agent:
    """Return an agent that speaks with the stack's bridge, or with its broker."""
    ca_file = stack.layout.pki_dir / "service-ca" / "ca.pem"
    port = stack.layout.device_port if scheme == MQTTS else stack.layout.coap_port
    return Agent(
        device_id, folder, "localhost", port, ca_file,
        settings=QUICK, observer=ledger, scheme=scheme,
    )  # fmt: skip


def waiting(stack: RunningStack, device_id: str) -> list[PendingRow]:
    """Return the device's row, where it is none of a device yet."""
    return [one for one in stack.fleet.pending() if one.device_id == device_id]


def kinds(stack: RunningStack, device_id: str, kind: type) -> list[str]:
    """Return under which certificates the history tells this of a device."""
    key = device_id.encode()
    records = [one.record for one in stack.fleet.read(DEVICE_EVENTS) if one.key == key]
    return [one.evidence.certificate_sha256.hex() for one in records if isinstance(one, kind)]


@pytest.mark.parametrize("scheme", [COAPS_TCP, MQTTS])
async def test_an_unknown_device_waits_is_approved_and_gets_a_certificate_of_ours(
    stack: RunningStack, maker: Authority, tmp_path: Path, scheme: str
) -> None:
    """Approval of another certificate does nothing; of this one, all the rest goes by itself."""
    over_mqtt, folder, ledger = scheme == MQTTS, tmp_path / "newcomer", Refusals()
    device_id = "newcomer-5" if over_mqtt else "newcomer-1"
    first = made_by(maker, device_id, folder, provisioning=over_mqtt)
    one = agent(stack, device_id, folder, ledger, scheme)
    async with one.running():
        await until_async(
            lambda: waiting(stack, device_id), within=WITHIN, describe="it waits for approval"
        )
        (row,) = [row for row in stack.json("device", "pending") if row["device_id"] == device_id]
        assert row["certificate"]["fingerprint"] == first.fingerprint
        assert device_id not in stack.fleet.ids()
        assert stack.fleet.find(device_id) is None
        with pytest.raises(FleetError, match="not approved"):
            stack.fleet.device(device_id)
        refused = stack.command("device", "approve", device_id, "00" * 32)
        assert (refused.returncode, "another certificate" in refused.stderr) == (1, True)
        assert len(waiting(stack, device_id)) == 1
        done = stack.command(
            "device", "approve", device_id, first.fingerprint[:16], "--type", "lamp",
            "--tag", "site=berlin",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        await until_async(
            lambda: one.store.current().fingerprint != first.fingerprint,
            within=WITHIN,
            describe=lambda: f"it has its own: {stack.fleet.device(device_id).rotation}",
        )
        second = one.store.current()
        await one.report("temperature", {"celsius": 21.5})
        await until_async(
            lambda: second.fingerprint in kinds(stack, device_id, DeviceReported),
            within=WITHIN,
            describe="it is heard under its own",
        )
        await until_async(
            lambda: one.store.find(first.fingerprint) is None,
            within=WITHIN,
            describe="it has dropped the maker's",
        )
    der = second.certificate().public_bytes(authority.serialization.Encoding.DER)
    anchors = stack.authorities.device.anchors
    assert path.validate_device(der, anchors, datetime.now(UTC)).device_id == device_id
    found = stack.fleet.device(device_id)
    spoken = ("mqtt" if over_mqtt else "coap",)
    assert (found.device_type, found.protocols, found.tags) == ("lamp", spoken, ("site=berlin",))
    assert ledger.presented == ([first.fingerprint] if over_mqtt else [])
    assert set(kinds(stack, device_id, DeviceReported)) == {second.fingerprint}
    assert set(kinds(stack, device_id, SessionOpened)) == {second.fingerprint}
    key = device_id.encode()
    history = [one.record for one in stack.fleet.read(DEVICE_EVENTS) if one.key == key]
    assert not [one for one in history if isinstance(one, CertificateRevoked)]
    assert waiting(stack, device_id) == []


async def test_who_is_rejected_or_of_an_unknown_ca_stays_outside(
    stack: RunningStack, maker: Authority, tmp_path: Path
) -> None:
    """A rejected one is no device; a stranger does not even pass the handshake."""
    device_id, ledger = "newcomer-2", Refusals()
    held = made_by(maker, device_id, tmp_path / "rejected")
    async with agent(stack, device_id, tmp_path / "rejected", ledger).running():
        await until_async(
            lambda: waiting(stack, device_id), within=WITHIN, describe="it waits for approval"
        )
        assert stack.json("device", "reject", device_id, held.fingerprint) == [
            {"device_id": device_id, "approved": False}
        ]
    (row,) = waiting(stack, device_id)
    assert row.rejected_at > 0
    assert stack.fleet.find(device_id) is None
    stranger = authority.create(tmp_path / "stranger", now=datetime.now(UTC))
    made_by(stranger, "newcomer-3", tmp_path / "outside")
    async with agent(stack, "newcomer-3", tmp_path / "outside", ledger := Refusals()).running():
        await until_async(lambda: ledger.ends, within=WITHIN, describe="it is turned away")
    assert ledger.ends[0].startswith("refused")
    assert waiting(stack, "newcomer-3") == []


async def test_who_is_not_approved_in_time_lapses_and_waits_anew_when_it_comes_again(
    stack: RunningStack, maker: Authority, tmp_path: Path
) -> None:
    """By the machine's clock: it is no more in the list, until its next session."""
    device_id, folder = "newcomer-7", tmp_path / "newcomer"
    made_by(maker, device_id, folder)
    with stack.under(replace(stack.fleet.partition_row(0).policy, pending_ms=1_000)):
        async with agent(stack, device_id, folder, Refusals()).running():
            await until_async(
                lambda: [one for one in waiting(stack, device_id) if one.lapsed_at],
                within=WITHIN,
                describe=lambda: f"it lapses: {waiting(stack, device_id)}",
            )
    assert device_id not in {one["device_id"] for one in stack.json("device", "pending")}
    listed = stack.json("device", "pending", "--all")
    (row,) = [one for one in listed if one["device_id"] == device_id]
    async with agent(stack, device_id, folder, Refusals()).running():
        await until_async(
            lambda: [
                one
                for one in waiting(stack, device_id)
                if not one.lapsed_at and one.first_seen_at >= row["lapsed_at"]
            ],
            within=WITHIN,
            describe=lambda: f"it waits anew: {waiting(stack, device_id)}",
        )


async def test_over_mqtt_a_device_comes_in_by_itself_where_the_policy_says_so(
    stack: RunningStack, maker: Authority, tmp_path: Path
) -> None:
    """Automatic: what it had to say waits for its own certificate, and all of it is heard then."""
    device_id, folder, ledger = "newcomer-6", tmp_path / "newcomer", Refusals()
    first = made_by(maker, device_id, folder, provisioning=True)
    kept = copied_from(first, tmp_path / "kept")
    one = agent(stack, device_id, folder, ledger, MQTTS)
    with stack.under(replace(stack.fleet.partition_row(0).policy, just_in_time=AUTOMATIC)):
        for number in range(3):
            await one.report("step", number)
        async with one.running():
            await until_async(
                lambda: one.store.current().fingerprint != first.fingerprint,
                within=WITHIN,
                describe=lambda: f"it has its own: {ledger.ends}",
            )
            await one.report("step", 3)
            async with asyncio.timeout(WITHIN):
                await one.drained()
            second = one.store.current().fingerprint
            await until_async(
                lambda: stack.fleet.device(device_id).window.messages >= 4,
                within=WITHIN,
                describe=lambda: f"its row has them: {stack.fleet.device(device_id)}",
            )
    assert ledger.presented == [first.fingerprint]
    assert set(kinds(stack, device_id, CertificatePresented)) == {first.fingerprint}
    assert set(kinds(stack, device_id, SessionOpened)) == {second}
    assert set(kinds(stack, device_id, DeviceReported)) == {second}
    assert [one for one in stack.fleet.alerts() if one.subject == f"device:{device_id}"] == []
    (known,) = [one for one in stack.fleet.device(device_id).certificates if one.provisioning]
    assert (known.fingerprint.hex(), known.status == "active") == (first.fingerprint, False)
    await until_async(
        lambda: refused_at_the_broker(stack, kept),
        within=WITHIN,
        describe="the maker's certificate is refused",
    )


def copied_from(held: Identity, folder: Path) -> Identity:
    """Keep a copy of an identity: the device drops its own."""
    copied = shutil.copytree(held.key_file.parent, folder)
    return replace(
        held,
        key_file=copied / held.key_file.name,
        certificate_file=copied / held.certificate_file.name,
    )


async def refused_at_the_broker(stack: RunningStack, held: Identity) -> bool:
    """Connect once more with a maker's certificate; tell whether the broker refuses it."""
    ca_file = stack.layout.pki_dir / "service-ca" / "ca.pem"
    client = Client(
        hostname="localhost",
        port=stack.layout.device_port,
        ssl_context=tls_context(ca_file, held),
        identifier=f"~{held.fingerprint}",
    )
    try:
        await client.__aenter__()
    except NegativeAckError as error:
        return "NOT_AUTHORIZED" in str(error)
    finally:
        client.abort()
    return False


async def test_a_standard_client_enrols_by_est(
    stack: RunningStack, maker: Authority, tmp_path: Path
) -> None:
    """RFC 9148 `sen` with libcoap: told to wait, approved, and the same request again."""
    device_id, layout = "newcomer-4", stack.layout
    held = made_by(maker, device_id, tmp_path / "store")
    request, made = csr(device_id, tmp_path), tmp_path / "next.der"
    body = ("-m", "post", "-t", "286", "-A", "287", "-f", str(request), "-o", str(made))
    cert, key = held.certificate_file, held.key_file
    said = coap(stack, layout.coap_port, cert, key, "est/sen", *body)
    assert (made.exists(), "approval-awaited" in said) == (False, True), said
    async with Connection(stack.layout.bootstrap, actor="tests") as fleetcert:
        (row,) = [one for one in await fleetcert.registry.pending() if one.device_id == device_id]
        device = await fleetcert.registry.approve(device_id, row.certificate.fingerprint.hex())
        assert (await device.row()).device_type == "device"
    said = coap(stack, layout.coap_port, cert, key, "est/sen", *body)
    assert made.exists(), said
    proves(stack, device_id, x509.load_der_x509_certificate(made.read_bytes()), tmp_path)
    (known,) = [one for one in stack.fleet.device(device_id).certificates if one.provisioning]
    assert known.fingerprint.hex() == held.fingerprint
    assert {one["identical"] for one in stack.json("replay", "--verify")} == {True}
    assert known.status != "active"
