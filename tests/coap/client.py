"""A CoAP client over DTLS 1.3 or 1.2 with nothing hidden: each datagram can be lost."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

from aiocoap import Message
from aiocoap.numbers import ACK, CON, codes
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL

from bridges.coap import dtls12
from tests.coap.rig import Identity, Running

SECONDS_MAX = 15.0
AGAIN_SECONDS = 0.15


class Gone(Exception):
    """The association ended, or never came to be."""


class Client(asyncio.DatagramProtocol):
    """One association; `sent` are its datagrams, `heard` the messages that came down."""

    def __init__(self, association: Any, loss: float = 0.0, seed: int = 1) -> None:
        self.association, self.loss, self.dice = association, loss, random.Random(seed)
        self.loop = asyncio.get_running_loop()
        self.connected: asyncio.Future[bytes] = self.loop.create_future()
        self.ended, self.closed = asyncio.Event(), asyncio.Event()
        self.why, self.again_seconds = "", AGAIN_SECONDS
        self.heard: list[Message] = []
        self.sent: list[bytes] = []
        self._news = asyncio.Event()
        self._mid = self.dice.randrange(0x8000)
        self._timer: asyncio.TimerHandle | None = None
        self.transport: Any = None

    def begin(self) -> None:
        """Send the first hello."""
        self._act(self.association.tick() or self.association.receive(b""))

    def datagram_received(self, data: bytes, addr: object) -> None:
        """Take a datagram, unless it is lost."""
        if self.dice.random() >= self.loss:
            self._act(self.association.receive(data))

    def error_received(self, exc: Exception) -> None:
        """Pass over."""

    def send(self, message: Message) -> None:
        """Send one message as it is."""
        self._act(self.association.send(message.encode()))

    async def ask(
        self, code: codes.Code, path: str, payload: bytes = b"", **options: Any
    ) -> Message:
        """Make a confirmable request, again until it is answered; separate answers count too."""
        self._mid = (self._mid + 1) & 0xFFFF
        token = self._mid.to_bytes(2, "big")
        message = Message(code=code, payload=payload, _mid=self._mid, _mtype=CON, _token=token)
        message.opt.uri_path = tuple(path.split("/"))
        for name, value in options.items():
            setattr(message.opt, name, value)
        async with asyncio.timeout(SECONDS_MAX):
            while True:
                self.send(message)
                found = await self.answer(token, self.again_seconds)
                if found is not None:
                    return found

    async def answer(self, token: bytes, seconds: float) -> Message | None:
        """Return the first answer to a token within the time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    for one in self.heard:
                        if one.token == token and one.code != codes.EMPTY:
                            self.heard.remove(one)
                            return one
                    if self.ended.is_set():
                        raise Gone(self.why)
                    self._news.clear()
                    await self._news.wait()
        return None

    def _act(self, told: Any) -> None:
        for kind, data in told:
            if kind == "datagram":
                self.sent.append(data)
                if self.dice.random() >= self.loss:
                    self.transport.sendto(data)
            elif kind == "connected":
                self.connected.set_result(data)
            elif kind == "data":
                message = Message.decode(data)
                self.heard.append(message)
                if message.mtype is CON:
                    self.send(Message(code=codes.EMPTY, _mid=message.mid, _mtype=ACK))
            else:
                self.why = data.decode(errors="replace") or kind
                self.ended.set()
                if not self.connected.done():
                    self.connected.set_exception(Gone(self.why))
            self._news.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        delay = self.association.delay()
        if delay is not None and delay < SECONDS_MAX:
            self._timer = self.loop.call_later(delay, self._due)

    def _due(self) -> None:
        self._timer = None
        self._act(self.association.tick())

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self.closed.set()

    async def close(self) -> None:
        """Close the socket without a word."""
        if self._timer is not None:
            self._timer.cancel()
        self.transport.close()
        await self.closed.wait()


def association(
    version: str, identity: Identity | None, suites: bytes = dtls12.SUITES, options: int = 0
) -> Any:
    """Return a client's association of a version; DTLS 1.2 can do without a certificate.

    `suites` and `options` are OpenSSL's, for a client of 1.2 that is not up to date.
    """
    if version == "1.3":
        import fleetcert_dtls13

        assert identity is not None
        context = fleetcert_dtls13.Context(
            identity.certificate, identity.key, server=False, retransmit_seconds=0.3, retries=10
        )
        return fleetcert_dtls13.Association(context)
    settings = SSL.Context(SSL.DTLS_CLIENT_METHOD)
    settings.set_cipher_list(suites)
    settings.set_options(SSL.OP_NO_QUERY_MTU | options)
    if identity is not None:
        settings.use_certificate(x509.load_der_x509_certificate(identity.certificate))
        key = serialization.load_der_private_key(identity.key, None)
        settings.use_privatekey(key)
    connection = SSL.Connection(settings, None)
    connection.set_ciphertext_mtu(dtls12.MTU)
    connection.set_connect_state()
    return _First(connection)


class _First(dtls12.Association):
    """The client's side of DTLS 1.2: its first step is its own."""

    _begun = False

    def tick(self) -> dtls12.Told:
        """Send the hello, then what is due."""
        if not self._begun:
            self._begun = True
            return self._step()
        return super().tick()


@contextlib.asynccontextmanager
async def client(
    running: Running,
    version: str,
    identity: Identity | None,
    *,
    loss: float = 0.0,
    seed: int = 1,
    local: int = 0,
) -> AsyncIterator[Client]:
    """Connect a client. Raises Gone where its own side sees that it is refused."""
    loop = asyncio.get_running_loop()
    made = Client(association(version, identity), loss, seed)
    made.transport, _ = await loop.create_datagram_endpoint(
        lambda: made, local_addr=("127.0.0.1", local), remote_addr=("127.0.0.1", running.port)
    )
    try:
        made.begin()
        async with asyncio.timeout(SECONDS_MAX):
            await made.connected
        yield made
    finally:
        await made.close()
