"""coaps over UDP: handshakes, loss, replacement and abuse, the same for both versions of DTLS."""

import asyncio
import random
import socket
from typing import Any

import pytest
from aiocoap.numbers import codes
from cryptography.hazmat.primitives.asymmetric import ec

from bridges.coap import datagrams, dtls12
from bridges.coap.sessions import IDLE, REFUSED, REPLACED
from client.local.ports import free_ports
from pki import revocation
from schemas.events import DeviceReported, SessionClosed, SessionOpened, SessionRefused
from schemas.reasons import Reason
from tests.coap.client import Client, Gone, association, client
from tests.coap.rig import NOW, Authorities, Identity, Running, running
from tests.helpers.wait import until_async

pytest.importorskip("fleetcert_dtls13", reason="built by `make setup` where Rust is")
VERSIONS = ("1.3", "1.2")
BOTH = {"dtls": frozenset(VERSIONS)}
JSON = 50
NO_EXTENDED_MASTER_SECRET = 0x1
"""SSL_OP_NO_EXTENDED_MASTER_SECRET, which pyOpenSSL does not name."""


async def report(one: Client, sequence: int) -> Any:
    """Post one numbered event."""
    body = b'{"boot": 1, "sequence": %d, "body": 1}' % sequence
    return await one.ask(codes.POST, "events/heat", body, content_format=JSON)


def table(bridge: Running) -> datagrams.DatagramServer:
    """Return the listener, to look into its tables."""
    assert bridge.bridge.listeners is not None
    assert bridge.bridge.listeners.dtls is not None
    return bridge.bridge.listeners.dtls


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()], ids=["P-256", "P-384"])
async def test_an_event_stands_under_the_certificate_of_the_handshake(
    authorities: Authorities, version: str, curve: ec.EllipticCurve
) -> None:
    """The fingerprint that DTLS proved is the one in the history, from opening to event."""
    me = authorities.device("pump-1", curve=curve)
    async with running(authorities, **BOTH) as bridge, client(bridge, version, me) as one:
        assert (await report(one, 1)).code == codes.CHANGED
        found = [*bridge.kafka.of(SessionOpened), *bridge.kafka.of(DeviceReported)]
    assert [one.evidence.certificate_sha256 for one in found] == [me.fingerprint] * 2
    assert {one.device_id for one in found} == {"pump-1"}


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_fifth_of_all_datagrams_may_be_lost(authorities: Authorities, version: str) -> None:
    """Handshake and requests come through, and every event stands once in the history."""
    me = authorities.device("pump-1")
    async with (
        running(authorities, **BOTH) as bridge,
        client(bridge, version, me, loss=0.2, seed=7) as one,
    ):
        for sequence in range(1, 11):
            assert (await report(one, sequence)).code == codes.CHANGED
        numbers = [one.numbering.sequence for one in bridge.kafka.of(DeviceReported)]
    assert numbers == list(range(1, 11))


async def refused(bridge: Running, version: str, identity: Identity | None) -> None:
    """See that a certificate does not come in, whichever side notices first."""
    with pytest.raises((Gone, TimeoutError)):
        async with client(bridge, version, identity) as one:
            await report(one, 1)
    assert bridge.sessions == 0


@pytest.mark.parametrize("version", VERSIONS)
async def test_only_valid_certificates_of_our_devices_come_in(
    authorities: Authorities, version: str, tmp_path: Any
) -> None:
    """Another CA, an expired, a revoked, a replaced certificate: refused, and told if ours."""
    revoked, late, gone = (
        authorities.device("pump-2"),
        authorities.expired("pump-3"),
        authorities.device("pump-4"),
    )
    entry = revocation.Revocation(revoked.serial, revoked.fingerprint, 1, 2**41, "", 1)
    moment = int(NOW.timestamp() * 1000)
    pem = revocation.build(authorities.opened.device, [entry], 1, moment, moment + 3_600_000)
    (tmp_path / "device.crl").write_bytes(pem)
    async with running(authorities, revocation_list=tmp_path / "device.crl", **BOTH) as bridge:
        bridge.bridge.sessions.refuse(gone.fingerprint)
        for one in (authorities.stranger("pump-1"), late, revoked, gone):
            await refused(bridge, version, one)
        told = {one.device_id: one.reason for one in bridge.kafka.of(SessionRefused)}
        assert not bridge.kafka.of(SessionOpened)
    retired = Reason.CERTIFICATE_RETIRED.value
    assert told == {"pump-2": retired, "pump-3": Reason.EXPIRED.value, "pump-4": retired}


async def test_a_client_without_a_certificate_is_refused(authorities: Authorities) -> None:
    """The handshake itself fails, and is counted."""
    async with running(authorities, **BOTH) as bridge:
        await refused(bridge, "1.2", None)
        assert bridge.count.refusals == {"handshake": 1}


async def greeted(bridge: Running, hello: Any, counted: str) -> None:
    """Send a client's hello, and see that the refusal of it is counted."""
    probe = Client(hello)
    probe.transport, _ = await probe.loop.create_datagram_endpoint(
        lambda: probe, remote_addr=("127.0.0.1", bridge.port)
    )
    probe.begin()
    await until_async(lambda: bridge.count.refusals.get(counted), describe=f"{counted} is counted")
    await probe.close()
    assert bridge.sessions == 0


async def test_dtls_1_2_is_there_only_by_name(authorities: Authorities) -> None:
    """The default speaks 1.3 alone: a hello of 1.2 is counted and gets no answer."""
    async with running(authorities) as bridge:
        assert bridge.bridge.listeners is not None
        assert bridge.bridge.listeners.offered == {"coaps+tcp": "TLS 1.3", "coaps": "DTLS 1.3"}
        await greeted(bridge, association("1.2", authorities.device("pump-1")), "version")
        assert not table(bridge).unproven


@pytest.mark.parametrize(
    ("suites", "options", "counted"),
    [
        (dtls12.SUITES, NO_EXTENDED_MASTER_SECRET, "version"),
        (b"ECDHE-ECDSA-AES128-SHA256", 0, "handshake"),
    ],
    ids=["no extended master secret", "no AEAD suite"],
)
async def test_dtls_1_2_takes_no_weak_client(
    authorities: Authorities, suites: bytes, options: int, counted: str
) -> None:
    """A hello without the extended master secret, or with CBC suites alone, leads nowhere."""
    weak = association("1.2", authorities.device("pump-1"), suites, options)
    async with running(authorities, **BOTH) as bridge:
        await greeted(bridge, weak, counted)


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_new_handshake_replaces_the_old_only_when_it_is_accepted(
    authorities: Authorities, version: str
) -> None:
    """From the same address: a stranger changes nothing, the device itself takes over."""
    (port,) = free_ports(1)
    me = authorities.device("pump-1")
    async with running(authorities, **BOTH) as bridge:
        async with client(bridge, version, me, local=port) as one:
            assert (await report(one, 1)).code == codes.CHANGED
            await one.close()
            standing = table(bridge).peers
            (before,) = standing.values()
            with pytest.raises((Gone, TimeoutError)):
                async with client(bridge, version, authorities.stranger("x"), local=port) as bad:
                    await report(bad, 1)
            assert list(standing.values()) == [before]
            async with client(bridge, version, me, local=port) as again:
                assert (await report(again, 2)).code == codes.CHANGED
                assert before not in standing.values()
                assert bridge.sessions == 1
        closed = bridge.kafka.of(SessionClosed)
    assert closed[0].reason_code == REPLACED


@pytest.mark.parametrize("version", VERSIONS)
async def test_an_association_survives_whatever_is_sent_in_its_name(
    authorities: Authorities, version: str
) -> None:
    """Garbage, alerts and hellos from its own address end nothing."""
    dice = random.Random(11)
    async with (
        running(authorities, **BOTH) as bridge,
        client(bridge, version, authorities.device("pump-1")) as one,
    ):
        hello = one.sent[0]
        for number in range(3_000):
            kind = dice.choice((20, 21, 22, 23, 26, 0x2C, 0x2F, 0xFF))
            one.transport.sendto(bytes([kind]) + dice.randbytes(dice.randrange(100)))
            one.transport.sendto(b"\x15\xfe\xfd\0\0" + number.to_bytes(6, "big") + b"\0\2\2\50")
            if number % 300 == 0:
                one.transport.sendto(hello)
                assert (await report(one, number + 1)).code == codes.CHANGED
        assert (await report(one, 9_999)).code == codes.CHANGED
        assert bridge.sessions == 1


@pytest.mark.parametrize("version", VERSIONS)
async def test_replayed_and_spoofed_hellos_hold_bounded_memory(
    authorities: Authorities, version: str
) -> None:
    """A flood from many addresses: the tables stay within their limits, the session works."""
    limit = 50
    async with (
        running(authorities, **BOTH) as bridge,
        client(bridge, version, authorities.device("pump-1")) as one,
    ):
        table(bridge).unproven_max = limit
        hello = one.sent[0]
        sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(4 * limit)]
        for number, probe in enumerate(sockets):
            fresh = hello[:27] + number.to_bytes(32, "big") + hello[59:]
            for _ in range(3):
                probe.sendto(fresh, ("127.0.0.1", bridge.port))
            if number % 20 == 0:
                assert (await report(one, number + 1)).code == codes.CHANGED
                assert len(table(bridge).unproven) <= limit
        assert len(table(bridge).candidates) == 0
        assert bridge.sessions == 1
        for probe in sockets:
            probe.close()


@pytest.mark.parametrize("by_twin", [False, True])
async def test_a_refused_certificate_ends_its_sessions(
    authorities: Authorities, by_twin: bool
) -> None:
    """What is refused while it is connected hears the end of it; under its twin as well."""
    me = authorities.device("pump-1")
    shown = authorities.twin(me) if by_twin else me
    async with running(authorities, **BOTH) as bridge, client(bridge, "1.3", shown) as one:
        assert (await report(one, 1)).code == codes.CHANGED
        assert bridge.bridge.sessions.refuse(me.fingerprint) == 1
        await asyncio.wait_for(one.ended.wait(), 5)
        (closed,) = bridge.kafka.of(SessionClosed)
        assert (closed.reason_code, bridge.sessions, len(table(bridge).peers)) == (REFUSED, 0, 0)


async def test_silent_sessions_and_one_too_many_give_way(authorities: Authorities) -> None:
    """An idle session is closed; above the limit the longest silent one goes."""
    async with running(authorities, sessions_max=2, **BOTH) as bridge:
        async with (
            client(bridge, "1.3", authorities.device("pump-1")) as first,
            client(bridge, "1.3", authorities.device("pump-2")) as second,
        ):
            assert (await report(first, 1)).code == codes.CHANGED
            async with client(bridge, "1.3", authorities.device("pump-3")):
                await asyncio.wait_for(second.ended.wait(), 5)
                assert bridge.sessions == 2
                bridge.bridge.sessions.sweep(idle_seconds=0.0)
                await asyncio.wait_for(first.ended.wait(), 5)
        codes_told = [one.reason_code for one in bridge.kafka.of(SessionClosed)]
    assert IDLE in codes_told
