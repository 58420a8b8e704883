"""CoAP clients that nobody here wrote against the bridge in this process, as a device would ask.

Californium's Scandium speaks DTLS 1.2; over coaps+tcp Californium does not begin as RFC 8323
demands, so there it is not asked. go-coap speaks coaps+tcp with Go's own TLS 1.3, and coap-rs on
BoringSSL nothing but DTLS 1.3; they want Go and Rust, so `make interop` alone asks them.
"""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pki import requests
from schemas.commands import RotateCertificate
from schemas.events import DeviceReported, SessionRefused, SigningRequested
from tests.coap.peers import WHOLE, Client, asking, bridge
from tests.coap.rig import Authorities
from tests.est.rig import Machine
from tests.helpers.golang import go_coap_peer
from tests.helpers.java import californium_peer
from tests.helpers.rust import boringssl_peer
from tests.helpers.wait import until_async

BAD = ("none", "stranger", "expired", "revoked") if WHOLE else ("none", "stranger")
LINKS, JSON, PKCS10, CERTS_ONLY = 40, 50, 286, 281
FAR = 2**41

CALIFORNIUM = Client("californium", californium_peer, "coaps://")
GO_COAP = Client("go-coap", go_coap_peer)
BORINGSSL = Client("boringssl", boringssl_peer)
CLIENTS = (CALIFORNIUM, GO_COAP, BORINGSSL) if WHOLE else (CALIFORNIUM,)

pytestmark = pytest.mark.parametrize("client", CLIENTS, ids=str)


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Authorities:
    """A PKI, and a revocation list with one device on it."""
    return Authorities(tmp_path_factory.mktemp("foreign"))


async def test_everything_that_a_device_does(
    client: Client, authorities: Authorities, tmp_path: Path
) -> None:
    """Discovery, an event, fifty kilobytes in blocks, a refusal, a renewal, an observed command."""
    body = json.dumps({"body": "x" * 50_000})
    for name, text in (("small", '{"body": 21.5}'), ("large", body), ("bad", "no")):
        (tmp_path / name).write_text(text)
    csr = requests.make_csr("good-1", ec.generate_private_key(ec.SECP256R1()))
    (tmp_path / "csr").write_bytes(csr)
    async with (
        bridge(authorities, Machine(authorities)) as (found, kinds),
        asking(client, found, kinds["good"]) as one,
    ):
        listed = await one.ask("get", ".well-known/core", LINKS)
        assert listed.startswith("2.05 40")
        assert "</commands>" in listed
        assert "</est/sren>" in listed
        assert (await one.ask("post", "events/heat", JSON, tmp_path / "small")).startswith("2.04")
        assert (await one.ask("post", "events/trace", JSON, tmp_path / "large")).startswith("2.04")
        assert (await one.ask("post", "events/heat", JSON, tmp_path / "bad")).startswith("4.00")
        renewed = await one.ask("post", "est/sren", PKCS10, tmp_path / "csr")
        assert renewed.startswith(f"2.04 {CERTS_ONLY}")
        reports = [each.payload.decode() for each in found.kafka.of(DeviceReported)]
        assert reports == ['{"body": 21.5}', body]
        (asked,) = found.kafka.of(SigningRequested)
        assert asked.csr == csr

        one.say("observe", "commands", JSON)
        assert (await one.hears()).startswith("2.05 50")
        await found.bridge.deliver(RotateCertificate("r-1", "good-1", 1, 1, FAR, b"n" * 16))
        assert "RotateCertificate" in await one.hears()
        assert await one.ask("get", ".well-known/core", LINKS) == listed  # it has lost interest
        await found.bridge.deliver(RotateCertificate("r-2", "good-1", 2, 1, FAR, b"n" * 16))
        await until_async(
            lambda: not any(each.observers for each in found.bridge.sessions.of("good-1")),
            describe="it cancelled, or answered the next notification with a reset (RFC 7641)",
        )


@pytest.mark.parametrize("kind", BAD)
async def test_no_other_certificate_gets_an_answer(
    client: Client, authorities: Authorities, kind: str
) -> None:
    """None, another CA's, an expired, a revoked one: no resource is named, ours are told."""
    async with bridge(authorities) as (found, kinds):
        async with asking(client, found, kinds.get(kind)) as one:
            assert (await one.ask("get", ".well-known/core", LINKS)).startswith("none")
        told = {each.device_id for each in found.kafka.of(SessionRefused)}
        assert told == ({f"{kind}-1"} if kind in ("expired", "revoked") else set())
        assert sum(found.count.refusals.values()) > 0
