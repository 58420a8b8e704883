"""CoAP devices on the whole stack: a rotation from order to proof, and foreign clients."""

import asyncio
import hashlib
import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.local import dtls13
from device.agent import Agent
from device.coap.link import COAPS, COAPS_TCP
from device.settings import Settings
from device.store import Identity, Store
from pki.profile import issue_device
from schemas.decisions import DecisionName
from schemas.events import DeviceReported, SessionClosed, SessionOpened, SessionRefused
from schemas.reasons import Reason
from schemas.topics import DECISIONS, DEVICE_EVENTS
from tests.helpers.stack import RunningStack
from tests.helpers.wait import until, until_async

SCHEMES = (COAPS_TCP, COAPS) if dtls13.installed() else (COAPS_TCP,)
"""`make setup` builds DTLS 1.3 where Rust is."""
QUICK = Settings(backoff_seconds=0.1, backoff_max_seconds=1.0, resend_seconds=5.0, refusals_max=2)
WITHIN = 40.0

pytestmark = pytest.mark.usefixtures("short_grace")


def of(stack: RunningStack, device_id: str, kind: type) -> list[Any]:
    """Return the records of a kind in a device's history."""
    found = [one.record for one in stack.fleet.read(DEVICE_EVENTS) if one.key == device_id.encode()]
    return [one for one in found if isinstance(one, kind)]


def sessions(stack: RunningStack, device_id: str, kind: type) -> set[str]:
    """Return the sessions of which the history tells this."""
    return {one.evidence.session for one in of(stack, device_id, kind)}


def concluded(stack: RunningStack, device_id: str) -> set[str]:
    """Return the names of the decisions about a device."""
    subject = f"device:{device_id}"
    found = [one.record for one in stack.fleet.read(DECISIONS)]
    return {one.name for one in found if one.subject == subject}


def registered(stack: RunningStack, device_id: str, folder: Path) -> Identity:
    """Give a device its first identity and register it."""
    key = ec.generate_private_key(ec.SECP256R1())
    began = datetime.now(UTC) - timedelta(hours=1)
    public = key.public_key()
    der = issue_device(
        stack.authorities, device_id, public, f"first-{device_id}", began, timedelta(days=89)
    )
    store = Store(folder)
    identity = store.add(key, x509.load_der_x509_certificate(der))
    store.settle(identity.fingerprint)
    stack.fleet.register(device_id, "lamp", ("coap",), certificate=der)
    until(lambda: device_id in stack.fleet.devices(), within=20, describe=f"a row of {device_id}")
    return identity


def agent(stack: RunningStack, device_id: str, folder: Path, scheme: str) -> Agent:
    """Return an agent that speaks CoAP with the stack's bridge."""
    ca_file = stack.layout.pki_dir / "service-ca" / "ca.pem"
    port = stack.layout.coap_port
    return Agent(device_id, folder, "localhost", port, ca_file, settings=QUICK, scheme=scheme)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_coap_device_rotates_and_proves_it(
    stack: RunningStack, tmp_path: Path, scheme: str
) -> None:
    """Order, new key, certificate, proof of use, and the old one is refused at the door."""
    device_id = f"rotates-{scheme.replace('+', '-')}"
    folder = tmp_path / device_id
    first = registered(stack, device_id, folder)
    one = agent(stack, device_id, folder, scheme)
    async with one.running():
        await one.report("temperature", {"celsius": 21.5})
        await asyncio.wait_for(one.drained(), WITHIN)
        stack.fleet.rotate(device_id)
        await until_async(
            lambda: DecisionName.ROTATION_COMPLETED in concluded(stack, device_id),
            within=WITHIN,
            describe=lambda: f"completed: {stack.fleet.device(device_id).rotation}",
        )
        await one.report("temperature", {"celsius": 22.5})
        await asyncio.wait_for(one.drained(), WITHIN)
        second = one.store.current()
        await until_async(
            lambda: one.store.find(first.fingerprint) is None,
            within=WITHIN,
            describe="the old identity is dropped",
        )
    assert second.fingerprint != first.fingerprint
    reports = [one for one in of(stack, device_id, DeviceReported) if one.event_type != "health"]
    shown = [one.evidence.certificate_sha256.hex() for one in reports]
    assert shown == [first.fingerprint, second.fingerprint]
    assert {one.evidence.protocol for one in of(stack, device_id, SessionOpened)} == {"coap"}
    await until_async(
        lambda: (
            sessions(stack, device_id, SessionOpened) == sessions(stack, device_id, SessionClosed)
        ),
        within=WITHIN,
        describe=lambda: (
            f"{sessions(stack, device_id, SessionOpened)} have all closed: "
            f"{sessions(stack, device_id, SessionClosed)}"
        ),
    )


async def test_a_retired_certificate_is_refused_at_the_coap_door(
    stack: RunningStack, tmp_path: Path
) -> None:
    """A device that kept its old identity is not let in, and the history says why."""
    device_id = "clings-1"
    folder, kept = tmp_path / device_id, tmp_path / "kept"
    first = registered(stack, device_id, folder)
    old = Store(kept).add(first.key(), first.certificate())
    one = agent(stack, device_id, folder, COAPS_TCP)
    async with one.running():
        stack.fleet.rotate(device_id)
        await until_async(
            lambda: DecisionName.ROTATION_COMPLETED in concluded(stack, device_id),
            within=WITHIN,
            describe="completed",
        )
    clinging = agent(stack, device_id, kept, COAPS_TCP)
    async with clinging.running():
        await until_async(
            lambda: of(stack, device_id, SessionRefused), within=WITHIN, describe="it is refused"
        )
    (refused, *_) = of(stack, device_id, SessionRefused)
    assert refused.evidence.certificate_sha256.hex() == old.fingerprint
    assert refused.reason == Reason.CERTIFICATE_RETIRED.value


async def test_what_was_said_while_the_bridge_was_killed_arrives(
    stack: RunningStack, tmp_path: Path
) -> None:
    """The CoAP bridge is killed: the device keeps its events and sends them when it is back."""
    device_id = "patient-coap"
    registered(stack, device_id, tmp_path / device_id)
    one = agent(stack, device_id, tmp_path / device_id, COAPS_TCP)
    async with one.running():
        await one.report("step", 0)
        await asyncio.wait_for(one.drained(), WITHIN)
        stack.kill("coap")
        for number in range(1, 21):
            await one.report("step", number)
        await asyncio.wait_for(one.drained(), WITHIN)
    steps = [one for one in of(stack, device_id, DeviceReported) if one.event_type == "step"]
    numbers = [one.numbering.sequence for one in steps]
    assert list(dict.fromkeys(numbers)) == sorted(set(numbers))
    assert len(set(numbers)) == 21
    await until_async(stack.all_run, within=20, describe="the stack is whole again")


RESOURCE = "</commands>;rt="
PEERS = ("coap-client-openssl", "coap-client-gnutls")


def foreign(stack: RunningStack, program: str, identity: Identity | None) -> Callable[..., str]:
    """Return how to make a request by a foreign client over coaps+tcp."""
    ca_file = str(stack.layout.pki_dir / "service-ca" / "ca.pem")
    shown = ["-c", str(identity.certificate_file), "-j", str(identity.key_file)] if identity else []

    def ask(path: str, *options: str) -> str:
        uri = f"coaps+tcp://localhost:{stack.layout.coap_port}/{path}"
        command = [program, "-v", "6", "-B", "5", *shown, "-C", ca_file, *options, uri]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        return done.stdout + done.stderr

    return ask


@pytest.mark.parametrize("program", PEERS)
def test_a_foreign_client_posts_fetches_and_observes(
    stack: RunningStack, tmp_path: Path, program: str
) -> None:
    """Libcoap over coaps+tcp: discovery, an event, fifty kilobytes, the list of commands."""
    device_id = f"foreign-{program[12:]}"
    ask = foreign(stack, program, registered(stack, device_id, tmp_path / device_id))
    assert RESOURCE in ask(".well-known/core?rt=fleetcert.c*")
    body = json.dumps({"body": "x" * 50_000})
    (tmp_path / "body.json").write_text(body)
    ask("events/heat", "-m", "post", "-t", "50", "-e", '{"body": 21.5}')
    ask("events/trace", "-m", "post", "-t", "50", "-f", str(tmp_path / "body.json"))
    assert "4.00 not application/json" in ask("events/heat", "-m", "post", "-t", "50", "-e", "no")
    stack.fleet.rotate(device_id)
    observed = ask("commands", "-s", "3", "-A", "50")
    assert "RotateCertificate" in observed
    found = of(stack, device_id, DeviceReported)
    assert [(one.event_type, len(one.payload)) for one in found] == [
        ("heat", 14),
        ("trace", len(body)),
    ]
    digest = hashlib.sha256(found[1].payload).digest()
    assert digest == hashlib.sha256(body.encode()).digest()


@pytest.mark.parametrize("program", PEERS)
def test_a_foreign_client_without_a_valid_certificate_gets_nothing(
    stack: RunningStack, tmp_path: Path, program: str
) -> None:
    """No certificate, or one that is expired: no answer; the history knows the expired device."""
    assert RESOURCE not in foreign(stack, program, None)(".well-known/core")
    device_id = f"late-{program[12:]}"
    key = ec.generate_private_key(ec.SECP256R1())
    began = datetime.now(UTC) - timedelta(days=9)
    der = issue_device(
        stack.authorities, device_id, key.public_key(), "late", began, timedelta(days=8)
    )
    late = Store(tmp_path / "late").add(key, x509.load_der_x509_certificate(der))
    assert late.certificate().public_bytes(serialization.Encoding.DER) == der
    assert RESOURCE not in foreign(stack, program, late)(".well-known/core")
    (refused, *_) = until(lambda: of(stack, device_id, SessionRefused), describe="it is told")
    assert refused.reason == Reason.EXPIRED.value
