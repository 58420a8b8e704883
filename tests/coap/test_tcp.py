"""coaps+tcp: who comes in, and what garbage, slowness and silence do not break."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiocoap import GET, POST, Message
from aiocoap.numbers import codes
from aiocoap.optiontypes import UintOption
from aiocoap.transports import tcp as wire

from bridges.coap import enrolment, resources, tcp
from bridges.coap.sessions import PER_DEVICE_MAX
from schemas.events import DeviceReported, SessionClosed, SessionOpened, SessionRefused
from schemas.reasons import Reason
from tests.coap.rig import Authorities, Identity, Running, running
from tests.helpers.wait import until_async

JSON = 50
SETTINGS = Message(code=codes.CSM)


class Peer:
    """A client that writes and reads CoAP messages over TLS (RFC 8323 section 3)."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def say(self, message: Message) -> None:
        """Write one message."""
        self.writer.write(wire._serialize(message))

    async def hear(self) -> Message:
        """Read one message."""
        data = b""
        async with asyncio.timeout(10):
            while True:
                size = wire._extract_message_size(data)
                if size is not None and len(data) >= sum(size):
                    return wire._decode_message(data)
                missing = 1 if size is None else sum(size) - len(data)
                data += await self.reader.readexactly(missing)

    async def ended(self) -> bool:
        """Wait for the end of the connection."""
        with contextlib.suppress(OSError):  # a reset is an end, too
            async with asyncio.timeout(15):
                while await self.reader.read(65_536):
                    pass
        return True


@contextlib.asynccontextmanager
async def peer(
    bridge: Running,
    identity: Identity | None,
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    receive_bytes: int = 0,
) -> AsyncIterator[Peer]:
    """Connect; the TLS client believes that it is connected before it is judged."""
    context = tls(bridge.authorities.service_ca, identity)
    context.maximum_version = version
    with socket.socket() as raw:
        if receive_bytes:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", bridge.port))
        sock = socket.socket(fileno=raw.detach())
    opened = await asyncio.open_connection(sock=sock, ssl=context, server_hostname="localhost")
    try:
        yield Peer(*opened)
    finally:
        opened[1].transport.abort()


def tls(service_ca: Path, identity: Identity | None) -> ssl.SSLContext:
    """Return a client's context."""
    context = ssl.create_default_context(cafile=str(service_ca))
    if identity is not None:
        context.load_cert_chain(identity.certificate_file, identity.key_file)
    return context


def event(token: bytes, sequence: int = 1, size: int = 1) -> Message:
    """Return a numbered event."""
    body = b'{"boot": 1, "sequence": %d, "body": "%s"}' % (sequence, b"x" * size)
    message = Message(code=POST, payload=body, _token=token)
    message.opt.uri_path, message.opt.content_format = ("events", "heat"), JSON
    return message


async def test_events_in_order_under_the_certificate_of_tls(authorities: Authorities) -> None:
    """Two hundred requests without waiting: all answered, recorded in their order."""
    me = authorities.device("pump-1")
    async with running(authorities, requests_per_second=500.0) as bridge, peer(bridge, me) as one:
        one.say(SETTINGS)
        assert (await one.hear()).code == codes.CSM
        window = 20
        for start in range(0, 200, window):
            for number in range(start, start + window):
                one.say(event(number.to_bytes(2, "big"), number + 1))
            answers = [await one.hear() for _ in range(window)]
            assert {answer.code for answer in answers} == {codes.CHANGED}
        found = bridge.kafka.of(DeviceReported)
        assert [one.numbering.sequence for one in found] == list(range(1, 201))
        assert {one.evidence.certificate_sha256 for one in found} == {me.fingerprint}
        assert bridge.kafka.of(SessionOpened)[0].device_id == "pump-1"
    assert bridge.kafka.of(SessionClosed)[0].device_id == "pump-1"


@pytest.mark.parametrize(
    ("code", "path", "options", "most"),
    [
        (GET, ("commands",), {"observe": 0}, resources.OBSERVERS_MAX),
        (POST, ("events", "heat"), {"content_format": JSON}, resources.IN_FLIGHT_MAX),
        (POST, ("est", "sren"), {"content_format": enrolment.PKCS10}, resources.IN_FLIGHT_MAX),
    ],
)
async def test_limits_hold_for_what_comes_at_once(
    authorities: Authorities,
    code: codes.Code,
    path: tuple[str, ...],
    options: dict[str, Any],
    most: int,
) -> None:
    """More requests than a limit in one record of TLS: the limit holds before any is answered."""
    me = authorities.device("pump-1")
    async with running(authorities, requests_per_second=1e6) as bridge, peer(bridge, me) as one:
        one.say(SETTINGS)
        await one.hear()
        many = [
            Message(code=code, payload=b"{}", _token=bytes([number]), uri_path=path, **options)
            for number in range(most + 3)
        ]
        one.writer.write(b"".join(wire._serialize(each) for each in many))
        answers = [await one.hear() for _ in many]
        if "observe" in options:
            assert sum(each.opt.observe is not None for each in answers) == most
        else:
            refused = [each for each in answers if each.code == codes.TOO_MANY_REQUESTS]
            assert len(refused) == len(many) - most
        (session,) = bridge.bridge.sessions.of("pump-1")
        assert (session.in_flight, len(session.observers)) in ((0, 0), (0, most))


async def test_a_body_that_fits_a_message_needs_no_blocks(authorities: Authorities) -> None:
    """Fifteen kilobytes in one message; above the announced limit the connection is aborted."""
    me = authorities.device("pump-1")
    async with running(authorities) as bridge, peer(bridge, me) as one:
        one.say(SETTINGS)
        settings = await one.hear()
        (most,) = [o.value for o in settings.opt.option_list() if int(o.number) == 2]
        assert int.from_bytes(most, "big") == tcp.MESSAGE_BYTES_MAX
        one.say(event(b"1", size=15_000))
        assert (await one.hear()).code == codes.CHANGED
        one.say(event(b"2", size=tcp.MESSAGE_BYTES_MAX))
        assert (await one.hear()).code == codes.ABORT
        assert await one.ended()


async def test_only_valid_certificates_of_our_devices_come_in(authorities: Authorities) -> None:
    """No certificate, another CA, an expired and a replaced one; ours is told to the history."""
    late, gone = authorities.expired("pump-3"), authorities.device("pump-4")
    replaced = authorities.device("pump-5")
    async with running(authorities) as bridge:
        for one in (gone, replaced):
            bridge.bridge.sessions.refuse(one.fingerprint)
        twin = authorities.twin(replaced)
        for identity in (None, authorities.stranger("pump-1"), late, gone, twin):
            with contextlib.suppress(OSError):
                async with peer(bridge, identity) as one:
                    one.say(SETTINGS)
                    assert await one.ended()
        told = {one.device_id: one.reason for one in bridge.kafka.of(SessionRefused)}
        assert (bridge.sessions, bridge.kafka.of(SessionOpened)) == (0, [])
        assert bridge.count.refusals["handshake"] == 2
    assert told == {
        "pump-3": Reason.EXPIRED.value,
        "pump-4": Reason.CERTIFICATE_RETIRED.value,
        "pump-5": Reason.CERTIFICATE_RETIRED.value,
    }


async def test_tls_1_2_is_refused(authorities: Authorities) -> None:
    """The handshake fails, whatever the certificate."""
    async with running(authorities) as bridge:
        with pytest.raises(OSError):
            async with peer(bridge, authorities.device("pump-1"), ssl.TLSVersion.TLSv1_2):
                pass
        assert bridge.sessions == 0


@pytest.mark.parametrize(
    "garbage",
    [b"\xff" * 64, b"\x0f\x01" + b"t" * 20, b"\x10\x01\xf0", b"\xe0\xff\xff\x01", b"\x01\x45"],
)
async def test_garbage_ends_its_own_connection_alone(
    authorities: Authorities, garbage: bytes
) -> None:
    """A stream that is no CoAP is cut; the neighbour does not notice."""
    async with (
        running(authorities) as bridge,
        peer(bridge, authorities.device("pump-1")) as good,
        peer(bridge, authorities.device("pump-2")) as bad,
    ):
        good.say(SETTINGS)
        await good.hear()
        bad.writer.write(garbage + b"\0" * 70_000)
        assert await bad.ended()
        good.say(event(b"1"))
        assert (await good.hear()).code == codes.CHANGED
        await until_async(lambda: bridge.sessions == 1, describe="one session is left")


async def test_an_unknown_critical_capability_aborts(authorities: Authorities) -> None:
    """RFC 8323 section 5.3: what is critical and not understood ends the connection."""
    strange = Message(code=codes.CSM)
    strange.opt.add_option(UintOption(9, 1))
    async with running(authorities) as bridge, peer(bridge, authorities.device("p")) as one:
        one.say(strange)
        assert (await one.hear()).code == codes.CSM
        assert (await one.hear()).code == codes.ABORT
        assert await one.ended()


async def test_a_peer_that_reads_nothing_is_cut_off(authorities: Authorities) -> None:
    """What waits for it is bounded; then it is counted and dropped."""
    me = authorities.device("pump-1")
    async with (
        running(authorities, requests_per_second=1e9) as bridge,
        peer(bridge, me, receive_bytes=4_096) as one,
    ):
        one.say(SETTINGS)
        reading = one.writer.transport
        assert isinstance(reading, asyncio.ReadTransport)
        reading.pause_reading()
        ask = Message(code=GET)
        ask.opt.uri_path = (".well-known", "core")

        def unread() -> int | None:
            for number in range(100):
                ask.token = number.to_bytes(2, "big")
                with contextlib.suppress(OSError):
                    one.say(ask)
            return bridge.count.refusals.get("unread")

        await until_async(unread, within=30, describe="it is dropped")


async def test_a_device_holds_few_sessions(authorities: Authorities) -> None:
    """One more than the limit closes the oldest, so a half-open one never locks a device out."""
    me = authorities.device("pump-1")
    async with running(authorities) as bridge, contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(peer(bridge, me))
        for _ in range(PER_DEVICE_MAX):
            one = await stack.enter_async_context(peer(bridge, me))
            one.say(SETTINGS)
            await one.hear()
        assert await first.ended()
        assert bridge.sessions == PER_DEVICE_MAX
