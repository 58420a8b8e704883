"""Newcomers: who comes with a provisioning certificate, and what it is good for."""

import contextlib

import pytest
from aiocoap import GET, POST, Message
from aiocoap.numbers import codes
from cryptography import x509

from bridges.coap.sessions import PER_DEVICE_MAX
from client.local import dtls13
from pki.facts import facts
from schemas.commands import (
    ForDevice,
    InstallCertificate,
    InstallUpdate,
    RefuseCertificate,
    RotateCertificate,
)
from schemas.events import (
    CertificatePresented,
    CommandAnswered,
    DeviceReported,
    SessionClosed,
    SessionOpened,
    SigningRequested,
)
from schemas.reasons import Reason
from tests.coap.client import client
from tests.coap.rig import Authorities, Identity, Running, running
from tests.coap.test_enrolment import CERTIFICATE, PKCS10, csr
from tests.coap.test_tcp import JSON, SETTINGS, Peer, event, peer
from tests.est.rig import Machine
from tests.helpers.wait import until_async

VERSIONS = ("1.3", "1.2") if dtls13.installed() else ("1.2",)
LATE = 2**60
ROTATE = RotateCertificate("c-rotate", "pump-1", 1, 0, LATE, b"nonce")
INSTALL = InstallCertificate("c-install", "pump-1", 2, 0, LATE, b"der")
UPDATE = InstallUpdate(
    "c-update", "pump-1", 3, 0, LATE, "firmware", "f", "1", "https://x/", 1, b"", b"", ""
)


def commands(token: bytes) -> Message:
    """Return a request for what waits."""
    message = Message(code=GET, _token=token)
    message.opt.uri_path, message.opt.accept = ("commands",), JSON
    return message


def reply(token: bytes, command: ForDevice) -> Message:
    """Return an answer to a command."""
    message = Message(code=POST, payload=b'{"outcome": "done"}', _token=token)
    message.opt.uri_path = ("replies", command.command_id)
    message.opt.content_format = JSON
    return message


async def asked(one: Peer, message: Message) -> Message:
    """Return the answer to a message."""
    one.say(message)
    return await one.hear()


async def begun(one: Peer) -> Peer:
    """Exchange capabilities."""
    one.say(SETTINGS)
    assert (await one.hear()).code == codes.CSM
    return one


async def refused(bridge: Running, identity: Identity) -> None:
    """See that somebody is not let in."""
    with contextlib.suppress(OSError):
        async with peer(bridge, identity) as one:
            one.say(SETTINGS)
            assert await one.ended()


async def test_a_newcomer_is_told_to_the_history_and_heard_of_nothing(
    authorities: Authorities,
) -> None:
    """Its certificate is recorded; events and EST are refused, commands and replies are not."""
    me = authorities.newcomer("pump-1")
    async with (
        running(authorities, provisioning_ca=authorities.provisioning_ca) as bridge,
        peer(bridge, me) as one,
    ):
        await begun(one)
        (shown,) = bridge.kafka.of(CertificatePresented)
        assert (shown.device_id, shown.certificate) == ("pump-1", facts(me.certificate))
        assert shown.evidence.certificate_sha256 == me.fingerprint
        said = await asked(one, event(b"1"))
        assert (said.code, b"enrols" in said.payload) == (codes.FORBIDDEN, True)
        for path in (("est", "sren"), (".well-known", "est", "sren")):
            request = Message(code=POST, _token=b"2")
            request.opt.uri_path = path
            assert (await asked(one, request)).code == codes.FORBIDDEN
        assert bridge.count.refusals[Reason.PROVISIONING_ONLY.value] == 3
        assert (await asked(one, commands(b"3"))).code == codes.CONTENT
        assert (await asked(one, reply(b"4", ROTATE))).code == codes.CHANGED
    await until_async(lambda: bridge.kafka.of(SessionClosed), describe="its end is told")
    assert bridge.kafka.of(DeviceReported) == bridge.kafka.of(SessionOpened) == []
    assert len(bridge.kafka.of(CommandAnswered)) == 1


async def test_nobody_is_a_newcomer_by_default(authorities: Authorities) -> None:
    """Without a provisioning CA the handshake fails; a stranger's fails with one, too."""
    async with running(authorities) as bridge:
        await refused(bridge, authorities.newcomer("pump-1"))
        assert (bridge.sessions, bridge.count.refusals) == (0, {"handshake": 1})
    async with running(authorities, provisioning_ca=authorities.provisioning_ca) as bridge:
        await refused(bridge, authorities.stranger("pump-1"))
        assert (bridge.sessions, bridge.count.refusals) == (0, {"handshake": 1})
        assert bridge.kafka.records == []


async def test_a_newcomer_takes_nothing_from_the_device_of_its_name(
    authorities: Authorities,
) -> None:
    """Neither its sessions nor its commands nor the answers to them."""
    me, other = authorities.device("pump-1"), authorities.newcomer("pump-1")
    async with (
        running(authorities, provisioning_ca=authorities.provisioning_ca) as bridge,
        peer(bridge, me) as one,
        contextlib.AsyncExitStack() as others,
    ):
        await begun(one)
        for _ in range(PER_DEVICE_MAX + 1):
            impostor = await begun(await others.enter_async_context(peer(bridge, other)))
        assert bridge.sessions == PER_DEVICE_MAX + 1
        for command in (ROTATE, INSTALL, UPDATE):
            await bridge.bridge.deliver(command)
        shown = (await asked(impostor, commands(b"1"))).payload
        assert [name in shown for name in (b"c-rotate", b"c-install", b"c-update")] == [
            True, True, False
        ]  # fmt: skip
        assert (await asked(impostor, reply(b"2", ROTATE))).code == codes.CHANGED
        assert b"c-rotate" not in (await asked(impostor, commands(b"3"))).payload
        shown = (await asked(one, commands(b"1"))).payload
        assert [name in shown for name in (b"c-rotate", b"c-install", b"c-update")] == [True] * 3


async def test_a_certificate_that_has_enrolled_is_good_for_nothing(
    authorities: Authorities,
) -> None:
    """The machine's word closes its sessions and lets it in no more; it is counted."""
    me = authorities.newcomer("pump-1")
    async with running(authorities, provisioning_ca=authorities.provisioning_ca) as bridge:
        async with peer(bridge, me) as one:
            await begun(one)
            await bridge.bridge.deliver(RefuseCertificate("c", "pump-1", 1, 0, me.fingerprint))
            assert await one.ended()
        await refused(bridge, me)
        assert bridge.count.refusals == {Reason.CERTIFICATE_RETIRED.value: 1}
        assert len(bridge.kafka.of(CertificatePresented)) == 1


async def test_newcomers_are_few_and_push_no_device_out(authorities: Authorities) -> None:
    """One more than the bound ends the newcomer that came first."""
    async with running(authorities, provisioning_ca=authorities.provisioning_ca) as bridge:
        bridge.bridge.sessions.newcomers_max = 1
        async with (
            peer(bridge, authorities.device("pump-1")) as device,
            peer(bridge, authorities.newcomer("pump-2")) as first,
        ):
            await begun(device)
            await begun(first)
            async with peer(bridge, authorities.newcomer("pump-3")) as second:
                await begun(second)
                assert await first.ended()
                assert bridge.count.refusals[Reason.TOO_MANY_NEWCOMERS.value] == 1
                assert bridge.sessions == 2
                assert (await asked(device, event(b"1"))).code == codes.CHANGED


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_newcomer_comes_over_dtls_as_well(authorities: Authorities, version: str) -> None:
    """Whatever the transport, the door judges alike."""
    me, both = authorities.newcomer("pump-1"), frozenset(VERSIONS)
    trusted = authorities.provisioning_ca
    async with (
        running(authorities, provisioning_ca=trusted, dtls=both) as bridge,
        client(bridge, version, me) as one,
    ):
        said = await one.ask(POST, "events/heat", b"{}", content_format=JSON)
        assert said.code == codes.FORBIDDEN
        assert [one.device_id for one in bridge.kafka.of(CertificatePresented)] == ["pump-1"]


async def test_a_newcomer_enrols_by_est(authorities: Authorities) -> None:
    """4.03 by its reason, 5.03 while an operator thinks, and then its first certificate of ours."""
    me, machine = authorities.newcomer("pump-1"), Machine(authorities)
    trusted, older = authorities.provisioning_ca, frozenset({"1.2"})
    body = csr()
    async with (
        running(authorities, machine, provisioning_ca=trusted, dtls=older) as bridge,
        client(bridge, "1.2", me) as one,
    ):
        for reason, code, after in (
            (Reason.APPROVAL_AWAITED, codes.SERVICE_UNAVAILABLE, 60),
            (Reason.REJECTED, codes.FORBIDDEN, None),
        ):
            machine.refusing = reason
            said = await one.ask(POST, "est/sen", body, content_format=PKCS10)
            assert (said.code, said.opt.max_age) == (code, after)
            assert said.payload.startswith(reason.value.encode())
        machine.refusing = None
        said = await one.ask(
            POST, "est/sen", body, content_format=PKCS10, accept=CERTIFICATE, block2=(0, False, 6)
        )
        assert said.code == codes.CHANGED
        made = x509.load_der_x509_certificate(said.payload)
        assert made.public_key() == x509.load_der_x509_csr(body).public_key()
        (shown,) = machine.of(CertificatePresented)
        asked_for = machine.of(SigningRequested)[-1]
        assert asked_for.evidence.session == shown.evidence.session
        assert (asked_for.command_id, asked_for.request_signature_valid) == ("", True)
