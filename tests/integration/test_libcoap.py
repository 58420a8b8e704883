"""libcoap's clients against the CoAP bridge in this process: what works, and who is refused.

One client and the essentials in CI; `make interop` runs both clients with every kind of certificate
over both transports (libcoap 4.3 speaks DTLS 1.2).
"""

import asyncio
import contextlib
import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7

from pki import requests
from schemas.commands import RotateCertificate
from schemas.events import DeviceReported, SessionRefused, SigningRequested
from tests.coap.peers import WHOLE, bridge
from tests.coap.rig import Authorities, Identity, Running
from tests.est.rig import Machine
from tests.helpers.wait import printed, until_async

PROGRAMS = ("coap-client-openssl", "coap-client-gnutls") if WHOLE else ("coap-client-gnutls",)
SCHEMES = ("coaps+tcp", "coaps") if WHOLE else ("coaps",)
BAD = ("none", "stranger", "expired", "revoked") if WHOLE else ("stranger", "revoked")
RESOURCE = "</commands>;rt="
SECONDS = 20.0
GIVE_UP_SECONDS = 3
FAR = 2**41


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Authorities:
    """A PKI, and a revocation list with one device on it."""
    return Authorities(tmp_path_factory.mktemp("libcoap"))


async def ask(
    found: Running,
    program: str,
    scheme: str,
    identity: Identity | None,
    path: str,
    *options: str,
) -> str:
    """Make one request by a foreign client; return all it printed."""
    ca_file = str(found.authorities.service_ca)
    shown = ["-C", ca_file, "-R", ca_file]
    if identity is not None:
        shown += ["-c", str(identity.certificate_file), "-j", str(identity.key_file)]
    uri = f"{scheme}://localhost:{found.port}/{path}"
    made = await asyncio.create_subprocess_exec(
        *(program, "-v", "6", "-B", str(GIVE_UP_SECONDS), *shown, *options, uri),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await printed(made, SECONDS)
    return said.decode(errors="replace")


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_everything_that_a_device_does(
    authorities: Authorities, tmp_path: Path, program: str, scheme: str
) -> None:
    """Discovery, an event, fifty kilobytes in blocks of three sizes, a refusal."""
    body = json.dumps({"body": "x" * 50_000})
    (tmp_path / "body.json").write_text(body)
    async with bridge(authorities) as (found, kinds):
        good = kinds["good"]

        async def said(path: str, *options: str) -> str:
            return await ask(found, program, scheme, good, path, *options)

        assert RESOURCE in await said(".well-known/core?rt=fleetcert.c*")
        post = ("-m", "post", "-t", "50")
        await said("events/heat", *post, "-e", '{"body": 21.5}')
        sizes = ("64", "512", "1024") if WHOLE else ("1024",)
        for size in sizes:
            await said("events/trace", *post, "-f", str(tmp_path / "body.json"), "-b", size)
        assert "4.00 not application/json" in await said("events/heat", *post, "-e", "no")
        payloads = [one.payload.decode() for one in found.kafka.of(DeviceReported)]
        assert payloads == ['{"body": 21.5}', *([body] * len(sizes))]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_it_renews_in_small_blocks(
    authorities: Authorities, tmp_path: Path, program: str, scheme: str
) -> None:
    """EST-coaps: the CA certificates, then a CSR up and a certificate down, 64 bytes at a time."""
    request, answer = tmp_path / "csr.der", tmp_path / "answer.p7"
    csr = requests.make_csr("good-1", ec.generate_private_key(ec.SECP256R1()))
    request.write_bytes(csr)
    async with bridge(authorities, Machine(authorities)) as (found, kinds):

        async def said(path: str, *options: str) -> list[x509.Certificate]:
            await ask(found, program, scheme, kinds["good"], path, "-o", str(answer), *options)
            return pkcs7.load_der_pkcs7_certificates(answer.read_bytes())

        assert len(await said(".well-known/est/crts", "-b", "64")) == 1
        body = ("-m", "post", "-t", "286", "-A", "281", "-b", "64", "-f", str(request))
        (made,) = await said("est/sren", *body)
        (asked,) = found.kafka.of(SigningRequested)
        assert asked.csr == csr
        assert made.public_key() == x509.load_der_x509_csr(csr).public_key()


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_an_observer_hears_of_a_command(
    authorities: Authorities, program: str, scheme: str
) -> None:
    """Registration, a notification, and the end of the observation."""
    async with bridge(authorities) as (found, kinds):
        watching = asyncio.create_task(
            ask(found, program, scheme, kinds["good"], "commands", "-s", "3", "-A", "50")
        )
        await until_async(
            lambda: any(one.observers for one in found.bridge.sessions.of("good-1")),
            within=SECONDS,
            describe="it observes",
        )
        await found.bridge.deliver(RotateCertificate("r-1", "good-1", 1, 1, FAR, b"n" * 16))
        assert "RotateCertificate" in await watching
        await until_async(lambda: found.sessions == 0, describe="the session is over")


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", BAD)
async def test_no_other_certificate_gets_an_answer(
    authorities: Authorities, program: str, scheme: str, kind: str
) -> None:
    """None, another CA's, an expired, a revoked one: no resource is named, ours are told."""
    async with bridge(authorities) as (found, kinds):
        said = await ask(found, program, scheme, kinds.get(kind), ".well-known/core")
        assert RESOURCE not in said
        told = {one.device_id for one in found.kafka.of(SessionRefused)}
        assert told == ({f"{kind}-1"} if kind in ("expired", "revoked") else set())
        assert sum(found.count.refusals.values()) > 0


@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_body_arrives_whole_over_a_line_that_loses(
    authorities: Authorities, tmp_path: Path, program: str
) -> None:
    """A twentieth of the client's datagrams is lost: the body stands once in the history.

    libcoap 4.3.1 with GnuTLS does not send the last flight of its handshake again: where one
    datagram of it is lost it gives up after five seconds, 9 times in 60.
    """
    size = 50_000 if WHOLE else 8_000
    body = json.dumps({"body": "x" * size})
    (tmp_path / "body.json").write_text(body)
    async with bridge(authorities) as (found, kinds):
        file = str(tmp_path / "body.json")
        options = ("-m", "post", "-t", "50", "-f", file, "-b", "1024", "-l", "5%", "-B", "60")
        for _ in range(8):
            with contextlib.suppress(TimeoutError):
                await ask(found, program, "coaps", kinds["good"], "events/trace", *options)
            if found.kafka.of(DeviceReported):
                break
        assert [one.payload.decode() for one in found.kafka.of(DeviceReported)] == [body]
