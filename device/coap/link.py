"""One CoAP session, in the same words as the MQTT one (device/link.py).

    publish devices/{id}/events/{type}  ─► POST /events/{type}    2.04 ─► devices/{id}/recorded
    publish devices/{id}/replies/{id}   ─► POST /replies/{id}     4.xx ─► recorded, with the refusal
    GET /commands, observed             ─► devices/{id}/commands/{command id}, each once

Rules of this file: one request at a time, for the history takes events in their order; `recorded`
is what 2.04 means, so the bridge sends no message for it. Asked to slow down, or told that Kafka is
away, the link waits as long as it is told and asks again.
"""

import asyncio
import contextlib
import json
import logging
import ssl
import types
from collections.abc import AsyncIterator
from typing import Any, Self

import cbor2
from aiocoap import GET, POST, Context, error
from aiocoap import Message as CoapMessage
from aiocoap.messagemanager import MessageManager
from aiocoap.numbers import codes
from aiocoap.tokenmanager import TokenManager
from aiocoap.transports.tls import TLSClient
from aiocoap.util import hostportjoin

from device import payloads
from device.coap.dtls import DtlsClient
from device.link import Broker, Lost, Message, Refused, Unreachable, tls_context
from device.payloads import CBOR, JSON, Malformed
from device.store import Identity

COAPS, COAPS_TCP = "coaps", "coaps+tcp"
CONNECT_SECONDS_MAX = 20.0
REQUEST_SECONDS_MAX = 30.0
CLOSE_SECONDS_MAX = 2.0
PATIENCE_SECONDS_MAX = 30.0
"""The longest Max-Age that is waited for before a request is made again."""
FORMATS = {JSON: 50, CBOR: 60}
LATER = frozenset({codes.TOO_MANY_REQUESTS, codes.SERVICE_UNAVAILABLE})

_log = logging.getLogger("fleetcert.device.coap")


class _Tls(TLSClient):  # type: ignore[misc] # aiocoap is untyped
    """aiocoap's TLS client under a context of ours."""

    context: ssl.SSLContext
    reached = False
    """Whether the server that we trust was there: our half of the handshake succeeded."""

    async def _spawn_protocol(self, message: Any) -> Any:
        connection = await super()._spawn_protocol(message)
        self.reached = True
        return connection

    def cut(self) -> None:
        """Close what is still open: aiocoap says that it goes, and leaves the rest to the peer."""
        for connection in tuple(self._pool.values()):
            connection._transport.close()

    def _ssl_context_factory(self, hostinfo: object) -> ssl.SSLContext:
        return self.context


class CoapLink:
    """A session with the bridge, as an asynchronous context manager.

    Entering raises Unreachable or Refused, every method Lost.
    """

    def __init__(self, broker: Broker, identity: Identity, device_id: str) -> None:
        self._broker, self._identity, self._device_id = broker, identity, device_id
        self._base = f"{broker.scheme}://{hostportjoin(broker.host, broker.port)}"
        self._context: Any = None
        self._transport: DtlsClient | _Tls | None = None
        self._observing: Any = None
        self._arrived: asyncio.Queue[Message | None] = asyncio.Queue()
        self._seen: set[str] = set()
        self._turn = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._context = Context(loggername="fleetcert.device.coap")
        try:
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                await (self._open_dtls() if self._broker.scheme == COAPS else self._open_tls())
                await self._attend()
        except BaseException as problem:
            await self._close()
            if isinstance(problem, OSError | error.Error):  # TimeoutError is one
                said = f"{type(problem).__name__}: {problem}"
                untrusted = isinstance(problem.__cause__ or problem, ssl.SSLCertVerificationError)
                reached = self._transport is not None and self._transport.reached
                kind = Refused if reached and not untrusted else Unreachable
                raise kind(said) from problem
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        await self._close()

    async def subscribe(self, pattern: str) -> None:
        """Do nothing: commands are observed from the start, *recorded* is each answer."""

    async def publish(self, topic: str, payload: bytes, content_type: str) -> bool:
        """Post an event or a reply; return whether it was recorded or refused for good."""
        *_, kind, name = topic.split("/")
        if kind not in ("events", "replies"):
            return True  # birth and will: the session itself tells of them
        async with self._turn:
            request = CoapMessage(code=POST, uri=f"{self._base}/{kind}", payload=payload)
            request.opt.uri_path = (kind, name)
            request.opt.content_format = FORMATS[content_type]
            response = await self._ask(request)
            while response.code in LATER:
                await asyncio.sleep(min(response.opt.max_age or 1, PATIENCE_SECONDS_MAX))
                response = await self._ask(request.copy())
        self._told(payload, content_type, response)
        return True

    async def messages(self) -> AsyncIterator[Message]:
        """Yield what comes down, until the session ends with Lost."""
        while True:
            message = await self._arrived.get()
            if message is None:
                raise Lost("the session ended")
            yield message

    async def acknowledge(self, message: Message) -> None:
        """Do nothing: a command leaves the list with its reply."""

    # -- connecting ----------------------------------------------------------------------------

    async def _open_tls(self) -> None:
        manager = TokenManager(self._context)
        client = await _Tls.create_client_transport(manager, self._context.log, self._context.loop)
        client.context = tls_context(self._broker.ca_file, self._identity)
        client.context.set_alpn_protocols(["coap"])
        manager.token_interface = self._transport = client
        self._context.request_interfaces.append(manager)

    async def _open_dtls(self) -> None:
        broker, tokens = self._broker, TokenManager(self._context)
        manager = MessageManager(tokens)
        client = DtlsClient(manager, self._identity, broker.ca_file, broker.host, broker.port)
        self._transport = client
        manager.message_interface, tokens.token_interface = client, manager
        self._context.request_interfaces.append(tokens)
        await client.connect()

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._observing is not None and not self._observing.observation.cancelled:
            self._observing.observation.cancel()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_SECONDS_MAX):
                await self._context.shutdown()
        if isinstance(self._transport, _Tls):
            self._transport.cut()

    # -- what comes down -----------------------------------------------------------------------

    async def _attend(self) -> None:
        """Begin to take what comes down."""
        await self._observe()
        self._tasks = [
            asyncio.create_task(self._follow()),
            asyncio.create_task(self._keep_alive()),
        ]

    async def _observe(self) -> None:
        request = CoapMessage(code=GET, uri=f"{self._base}/commands", observe=0)
        request.opt.accept = FORMATS[CBOR]
        self._observing = self._context.request(request)
        response = await self._observing.response
        if not response.code.is_successful():
            raise ConnectionRefusedError(f"{response.code}: {response.payload[:200]!r}")
        self._commands(response)

    async def _follow(self) -> None:
        """Take each notification; the end of the observation is the end of the session."""
        try:
            async for response in self._observing.observation:
                self._commands(response)
        except error.Error as problem:
            _log.info("observation ended error=%s", problem)
        self._arrived.put_nowait(None)

    async def _keep_alive(self) -> None:
        """Ask now and then: it keeps the way open, and finds what a lost notification left."""
        while True:
            await asyncio.sleep(self._broker.keep_alive_seconds)
            request = CoapMessage(code=GET, uri=f"{self._base}/commands")
            request.opt.accept = FORMATS[CBOR]
            try:
                self._commands(await self._ask(request))
            except Lost:
                self._arrived.put_nowait(None)
                return

    def _commands(self, response: CoapMessage) -> None:
        try:
            listed = cbor2.loads(response.payload) if response.payload else []
        except (ValueError, cbor2.CBORError) as problem:
            _log.warning("commands are no CBOR error=%s", problem)
            return
        for fields in listed if isinstance(listed, list) else []:
            named = fields.get("command_id") if isinstance(fields, dict) else None
            if isinstance(named, str) and named not in self._seen:
                self._seen.add(named)
                topic = f"devices/{self._device_id}/commands/{named}"
                self._arrived.put_nowait(Message(topic, cbor2.dumps(fields), CBOR, None))

    # -- what goes up --------------------------------------------------------------------------

    async def _ask(self, request: CoapMessage) -> CoapMessage:
        try:
            async with asyncio.timeout(REQUEST_SECONDS_MAX):
                return await self._context.request(request).response
        except (error.Error, OSError) as problem:
            raise Lost(f"{type(problem).__name__}: {problem}") from problem

    def _told(self, payload: bytes, content_type: str, response: CoapMessage) -> None:
        """Hand on what an answer says of the item's number."""
        try:
            said = payloads.decode(payload, content_type)
            number = [int(said["boot"]), int(said["sequence"])]
        except (Malformed, KeyError, TypeError, ValueError):
            return
        told: dict[str, object] = {"boot": number[0], "sequence": number[1]}
        if not response.code.is_successful():
            why = response.payload.decode(errors="replace")[:200]
            told["refused"] = f"{response.code}: {why}"
        topic = f"devices/{self._device_id}/recorded"
        self._arrived.put_nowait(Message(topic, json.dumps(told).encode(), JSON, None))
