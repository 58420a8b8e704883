"""EST over CoAP (RFC 9148): every path's code, bodies in blocks, and the renewal door."""

import asyncio
import datetime
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiocoap.numbers import codes
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from pki import requests
from schemas.commands import RefuseCertificate
from schemas.events import SessionOpened, SessionRefused, SigningRequested
from schemas.reasons import Reason
from tests.coap.client import Client, client
from tests.coap.rig import Authorities, Running, running
from tests.est.rig import Machine
from tests.helpers.wait import printed

PKCS10, CERTS_ONLY, CERTIFICATE, ATTRIBUTES = 286, 281, 287, 285
DAY = datetime.timedelta(days=1)
At = tuple[Running, Client, Machine]


@pytest.fixture
async def at(authorities: Authorities) -> AsyncIterator[At]:
    """A bridge, a device that is connected to it, and the machine that answers."""
    machine = Machine(authorities)
    versions = frozenset({"1.2"})
    async with (
        running(authorities, machine, dtls=versions) as found,
        client(found, "1.2", authorities.device("pump-1")) as one,
    ):
        yield found, one, machine


def csr(device_id: str = "pump-1") -> bytes:
    """Return a request on a new key."""
    return requests.make_csr(device_id, ec.generate_private_key(ec.SECP256R1()))


@pytest.mark.parametrize(
    ("method", "path", "payload", "options", "code"),
    [
        ("GET", "est/crts", b"", {}, "2.05"),
        ("GET", ".well-known/est/crts", b"", {"accept": CERTS_ONLY}, "2.05"),
        ("GET", "est/crts", b"", {"accept": CERTIFICATE}, "4.06"),
        ("GET", "est/att", b"", {"accept": ATTRIBUTES}, "2.05"),
        ("POST", "est/crts", b"", {}, "4.05"),
        ("GET", "est/sren", b"", {}, "4.05"),
        ("POST", "est/sren", csr(), {"content_format": 50}, "4.15"),
        ("POST", "est/sren", csr(), {"content_format": PKCS10, "accept": 50}, "4.06"),
        ("POST", "est/sren", b"no csr", {"content_format": PKCS10}, "4.00"),
        ("POST", "est/sren", b"", {"block2": (1, False, 6)}, "4.08"),
        ("POST", "est/sen", csr(), {"content_format": PKCS10}, "4.03"),
        ("POST", "est/skg", csr(), {"content_format": PKCS10}, "5.01"),
        ("POST", "est/nothing", csr(), {"content_format": PKCS10}, "4.04"),
    ],
)
async def test_every_path_has_its_code(
    at: At, method: str, path: str, payload: bytes, options: dict[str, Any], code: str
) -> None:
    """Nothing of this reaches the history but a request that can be read."""
    _, one, machine = at
    answer = await one.ask(codes.Code[method], path, payload, **options)
    assert str(answer.code).startswith(code)
    assert machine.of(SigningRequested) == []


@pytest.mark.parametrize("wanted", [None, CERTS_ONLY, CERTIFICATE])
async def test_a_device_renews(at: At, wanted: int | None) -> None:
    """2.04 with the certificate, in the form that is asked for; the history holds the request."""
    _, one, machine = at
    answer = await one.ask(
        codes.POST, "est/sren", csr(), content_format=PKCS10, accept=wanted, block2=(0, False, 6)
    )
    assert (answer.code, answer.opt.content_format) == (codes.CHANGED, wanted or CERTS_ONLY)
    if wanted == CERTIFICATE:
        made = x509.load_der_x509_certificate(answer.payload)
    else:
        (made,) = pkcs7.load_der_pkcs7_certificates(answer.payload)
    (asked,) = machine.of(SigningRequested)
    assert (asked.device_id, asked.command_id, asked.evidence.protocol) == ("pump-1", "", "coap")
    assert made.public_key() == x509.load_der_x509_csr(asked.csr).public_key()


async def test_a_body_and_its_answer_come_in_blocks(at: At) -> None:
    """Sixty-four bytes each way; the request is made once, its answer is kept for its blocks."""
    _, one, machine = at
    body, size = csr(), 64
    for number in range(0, len(body), size):
        part = body[number : number + size]
        more = number + size < len(body)
        answer = await one.ask(
            codes.POST,
            "est/sren",
            part,
            content_format=PKCS10,
            block1=(number // size, more, 2),
            **({} if more else {"block2": (0, False, 2)}),
        )
        assert answer.code == (codes.CONTINUE if more else codes.CHANGED)
    whole = answer.payload
    while answer.opt.block2.more:
        following = (answer.opt.block2.block_number + 1, False, 2)
        answer = await one.ask(codes.POST, "est/sren", block2=following)
        whole += answer.payload
    (made,) = pkcs7.load_der_pkcs7_certificates(whole)
    assert len(machine.of(SigningRequested)) == 1
    assert list(machine.made.values()) == [made.public_bytes(Encoding.DER)]


async def test_while_it_is_made_the_device_waits_and_asks_again(at: At) -> None:
    """5.03 with Max-Age; the same request later gets the certificate."""
    found, one, machine = at
    assert found.bridge.renewals is not None
    found.bridge.renewals._patience_seconds = 0.05
    machine.silent = True
    body = csr()
    answer = await one.ask(codes.POST, "est/sren", body, content_format=PKCS10)
    assert (answer.code, answer.opt.max_age) == (codes.SERVICE_UNAVAILABLE, 5)
    machine.silent = False
    found.bridge.renewals._patience_seconds = 10.0
    answer = await one.ask(codes.POST, "est/sren", body, content_format=PKCS10)
    assert answer.code == codes.CHANGED


@pytest.mark.parametrize(
    ("reason", "code", "after"),
    [
        (Reason.KEY_REUSED, codes.BAD_REQUEST, None),
        (Reason.ISSUER_REFUSED, codes.FORBIDDEN, None),
        (Reason.RENEWED_OFTEN, codes.TOO_MANY_REQUESTS, 3_600),
        (Reason.ISSUER_AWAY, codes.SERVICE_UNAVAILABLE, 60),
    ],
)
async def test_the_machine_s_refusal_has_its_code(
    at: At, reason: Reason, code: codes.Code, after: int | None
) -> None:
    """The diagnostic payload names the reason."""
    _, one, machine = at
    machine.refusing = reason
    answer = await one.ask(codes.POST, "est/sren", csr(), content_format=PKCS10)
    assert (answer.code, answer.opt.max_age) == (code, after)
    assert answer.payload.startswith(reason.value.encode())


async def test_discovery_names_the_resources(at: At) -> None:
    """`rt=ace.est*` finds what is served, with its content formats."""
    _, one, _ = at
    answer = await one.ask(codes.GET, ".well-known/core", uri_query=("rt=ace.est*",))
    assert answer.payload.decode().split(",") == [
        '</est/crts>;rt="ace.est.crts";ct=281',
        '</est/sen>;rt="ace.est.sen";ct="281 287"',
        '</est/sren>;rt="ace.est.sren";ct="281 287"',
        '</est/att>;rt="ace.est.att";ct=285',
    ]


async def test_a_bridge_without_the_mark_offers_nothing(authorities: Authorities) -> None:
    """Where the issuer would not take its word, the paths are not there; all else works."""
    one = authorities.device("no-mark")
    settings = {"certificate": one.certificate_file, "key": one.key_file}
    async with running(authorities, dtls=frozenset({"1.2"}), **settings) as found:
        assert found.bridge.renewals is None
        async with client(found, "1.2", authorities.device("pump-1")) as me:
            answer = await me.ask(codes.GET, "est/crts")
            assert answer.code == codes.NOT_FOUND
            listed = await me.ask(codes.GET, ".well-known/core")
            assert b"/est/" not in listed.payload
            assert b"/events" in listed.payload


async def test_the_renewal_door_takes_who_has_expired(authorities: Authorities) -> None:
    """EST and nothing else; the history knows of the renewal, not of a session."""
    machine = Machine(authorities)
    late = authorities.device("late-1", began=-40 * DAY, lifetime=20 * DAY)
    async with running(authorities, machine, renewal_port=0, grace_days=30.0) as found:
        listeners = found.bridge.listeners
        assert listeners is not None
        assert listeners.renewal is not None
        listed = await libcoap(found, listeners.renewal.port, late, ".well-known/core")
        assert "</est/sren>" in listed
        asked = await libcoap(found, listeners.renewal.port, late, "events/heat", "-m", "post")
        assert "4.03 this door renews" in asked
        (authorities.directory / "late.csr").write_bytes(csr("late-1"))
        body = ("-m", "post", "-t", "286", "-f", str(authorities.directory / "late.csr"))
        made = authorities.directory / "late.p7"
        await libcoap(found, listeners.renewal.port, late, "est/sren", *body, "-o", str(made))
        (certificate,) = pkcs7.load_der_pkcs7_certificates(made.read_bytes())
        assert certificate.not_valid_after_utc > datetime.datetime.now(datetime.UTC)
        (signing,) = machine.of(SigningRequested)
        assert signing.evidence.certificate_sha256 == late.fingerprint
        assert signing.evidence.protocol == "est"
        assert machine.of(SessionOpened) == []


@pytest.mark.parametrize("kind", ["long ago", "replaced", "stranger"])
async def test_the_renewal_door_is_no_way_round(authorities: Authorities, kind: str) -> None:
    """Beyond the grace, replaced, of another CA: nobody is let in, and ours are told of."""
    machine = Machine(authorities)
    identity = {
        "long ago": lambda: authorities.device("late-2", began=-80 * DAY, lifetime=20 * DAY),
        "replaced": lambda: authorities.device("late-2", began=-40 * DAY, lifetime=20 * DAY),
        "stranger": lambda: authorities.stranger("late-2"),
    }[kind]()
    async with running(authorities, machine, renewal_port=0, grace_days=30.0) as found:
        listeners = found.bridge.listeners
        assert listeners is not None
        assert listeners.renewal is not None
        if kind == "replaced":
            await found.bridge.deliver(RefuseCertificate("r", "late-2", 1, 1, identity.fingerprint))
        said = await libcoap(found, listeners.renewal.port, identity, ".well-known/core")
        assert "</est/sren>" not in said
        told = [one.reason for one in machine.of(SessionRefused)]
        reasons = {
            "long ago": [Reason.EXPIRED.value],
            "replaced": [Reason.CERTIFICATE_RETIRED.value],
        }
        assert told == reasons.get(kind, [])
        assert found.bridge.visitors is not None
        assert len(found.bridge.visitors) == 0


async def libcoap(found: Running, port: int, identity: Any, path: str, *options: str) -> str:
    """Ask by a foreign client over coaps+tcp; return what it printed."""
    ca_file = str(found.authorities.service_ca)
    shown = ["-c", str(identity.certificate_file), "-j", str(identity.key_file), "-C", ca_file]
    made = await asyncio.create_subprocess_exec(
        *("coap-client-openssl", "-v", "6", "-B", "5", *shown, *options),
        f"coaps+tcp://localhost:{port}/{path}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await printed(made, 20)
    return said.decode(errors="replace")
