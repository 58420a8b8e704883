"""EST over HTTPS by curl and openssl: what a standard client gets, and who gets nothing."""

import asyncio
import datetime
import gzip
import ssl
import subprocess
import time
from pathlib import Path

import pytest
import structlog

from bridges.est import renewals, server
from pki import revocation
from schemas.commands import RefuseCertificate
from schemas.events import SessionRefused, SigningRequested
from schemas.reasons import Reason
from tests.coap.rig import NOW, Authorities, Identity
from tests.est.rig import opened, running
from tests.helpers.wait import until_async

DAY = datetime.timedelta(days=1)


async def test_a_standard_client_renews(authorities: Authorities, tmp_path: Path) -> None:
    """Cacerts, csrattrs, simplereenroll: the body is a certs-only PKCS #7 with one certificate."""
    async with running(authorities, tmp_path) as door:
        status, headers, body = await door.curl("cacerts")
        assert (status, headers["content-type"]) == (200, "application/pkcs7-mime")
        assert len(opened(body)) == 3
        status, headers, body = await door.curl("csrattrs")
        assert (status, headers["content-type"]) == (200, "application/csrattrs")
        command = "openssl base64 -d | openssl asn1parse -inform DER"
        shown = subprocess.run(command, shell=True, input=body, capture_output=True, check=True)
        for name in ("id-ecPublicKey", "prime256v1", "ecdsa-with-SHA256"):
            assert name in shown.stdout.decode()

        device = authorities.device("pump-1")
        status, headers, body = await door.curl("simplereenroll", device, door.csr("pump-1"))
        assert (status, headers["content-type"]) == (
            200,
            "application/pkcs7-mime; smime-type=certs-only",
        )
        (made,) = opened(body)
        made.verify_directly_issued_by(authorities.opened.device.certificate)
        (asked,) = door.machine.of(SigningRequested)
        assert (asked.device_id, asked.command_id) == ("pump-1", "")
        assert asked.evidence.certificate_sha256 == device.fingerprint
        assert asked.evidence.protocol == "est"
        assert asked.request_signature_valid


async def test_the_same_request_gets_the_same_certificate(
    authorities: Authorities, tmp_path: Path
) -> None:
    """202 and Retry-After while it is made; the same CSR once more, byte for byte, then 200.

    A 202 has no body: Bouncy Castle 1.82 gives up where it has one.
    """
    async with running(authorities, tmp_path) as door:
        door.bridge._renewals._patience_seconds = 0.05
        device, csr = authorities.device("pump-2"), door.csr("pump-2")
        door.machine.silent = True
        status, headers, body = await door.curl("simplereenroll", device, csr)
        assert (status, headers["retry-after"]) == (202, str(renewals.RETRY_SECONDS))
        assert body == b""
        door.machine.silent = False
        door.bridge._renewals._patience_seconds = 10.0
        first = await door.curl("simplereenroll", device, csr)
        second = await door.curl("simplereenroll", device, csr)
        assert first[0] == 200
        assert opened(first[2]) == opened(second[2])
        signed = {one.signed_request for one in door.machine.of(SigningRequested)}
        assert len(signed) == 1


async def test_nothing_is_decompressed(authorities: Authorities, tmp_path: Path) -> None:
    """RFC 7030 knows no content coding, and a stranger's would cost what it likes."""
    async with running(authorities, tmp_path) as door:
        packed, device = tmp_path / "packed", authorities.device("pump-9")
        packed.write_bytes(gzip.compress(door.csr("pump-9").encode()))
        sent = ["-H", "Content-Type: application/pkcs10", "-H", "Content-Encoding: gzip"]
        sent += ["--data-binary", f"@{packed}"]
        status, _, body = await door.curl("simplereenroll", device, None, *sent)
        assert (status, body[:9]) == (400, b"malformed")


async def test_two_requests_at_once_are_both_answered(
    authorities: Authorities, tmp_path: Path
) -> None:
    """The machine's one word is heard by each who waits for this key."""
    async with running(authorities, tmp_path) as door:
        device, csr = authorities.device("pump-3"), door.csr("pump-3")
        door.machine.silent = True
        asking = [asyncio.create_task(door.curl("simplereenroll", device, csr)) for _ in range(2)]
        await until_async(
            lambda: len(door.machine.of(SigningRequested)) == 2, describe="both are recorded"
        )
        await door.bridge.deliver(door.machine.answer(door.machine.of(SigningRequested)[0]))
        assert [status for status, _, _ in await asyncio.gather(*asking)] == [200, 200]


@pytest.mark.parametrize(
    ("reason", "status", "after"),
    [
        (Reason.KEY_REUSED, 400, None),
        (Reason.WEAK_KEY, 400, None),
        (Reason.FINGERPRINT_UNKNOWN, 403, None),
        (Reason.ISSUER_REFUSED, 403, None),
        (Reason.RENEWED_OFTEN, 429, "3600"),
        (Reason.RENEWAL_IN_WORK, 503, "60"),
        (Reason.ISSUER_AWAY, 503, "60"),
    ],
)
async def test_the_machine_s_refusal_has_its_status(
    authorities: Authorities, tmp_path: Path, reason: Reason, status: int, after: str | None
) -> None:
    """The reason is named in the body; what may be good later says when."""
    async with running(authorities, tmp_path) as door:
        door.machine.refusing = reason
        device, csr = authorities.device("pump-4"), door.csr("pump-4")
        found, headers, body = await door.curl("simplereenroll", device, csr)
        assert (found, headers.get("retry-after")) == (status, after)
        assert body.startswith(reason.value.encode())
        assert door.count.refusals[f"renewal:{reason.value}"] == 1


async def test_kafka_away_is_503(authorities: Authorities, tmp_path: Path) -> None:
    """The door does not know whether it is recorded, and says so."""
    async with running(authorities, tmp_path, record_seconds=0.2) as door:
        door.machine.away = door.machine.silent = True
        device, csr = authorities.device("pump-5"), door.csr("pump-5")
        status, headers, _ = await door.curl("simplereenroll", device, csr)
        assert (status, headers["retry-after"]) == (503, "5")


@pytest.mark.parametrize("kind", ["none", "stranger", "revoked", "replaced", "long ago", "renews"])
async def test_whose_certificate_counts(
    authorities: Authorities, tmp_path: Path, kind: str
) -> None:
    """None: 401. Another CA's: no handshake. Revoked, replaced, expired long ago: 403 and told."""
    identity: Identity | None = {
        "none": lambda: None,
        "stranger": lambda: authorities.stranger("pump-6"),
        "revoked": lambda: authorities.device("pump-6"),
        "replaced": lambda: authorities.device("pump-6"),
        "long ago": lambda: authorities.device("pump-6", began=-40 * DAY, lifetime=5 * DAY),
        "renews": lambda: authorities.device("pump-6", began=-40 * DAY, lifetime=20 * DAY),
    }[kind]()
    moment = int(NOW.timestamp() * 1000)
    entries = []
    if kind == "revoked":
        assert identity is not None
        entries = [revocation.Revocation(identity.serial, identity.fingerprint, 1, 2**41, "", 1)]
    listed = tmp_path / "device.crl"
    listed.write_bytes(
        revocation.build(authorities.opened.device, entries, 1, moment, moment + 3_600_000)
    )
    async with running(authorities, tmp_path, revocation_list=listed) as door:
        if kind == "replaced":
            assert identity is not None
            await door.bridge.deliver(RefuseCertificate("r", "pump-6", 1, 1, identity.fingerprint))
        status, headers, _ = await door.curl("simplereenroll", identity, door.csr("pump-6"))
        wanted = {"none": 401, "stranger": 0, "renews": 200}.get(kind, 403)
        assert status == wanted
        assert ("www-authenticate" in headers) is (kind == "none")
        told = [one.reason for one in door.machine.of(SessionRefused)]
        reasons = {
            "revoked": [Reason.CERTIFICATE_RETIRED.value],
            "replaced": [Reason.CERTIFICATE_RETIRED.value],
            "long ago": [Reason.EXPIRED.value],
        }
        assert told == reasons.get(kind, [])
        assert len(door.machine.of(SigningRequested)) == (kind == "renews")


async def test_what_is_no_request_of_ours(authorities: Authorities, tmp_path: Path) -> None:
    """Each has its status: method, path, media type, length, base64, DER, and what is not done."""
    async with running(authorities, tmp_path) as door:
        device = authorities.device("pump-7")

        async def status(operation: str, body: str | None, *options: str) -> int:
            return (await door.curl(operation, device, body, *options))[0]

        assert await status("simplereenroll", None) == 405
        assert await status("nothing", None) == 404
        assert await status("a-label/cacerts", None) == 404
        plain = ("-H", "Content-Type: text/plain")
        assert await status("simplereenroll", None, "-X", "POST", *plain) == 415
        assert await status("simplereenroll", "x" * 20_000) == 413
        assert await status("simplereenroll", "!" * 100) == 400
        assert await status("simplereenroll", "MAA=") == 400
        assert await status("simpleenroll", door.csr("pump-7")) == 403
        assert await status("serverkeygen", door.csr("pump-7")) == 501
        assert door.machine.of(SigningRequested) == []


async def test_a_device_that_asks_too_often_is_slowed_down(
    authorities: Authorities, tmp_path: Path
) -> None:
    """Each device has a few requests; another one is not touched by it."""
    async with running(authorities, tmp_path) as door:
        device, other = authorities.device("pump-8"), authorities.device("pump-9")
        rates = door.bridge.server._rates.of("pump-8")
        while rates.take():
            pass
        status, headers, _ = await door.curl("simplereenroll", device, door.csr("pump-8"))
        assert (status, headers["retry-after"]) == (429, "10")
        assert (await door.curl("simplereenroll", other, door.csr("pump-9")))[0] == 200


async def test_who_says_nothing_is_cut_off(
    authorities: Authorities, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A connection has a lifetime, with half a request or none; the next client is served."""
    usual = server.CONNECTION_SECONDS
    server.CONNECTION_SECONDS = 0.3
    request.addfinalizer(lambda: setattr(server, "CONNECTION_SECONDS", usual))
    async with running(authorities, tmp_path) as door:
        context = ssl.create_default_context(cafile=authorities.service_ca)
        reader, writer = await asyncio.open_connection("localhost", door.port, ssl=context)
        writer.write(b"POST /.well-known/est/simplereenroll HTTP/1.1\r\nContent-Le")
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()
        assert (await door.curl("cacerts"))[0] == 200


async def test_garbage_is_no_request(authorities: Authorities, tmp_path: Path) -> None:
    """Bytes that are no HTTP get 400 and the end of the connection."""
    async with running(authorities, tmp_path) as door:
        context = ssl.create_default_context(cafile=authorities.service_ca)
        reader, writer = await asyncio.open_connection("localhost", door.port, ssl=context)
        writer.write(b"\x00\x01garbage\r\n\r\n")
        async with asyncio.timeout(10):
            assert b" 400 " in await reader.read()
        writer.close()
        assert (await door.curl("cacerts"))[0] == 200


async def test_failed_handshakes_are_all_counted_and_seldom_logged(
    authorities: Authorities, tmp_path: Path
) -> None:
    """A stranger who makes thousands fills no log: a line a second says how many it stands for."""
    async with running(authorities, tmp_path) as door:
        began = time.monotonic()
        with structlog.testing.capture_logs() as logs:
            for _ in range(100):
                _, writer = await asyncio.open_connection("localhost", door.port)
                writer.write(b"\x00\x01garbage\r\n\r\n")
                writer.close()
            await until_async(lambda: door.count.refusals.get("handshake") == 100)
        lines = [one for one in logs if one["event"] == "tls.handshake"]
        assert 1 <= len(lines) <= 1 + time.monotonic() - began
        assert sum(one["unsaid"] for one in lines) <= 100 - len(lines)


async def test_tls_1_2_is_refused(authorities: Authorities, tmp_path: Path) -> None:
    """The door speaks TLS 1.3 alone."""
    async with running(authorities, tmp_path) as door:
        assert (await door.curl("cacerts", None, None, "--tls-max", "1.2"))[0] == 0
        assert (await door.curl("cacerts", None, None, "--tlsv1.3"))[0] == 200


def test_a_door_without_the_mark_does_not_start(authorities: Authorities, tmp_path: Path) -> None:
    """The issuer would refuse its word: it says so, and how to mend it, at once."""
    device = authorities.device("pump-10")
    with pytest.raises(renewals.Unmarked, match="--registration"):
        renewals.Registrar.load(device.certificate_file, device.key_file)
