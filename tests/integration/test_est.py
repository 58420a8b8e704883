"""Standard clients renew on the whole stack: a CSR goes in, a certificate out, the old one ends."""

import asyncio
import json
import re
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    load_pem_private_key,
    pkcs7,
)

from device.agent import Agent
from device.door import door
from device.store import Identity, Store
from pki.profile import issue_device
from schemas.decisions import DecisionName
from schemas.events import DeviceRegistered, SessionRefused
from schemas.reasons import Reason
from schemas.states import Idle, Requested
from schemas.topics import DECISIONS, DEVICE_EVENTS
from streams.core import certificate
from tests.helpers.est import coap, csr, enrol
from tests.helpers.stack import RunningStack
from tests.helpers.wait import until

WITHIN = 30.0
HOUR = timedelta(hours=1)

pytestmark = pytest.mark.usefixtures("short_grace")


def registered(
    stack: RunningStack, device_id: str, folder: Path, ago: timedelta, lifetime: timedelta
) -> Identity:
    """Give a device a certificate that began so long ago, and register it."""
    key = ec.generate_private_key(ec.SECP256R1())
    began = datetime.now(UTC) - ago
    der = issue_device(
        stack.authorities, device_id, key.public_key(), f"first-{device_id}", began, lifetime
    )
    stack.fleet.register(device_id, "lamp", ("coap",), certificate=der)
    until(lambda: device_id in stack.fleet.devices(), within=20, describe=f"a row of {device_id}")
    return Store(folder).add(key, x509.load_der_x509_certificate(der))


def curl(stack: RunningStack, identity: Identity, request: Path) -> tuple[int, bytes]:
    """Ask for a certificate by curl until it is no longer being made; return status and body."""
    body = subprocess.run(["openssl", "base64", "-in", str(request)], capture_output=True).stdout
    ca_file = stack.layout.pki_dir / "service-ca" / "ca.pem"
    command = ["curl", "-s", "--max-time", "25", "--cacert", str(ca_file), "-w", "\n%{http_code}"]
    command += ["--cert", str(identity.certificate_file), "--key", str(identity.key_file)]
    command += ["-H", "Content-Type: application/pkcs10", "--data-binary", "@-"]
    until_at = time.monotonic() + WITHIN
    while True:
        done = subprocess.run(
            [*command, f"{stack.layout.est}/simplereenroll"],
            input=body,
            capture_output=True,
            check=True,
        )
        answer, _, status = done.stdout.rpartition(b"\n")
        if int(status) != 202 or time.monotonic() > until_at:
            return int(status), answer


def proves(stack: RunningStack, device_id: str, made: x509.Certificate, folder: Path) -> str:
    """Report under the new certificate; see the rotation completed, return why it began."""
    new = folder / "next.pem"
    new.write_bytes(made.public_bytes(Encoding.PEM))
    port = stack.layout.coap_port
    coap(stack, port, new, folder / "next.key", "events/heat", "-m", "post", "-t", "50", "-e", "{}")
    fingerprint = made.fingerprint(hashes.SHA256())
    until(
        lambda: (
            isinstance(stack.fleet.device(device_id).rotation, Idle)
            and certificate.active(stack.fleet.device(device_id)).fingerprint == fingerprint
        ),
        within=WITHIN,
        describe=lambda: f"completed: {stack.fleet.device(device_id).rotation}",
    )
    row = stack.fleet.device(device_id)
    states = [one.state for one in row.journey]
    assert states[-4:] == ["csr-received", "issued", "proven", "idle"]
    assert certificate.find(row, fingerprint).first_used_offset > 0  # type: ignore[union-attr]
    subject = f"device:{device_id}"
    decided = [one.record for one in stack.fleet.read(DECISIONS) if one.record.subject == subject]
    started = [one for one in decided if one.name == DecisionName.ROTATION_STARTED]
    assert DecisionName.ROTATION_COMPLETED in {one.name for one in decided}
    (reason,) = {one.reason for one in started}
    return str(reason)


def test_curl_renews_a_certificate_and_the_old_one_ends(
    stack: RunningStack, tmp_path: Path
) -> None:
    """EST over HTTPS: the same certificate for the same CSR, its proof, and the old is refused."""
    device_id = "est-https"
    first = registered(stack, device_id, tmp_path / "store", HOUR, timedelta(days=89))
    request = csr(device_id, tmp_path)
    status, body = curl(stack, first, request)
    assert status == 200, body
    assert curl(stack, first, request) == (200, body)
    der = subprocess.run(["openssl", "base64", "-d"], input=body, capture_output=True).stdout
    (made,) = pkcs7.load_der_pkcs7_certificates(der)
    made.verify_directly_issued_by(stack.authorities.device.certificate)
    assert proves(stack, device_id, made, tmp_path) == Reason.DEVICE_ASKED.value
    refused = until(
        lambda: curl(stack, first, request)[0] == 403, within=WITHIN, describe="the old is refused"
    )
    assert refused
    told = until(lambda: of(stack, device_id, SessionRefused), describe="the history is told")
    assert told[0].reason == Reason.CERTIFICATE_RETIRED.value


@pytest.mark.parametrize("scheme", ["https", "coaps+tcp"])
async def test_the_agent_renews_an_expired_certificate_at_a_door(
    stack: RunningStack, tmp_path: Path, scheme: str
) -> None:
    """The broker refuses it, no command reaches it; it comes back by itself, with a new one."""
    device_id, layout = f"est-agent-{scheme[:5]}", stack.layout
    old = registered(stack, device_id, tmp_path, 20 * HOUR, 10 * HOUR)
    port = layout.est_port if scheme == "https" else layout.coap_renewal_port
    ca_file = layout.pki_dir / "service-ca" / "ca.pem"
    at = door(f"{scheme}://localhost:{port}", ca_file)
    agent = Agent(device_id, tmp_path, "localhost", layout.device_port, ca_file, renewal_door=at)
    async with agent.running():
        async with asyncio.timeout(WITHIN):
            await agent.report("heat", 1)
            await agent.drained()
    until(
        lambda: isinstance(stack.fleet.device(device_id).rotation, Idle),
        within=WITHIN,
        describe="the rotation is completed",
    )
    active = certificate.active(stack.fleet.device(device_id))
    assert active.fingerprint.hex() == agent.store.current().fingerprint != old.fingerprint


def test_curl_enrols_an_invited_device_once(stack: RunningStack, tmp_path: Path) -> None:
    """`device invite`, then simpleenroll by curl: registered, told by whom; then it renews."""
    device_id = "est-invited"
    registrar = str(stack.layout.services_dir / "registrar.pem")
    said = stack.command("device", "invite", device_id, "--type", "lamp", "--json",
                         "--registrar", registrar)  # fmt: skip
    assert said.returncode == 0, said.stderr
    token = json.loads(said.stdout)["token"]
    request = csr(device_id, tmp_path)
    first = until(
        lambda: (found := enrol(stack, device_id, token, request))[0] == 200 and found[1],
        within=WITHIN,
        describe=lambda: f"enrolled: {enrol(stack, device_id, token, request)}",
    )
    assert enrol(stack, device_id, token, request) == (200, first)
    (tmp_path / "other").mkdir()
    assert enrol(stack, device_id, token, csr(device_id, tmp_path / "other"))[0] == 403
    assert enrol(stack, device_id, f"{token}x", request)[0] == 401
    made = tmp_path / "first.pem"
    command = "openssl base64 -d | openssl pkcs7 -inform DER -print_certs"
    made.write_bytes(subprocess.run(command, shell=True, input=first, capture_output=True).stdout)

    until(lambda: device_id in stack.fleet.devices(), within=WITHIN, describe="it is registered")
    (told,) = of(stack, device_id, DeviceRegistered)
    assert told.device_type == "lamp"
    assert re.fullmatch(r"registrar, by invitation [0-9a-f]{8} at est", told.actor)
    fetched = subprocess.run(["openssl", "x509", "-in", str(made), "-outform", "DER"],
                             capture_output=True, check=True).stdout  # fmt: skip
    assert fetched == told.certificate.der
    identity = Store(tmp_path / "store").add(
        load_pem_private_key((tmp_path / "next.key").read_bytes(), None),
        x509.load_der_x509_certificate(fetched),
    )
    assert curl(stack, identity, csr(device_id, tmp_path))[0] == 200
    again = stack.command("device", "invite", device_id, "--registrar", registrar)
    assert again.returncode != 0
    assert "is registered" in again.stderr


def test_a_device_that_expired_renews_at_the_renewal_door_of_coap(
    stack: RunningStack, tmp_path: Path
) -> None:
    """EST-coaps in blocks of 64 bytes: the usual door refuses it, the renewal door does not.

    The machine had ordered a rotation that nobody could hear: the renewal is its answer.
    """
    device_id = "est-coap"
    first = registered(stack, device_id, tmp_path / "store", 20 * HOUR, 10 * HOUR)
    until(
        lambda: isinstance(stack.fleet.device(device_id).rotation, Requested),
        within=WITHIN,
        describe=lambda: f"ordered: {stack.fleet.device(device_id).rotation}",
    )
    cert, key, layout = first.certificate_file, first.key_file, stack.layout
    request, made = csr(device_id, tmp_path), tmp_path / "next.der"
    body = ("-m", "post", "-t", "286", "-A", "287", "-b", "64", "-f", str(request))
    coap(stack, layout.coap_port, cert, key, "est/sren", *body, "-o", str(made))
    assert not made.exists()
    said = coap(stack, layout.coap_renewal_port, cert, key, "est/sren", *body, "-o", str(made))
    assert made.exists(), said
    renewed = x509.load_der_x509_certificate(made.read_bytes())
    assert proves(stack, device_id, renewed, tmp_path) == Reason.NEAR_EXPIRY.value


def of(stack: RunningStack, device_id: str, kind: type) -> list[Any]:
    """Return the records of a kind in a device's history."""
    found = [one.record for one in stack.fleet.read(DEVICE_EVENTS) if one.key == device_id.encode()]
    return [one for one in found if isinstance(one, kind)]
