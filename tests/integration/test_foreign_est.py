"""EST clients that nobody here wrote against the door in this process, as a device would ask.

Bouncy Castle brings its own TLS 1.3. GlobalSign's est wants Go, so `make interop` alone asks it.
"""

from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from bridges.est import renewals
from pki import requests
from schemas.events import SessionRefused, SigningRequested
from schemas.reasons import Reason
from tests.coap.peers import WHOLE, Client, asking, revoked
from tests.coap.rig import Authorities
from tests.est.rig import Door, running
from tests.helpers.golang import go_est_peer
from tests.helpers.java import bouncy_castle_peer

KINDS = ("none", "stranger", "expired", "long ago", "revoked") if WHOLE else ("none", "stranger")
ATTRIBUTES = ["1.2.840.10045.2.1", "1.2.840.10045.4.3.2"]
"""An EC key, a signature by ECDSA with SHA-256."""

BOUNCY_CASTLE = Client("bouncy-castle", bouncy_castle_peer)
GO_EST = Client("go-est", go_est_peer)
CLIENTS = (BOUNCY_CASTLE, GO_EST) if WHOLE else (BOUNCY_CASTLE,)

pytestmark = pytest.mark.parametrize("client", CLIENTS, ids=str)


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Authorities:
    """A PKI for the doors of this file."""
    return Authorities(tmp_path_factory.mktemp("foreign-est"))


def request(folder: Path, device_id: str) -> tuple[Path, ec.EllipticCurvePrivateKey]:
    """Make a key and a CSR on it, in a file."""
    key = ec.generate_private_key(ec.SECP256R1())
    csr = folder / f"{device_id}.csr"
    csr.write_bytes(requests.make_csr(device_id, key))
    return csr, key


def made(door: Door, file: Path) -> x509.Certificate:
    """Return the certificate that the client has kept, once it is one of the device CA."""
    found = x509.load_der_x509_certificate(file.read_bytes())
    found.verify_directly_issued_by(door.authorities.opened.device.certificate)
    return found


async def test_a_device_renews(client: Client, authorities: Authorities, tmp_path: Path) -> None:
    """Who signs, what to ask with, a certificate that is waited for and comes by the same CSR."""
    (csr, key), out = request(tmp_path, "pump-1"), tmp_path / "made.der"
    async with (
        running(authorities, tmp_path) as door,
        asking(client, door, authorities.device("pump-1")) as one,
    ):
        assert await one.ask("cacerts") == "200 3"
        status, *attributes = (await one.ask("csrattrs")).split()
        assert (status, sorted(attributes)) == ("200", ATTRIBUTES)

        door.bridge._renewals._patience_seconds = 0.05
        door.machine.silent = True
        assert await one.ask("renew", csr, out) == f"202 {renewals.RETRY_SECONDS}"
        door.bridge._renewals._patience_seconds = renewals.PATIENCE_SECONDS
        door.machine.silent = False
        assert (await one.ask("again", out)).startswith("200 ")
        assert made(door, out).public_key() == key.public_key()
        assert {each.csr for each in door.machine.of(SigningRequested)} == {csr.read_bytes()}

        door.machine.refusing = Reason.WRONG_SUBJECT
        said = await one.ask("renew", csr, out)
        assert said.startswith(f"400 {Reason.WRONG_SUBJECT.value}:")


async def test_an_invited_device_enrols(
    client: Client, authorities: Authorities, tmp_path: Path
) -> None:
    """By HTTP Basic after a challenge; a wrong token, another key and no token get nothing."""
    (csr, key), out = request(tmp_path, "pump-2"), tmp_path / "made.der"
    other = csr.with_name("other.csr")
    other.write_bytes(requests.make_csr("pump-2", ec.generate_private_key(ec.SECP256R1())))
    async with running(authorities, tmp_path) as door, asking(client, door, None) as one:
        token = await door.invite("pump-2")
        assert (await one.ask("enrol", csr, out, "pump-2", f"{token}x")).startswith("401")
        assert not out.exists()
        assert (await one.ask("enrol", csr, out, "pump-2", token)).startswith("200 ")
        assert made(door, out).public_key() == key.public_key()
        first = out.read_bytes()
        assert (await one.ask("enrol", csr, out, "pump-2", token)).startswith("200 ")
        assert out.read_bytes() == first
        assert (await one.ask("enrol", other, out, "pump-2", token)).startswith("403")


@pytest.mark.parametrize("kind", KINDS)
async def test_who_renews_and_who_does_not(
    client: Client, authorities: Authorities, tmp_path: Path, kind: str
) -> None:
    """Within its grace an expired certificate does; a revoked one, another CA's and none do not."""
    identity = {
        "expired": authorities.expired,
        "long ago": authorities.expired,
        "revoked": authorities.device,
        "stranger": authorities.stranger,
    }.get(kind, lambda _: None)("pump-3")
    settings: dict[str, Any] = {"grace_days": 0.0 if kind == "long ago" else 30.0}
    if kind == "revoked" and identity is not None:
        settings["revocation_list"] = revoked(authorities, identity, tmp_path / "device.crl")
    (csr, _), out = request(tmp_path, "pump-3"), tmp_path / "made.der"
    async with (
        running(authorities, tmp_path, **settings) as door,
        asking(client, door, identity) as one,
    ):
        said = (await one.ask("renew", csr, out)).split()[0]
        assert said == {"expired": "200", "none": "401", "stranger": "none"}.get(kind, "403")
        assert out.exists() == (said == "200")
        told = [(each.device_id, each.reason) for each in door.machine.of(SessionRefused)]
        reasons = {"long ago": Reason.EXPIRED, "revoked": Reason.CERTIFICATE_RETIRED}
        assert told == ([("pump-3", reasons[kind].value)] if kind in reasons else [])
        assert len(door.machine.of(SigningRequested)) == (said == "200")
