"""First certificates by curl and openssl: who is invited gets one, and nobody else anything."""

import asyncio
import re
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from bridges.est import server
from bridges.est.credentials import credentials, network
from bridges.rates import Bucket, Rates
from schemas.commands import InviteDevice, SignInvited
from schemas.reasons import Reason
from tests.coap.rig import Authorities
from tests.est.rig import opened, running


async def test_an_invited_device_gets_its_first_certificate(
    authorities: Authorities, tmp_path: Path
) -> None:
    """200 and a certs-only PKCS #7; the same CSR again the same, another key's 403; no token."""
    async with running(authorities, tmp_path) as door:
        token, csr = await door.invite("lamp-1"), door.csr("lamp-1")
        status, headers, body = await door.enrol("lamp-1", token, csr)
        assert (status, headers["content-type"]) == (
            200,
            "application/pkcs7-mime; smime-type=certs-only",
        )
        (made,) = opened(body)
        made.verify_directly_issued_by(authorities.opened.device.certificate)
        assert (await door.enrol("lamp-1", token, csr))[2] == body
        assert len(door.machine.of(SignInvited)) == 1
        status, _, body = await door.enrol("lamp-1", token, door.csr("lamp-1"))
        assert (status, body[:16]) == (403, Reason.INVITATION_SPENT.value.encode())
        for _, _, record in door.machine.records:
            assert token not in repr(record)
        assert door.count.refusals["enrolment:issued"] == 2
        assert door.count.refusals[Reason.INVITATION_SPENT.value] == 1


@pytest.mark.parametrize("kind", ["wrong", "another's", "unknown", "withdrawn", "replaced", "none"])
async def test_who_is_not_invited_gets_401(
    authorities: Authorities, tmp_path: Path, kind: str
) -> None:
    """All of them the same answer; nothing is written, and a client is told how to come."""
    async with running(authorities, tmp_path) as door:
        token, other = await door.invite("lamp-1"), await door.invite("lamp-2")
        if kind == "withdrawn":
            await door.bridge.deliver(InviteDevice("lamp-1", b""))
        if kind == "replaced":
            await door.invite("lamp-1")
        shown = {"wrong": token[:-1], "another's": other}.get(kind, token)
        device_id = "lamp-3" if kind == "unknown" else "lamp-1"
        credentials = () if kind == "none" else ("-u", f"{device_id}:{shown}")
        csr = door.csr(device_id)
        status, headers, body = await door.curl("simpleenroll", None, csr, *credentials)
        assert status == 401
        assert headers["www-authenticate"] == f'Basic realm="{server.REALM}", charset="UTF-8"'
        if kind == "none":
            assert body == b""  # Bouncy Castle 1.82 answers no challenge that has a body
        else:
            sentence = b"invitation-unknown: No invitation of the device has this token.\n"
            assert body == sentence
            assert door.count.refusals[Reason.INVITATION_UNKNOWN.value] == 1
        assert door.machine.records == []


async def test_an_invitation_ends(authorities: Authorities, tmp_path: Path) -> None:
    """Who shows the right token too late is told that it is too late."""
    async with running(authorities, tmp_path) as door:
        token = await door.invite("lamp-1", seconds=0.001)
        status, _, body = await door.enrol("lamp-1", token, door.csr("lamp-1"))
        assert (status, body.split(b":")[0]) == (403, Reason.INVITATION_EXPIRED.value.encode())
        assert door.machine.records == []


async def test_a_bad_request_spends_nothing(authorities: Authorities, tmp_path: Path) -> None:
    """Another device's name, a weak key, garbage: 400, by reason; the true one has its turn."""
    async with running(authorities, tmp_path) as door:
        token = await door.invite("lamp-1")
        weak = ("-pkeyopt", "ec_paramgen_curve:secp224r1")
        bad = {
            door.csr("lamp-2"): Reason.WRONG_SUBJECT,
            door.csr("lamp-1", *weak): Reason.WEAK_KEY,
            "MAA=": Reason.MALFORMED,
            "!": Reason.MALFORMED,
        }
        for csr, reason in bad.items():
            status, _, body = await door.enrol("lamp-1", token, csr)
            assert (status, body.split(b":")[0]) == (400, reason.value.encode())
            assert door.count.refusals[reason.value] >= 1
        plain = ("-H", "Content-Type: text/plain")
        status, _, _ = await door.curl(
            "simpleenroll", None, None, "-u", f"lamp-1:{token}", "-X", "POST", *plain
        )
        assert status == 415
        assert door.machine.records == []
        assert (await door.enrol("lamp-1", token, door.csr("lamp-1")))[0] == 200


async def test_guesses_are_slowed_down_where_they_come_from(
    authorities: Authorities, tmp_path: Path
) -> None:
    """After ten wrong tokens 429, also for the right one; from elsewhere nobody notices."""
    async with running(authorities, tmp_path) as door:
        token, csr = await door.invite("lamp-1"), door.csr("lamp-1")
        guesses = [door.enrol("lamp-1", f"guess-{one}", csr) for one in range(16)]
        statuses = [status for status, _, _ in await asyncio.gather(*guesses)]
        assert set(statuses) == {401, 429}
        assert statuses.count(401) <= server.GUESSES + 1
        status, headers, _ = await door.enrol("lamp-1", token, csr)
        assert (status, headers["retry-after"]) == (429, "10")
        assert door.count.refusals[Reason.RATE_EXCEEDED.value] == statuses.count(429) + 1
        door.bridge.server._guesses = Rates(server.GUESSES_PER_SECOND, server.GUESSES)
        assert (await door.enrol("lamp-1", token, csr))[0] == 200


async def test_the_issuer_s_silence_is_202_and_kafka_s_503(
    authorities: Authorities, tmp_path: Path
) -> None:
    """With Retry-After; the same CSR later gets the certificate."""
    async with running(authorities, tmp_path, record_seconds=0.2) as door:
        token, csr = await door.invite("lamp-1"), door.csr("lamp-1")
        door.bridge.invitations._patience_seconds = 0.05
        door.machine.silent = True
        status, headers, _ = await door.enrol("lamp-1", token, csr)
        assert (status, headers["retry-after"]) == (202, "5")
        door.machine.away = True
        assert (await door.enrol("lamp-1", token, csr))[0] == 503
        door.machine.away = door.machine.silent = False
        door.bridge.invitations._patience_seconds = 10.0
        assert (await door.enrol("lamp-1", token, csr))[0] == 200
        assert len({one.request_id for one in door.machine.of(SignInvited)}) == 1


async def test_an_invitation_by_nobody_is_refused_by_the_issuer(
    authorities: Authorities, tmp_path: Path
) -> None:
    """Whoever can write to Kafka invites nobody: the door hands it on, the issuer knows better."""
    async with running(authorities, tmp_path) as door:
        token = await door.invite("lamp-1")
        door.machine.authorities = Authorities(tmp_path / "others")
        status, _, body = await door.enrol("lamp-1", token, door.csr("lamp-1"))
        assert (status, body.split(b":")[0]) == (403, Reason.ISSUER_REFUSED.value.encode())


async def test_no_log_holds_a_token(authorities: Authorities, tmp_path: Path) -> None:
    """Neither of who is let in nor of who is not."""
    with structlog.testing.capture_logs() as logs:
        async with running(authorities, tmp_path) as door:
            token, csr = await door.invite("lamp-1"), door.csr("lamp-1")
            await door.enrol("lamp-1", "wrong-token", csr)
            assert (await door.enrol("lamp-1", token, csr))[0] == 200
    assert not re.search(f"{token}|wrong-token", repr(logs))


@given(st.text())
def test_any_header_is_taken_apart(text: str) -> None:
    """Garbage shows nothing; never an exception."""
    assert credentials(text) == ("", "") or text.lower().startswith("basic ")


def test_credentials_are_those_of_rfc_7617() -> None:
    """The password may hold a colon; the scheme's case does not count."""
    assert credentials("Basic cHVtcC03OmE6Yg==") == ("pump-7", "a:b")
    assert credentials("bAsIc cHVtcC03OmE6Yg==") == ("pump-7", "a:b")
    for garbage in ("", "Bearer x", "Basic !", "Basic /w==", "Basic"):
        assert credentials(garbage) == ("", "")


def test_a_network_is_an_address_or_a_64() -> None:
    """Whoever has one address of IPv6 has 2^64 of them."""
    assert network("192.0.2.7") == network("::ffff:192.0.2.7") == "192.0.2.7"
    assert network("2001:db8:1:2::7") == network("2001:db8:1:2:8::9") != network("2001:db8:1:3::7")
    assert network("fe80::1%eth0") == "fe80::/64"


def test_a_spent_bucket_says_so() -> None:
    """Looking costs nothing."""
    bucket = Bucket(per_second=0.0, burst=2.0)
    assert [bucket.spent, bucket.take(), bucket.spent, bucket.take(), bucket.spent] == [
        False, True, False, True, True,
    ]  # fmt: skip
