"""coaps over UDP: one socket, many DTLS associations, as an aiocoap transport.

    ClientHello ─► candidate (unproven) ─► cookie returned: handshake ─► key proven, admitted: peer

Rules of this file: nothing that an unproven address sends touches the association that stands
under it; a new one takes its place only when its certificate is accepted (RFC 9147 section 5.11).
Every table is bounded and its oldest entry gives way. Plaintext reaches candidates only, so spoofed
alerts end nothing. A client keeps its random from the first hello of a handshake to the second (RFC
8446 section 4.1.2), which tells a repeat from a new beginning.
"""

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

import structlog
from aiocoap import error, interfaces
from aiocoap.numbers import constants
from aiocoap.util import hostportjoin

from bridges.coap import dtls12, hello, wire
from bridges.coap.exchanges import Exchange, end_all
from bridges.coap.sessions import ENDED, LOST, REPLACED, Session
from bridges.coap.tcp import Welcome
from bridges.coap.udp import Address, DatagramSocket

log = structlog.get_logger()
UNPROVEN_MAX = 1_000
"""Candidates whose address is not proven: what a flood of spoofed hellos can hold, 12 KiB each."""
HANDSHAKES_MAX = 500
HANDSHAKE_SECONDS = 30.0
DATAGRAM_BYTES_MAX = 9_216
COAPS_PORT = 5_684
CLASSIC = range(20, 32)
"""First bytes of a record in the clear, and of every record of DTLS 1.2 (RFC 9147 section 4)."""
APPLICATION_DATA, EPOCH_OF_HANDSHAKE = 23, 2
FAR_SECONDS = 3_600.0
"""What is due later than this is not waited for: nothing is, once an association stands."""


class Association(Protocol):
    """One association of either version: fleetcert_dtls13.Association or dtls12.Association."""

    def receive(self, datagram: bytes, /) -> dtls12.Told:
        """Take one datagram."""

    def tick(self) -> dtls12.Told:
        """Do what is due."""

    def send(self, data: bytes, /) -> dtls12.Told:
        """Send one message. Raises ValueError where it fits no datagram."""

    def close(self) -> dtls12.Told:
        """Say that it is over."""

    def delay(self) -> float | None:
        """Return the seconds until `tick` is due."""


class Closed(error.NetworkError):  # type: ignore[misc] # aiocoap is untyped
    """The association is over: observations and exchanges on it end."""


class Peer(interfaces.EndpointAddress):  # type: ignore[misc] # aiocoap is untyped
    """One association with one address; compares by identity, so nothing survives it."""

    scheme = "coaps"
    is_multicast = is_multicast_locally = False
    maximum_block_size_exp = constants.MAX_REGULAR_BLOCK_SIZE_EXP

    def __init__(
        self, server: "DatagramServer", association: Association, addr: Address, greeting: bytes
    ) -> None:
        self._server, self.association, self.addr = server, association, addr
        self.greeting = greeting
        self.session: Session | None = None
        self.proven = False
        self.begun = time.monotonic()
        self.exchanges: dict[bytes, Exchange] = {}
        self.recent: OrderedDict[int, tuple[float, Any]] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def hostinfo(self) -> str:
        """Where the peer is."""
        return str(hostportjoin(self.addr[0], None if self.addr[1] == COAPS_PORT else self.addr[1]))

    @property
    def hostinfo_local(self) -> str:
        """Where we are."""
        return self._server.hostinfo

    @property
    def uri_base(self) -> str:
        """The peer as a URI."""
        return "coaps://" + self.hostinfo

    @property
    def uri_base_local(self) -> str:
        """We as a URI."""
        return "coaps://" + self.hostinfo_local

    @property
    def blockwise_key(self) -> object:
        """Blocks belong to one association."""
        return self

    def act(self, told: dtls12.Told) -> None:
        """Do what became of a call of the association."""
        for kind, data in told:
            if kind == "datagram":
                self.proven = self.proven or (self.session is None and is_flight(data))
                self._server.send_datagram(data, self.addr)
            elif kind == "connected":
                self._server.connected(self, data)
            elif kind == "data":
                self._server.data_received(self, data)
            elif kind == "closed":
                self._server.forget(self, ENDED)
            else:
                self._server.failed(self, data.decode(errors="replace"))
        self._arm()

    def end(self, code: int) -> None:
        """Close the association and forget it."""
        for kind, data in self.association.close():
            if kind == "datagram":
                self._server.send_datagram(data, self.addr)
        self._server.forget(self, code)

    def disarm(self) -> None:
        """Let nothing more be due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        self.disarm()
        delay = self.association.delay()
        if delay is not None and delay < FAR_SECONDS and self._server.knows(self):
            loop = self._server.loop
            self._timer = loop.call_later(max(delay, 0.001), self._due)

    def _due(self) -> None:
        self._timer = None
        if self.session is None and time.monotonic() - self.begun > HANDSHAKE_SECONDS:
            self._server.count("slow")
            self._server.forget(self, LOST)
        else:
            self.act(self.association.tick())


class DatagramServer(interfaces.MessageInterface):  # type: ignore[misc] # aiocoap is untyped
    """The listener of coaps over UDP."""

    def __init__(
        self,
        manager: Any,
        *,
        make_1_3: Callable[[], Association] | None,
        context_1_2: dtls12.Context | None,
        welcome: Welcome,
        heard: Callable[[Session], None],
        leave: Callable[[Session, int], None],
        count: Callable[[str], None],
    ) -> None:
        self._manager, self.loop = manager, manager.loop
        self._make_1_3, self._context_1_2 = make_1_3, context_1_2
        self._welcome, self._heard, self._leave, self.count = welcome, heard, leave, count
        self.peers: dict[Address, Peer] = {}
        self.candidates: OrderedDict[Address, Peer] = OrderedDict()
        self.unproven: OrderedDict[Address, Peer] = OrderedDict()
        self.unproven_max = UNPROVEN_MAX
        self._socket: DatagramSocket | None = None
        self.hostinfo, self.port = "", 0

    def listen(self, host: str, port: int, *, shared: bool = False) -> None:
        """Begin to listen; `shared` lets other processes listen on the same port."""
        self._socket = DatagramSocket(
            host,
            port,
            bytes_max=DATAGRAM_BYTES_MAX,
            received=self.datagram_received,
            count=self.count,
            shared=shared,
        )
        self.port = self._socket.port
        self.hostinfo = str(hostportjoin(host, None if self.port == COAPS_PORT else self.port))

    # -- datagrams -----------------------------------------------------------------------------

    def datagram_received(self, data: bytes, addr: Address) -> None:
        """Give a datagram to the association it is for."""
        if not 0 < len(data) <= DATAGRAM_BYTES_MAX:
            self.count("datagram")
            return
        greeting = hello.read(data)
        if greeting is not None:
            self._hello(greeting, data, addr)
            return
        peer = self._addressee(data, addr)
        if peer is None:
            self.count("datagram")
            return
        peer.act(peer.association.receive(data))
        self._settle(peer)

    def send_datagram(self, data: bytes, addr: Address) -> None:
        """Send one datagram."""
        if self._socket is not None:
            self._socket.send(data, addr)

    def _addressee(self, data: bytes, addr: Address) -> Peer | None:
        """Return whom a datagram is for, the one that stands or the candidate."""
        candidate = self.candidates.get(addr) or self.unproven.get(addr)
        standing = self.peers.get(addr)
        if data[0] not in CLASSIC:
            of_handshake = data[0] & 3 == EPOCH_OF_HANDSHAKE
        elif data[3:5] == b"\0\0":
            return candidate
        else:
            of_handshake = data[0] != APPLICATION_DATA
        return (candidate or standing) if of_handshake else (standing or candidate)

    def _hello(self, greeting: hello.Hello, data: bytes, addr: Address) -> None:
        known = self.candidates.get(addr) or self.unproven.get(addr)
        if known is not None and (known.proven or known.greeting == greeting.random):
            known.act(known.association.receive(data))
            self._settle(known)
            return
        if self._make_1_3 is not None and greeting.offers_1_3:
            if greeting.sequence == 0:
                self._begin(self._make_1_3(), data, addr, greeting.random)
            elif known is not None and not greeting.random:
                known.act(known.association.receive(data))
                self._settle(known)
            else:
                self.count("hello")  # the second hello of a candidate that gave way
        elif self._context_1_2 is not None and greeting.extended_master_secret:
            answer, association = self._context_1_2.hello(data, addr)
            if answer:
                self.send_datagram(answer, addr)
            if association is not None:
                self._begin(association, b"", addr, greeting.random, proven=True)
        else:
            self.count("version")

    def _begin(
        self,
        association: Association,
        data: bytes,
        addr: Address,
        random: bytes,
        *,
        proven: bool = False,
    ) -> None:
        """Begin a handshake; an unfinished one of the same address gives way."""
        for table in (self.unproven, self.candidates):
            former = table.pop(addr, None)
            if former is not None:
                former.disarm()
        peer = Peer(self, association, addr, random)
        peer.proven = proven
        self.unproven[addr] = peer
        peer.act(association.tick())
        peer.act(association.receive(data))
        self._settle(peer)

    def _settle(self, peer: Peer) -> None:
        """Move a candidate whose address is now proven, and keep both tables within bounds."""
        if peer.proven and self.unproven.get(peer.addr) is peer:
            del self.unproven[peer.addr]
            self.candidates[peer.addr] = peer
        bounds = ((self.unproven, self.unproven_max), (self.candidates, HANDSHAKES_MAX))
        for table, most in bounds:
            while len(table) > most:
                _, oldest = table.popitem(last=False)
                oldest.disarm()
                self.count("handshakes")

    # -- associations --------------------------------------------------------------------------

    def connected(self, peer: Peer, der: bytes) -> None:
        """The peer owns the key of this certificate: admit it, and only then replace the old."""
        self.unproven.pop(peer.addr, None)
        self.candidates.pop(peer.addr, None)
        host, port = peer.addr[:2]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        session = self._welcome(der, address, peer.end)
        if session is None:
            peer.end(LOST)
            return
        former = self.peers.get(peer.addr)
        if former is not None:
            former.disarm()
            self.forget(former, REPLACED)
        peer.session = session
        self.peers[peer.addr] = peer

    def failed(self, peer: Peer, why: str) -> None:
        """An association is over by an error of its own."""
        self.count("handshake" if peer.session is None else "association")
        log.info("coap.dtls", error=why)
        self.forget(peer, LOST)

    def knows(self, peer: Peer) -> bool:
        """Tell whether the association is still in one of the tables."""
        tables = (self.peers, self.candidates, self.unproven)
        return any(table.get(peer.addr) is peer for table in tables)

    def forget(self, peer: Peer, code: int) -> None:
        """Take an association out of the tables and end what goes on over it."""
        peer.disarm()
        for table in (self.peers, self.candidates, self.unproven):
            if table.get(peer.addr) is peer:
                del table[peer.addr]
        session, peer.session = peer.session, None
        if session is None:
            return
        self._leave(session, code)
        if self._manager is not None:
            self._manager.dispatch_error(Closed(f"the association ended ({code:#x})"), peer)

    def data_received(self, peer: Peer, data: bytes) -> None:
        """Parse one CoAP message."""
        if peer.session is None or self._manager is None:
            return
        self._heard(peer.session)
        try:
            message = wire.datagram(data, peer)
        except error.UnparsableMessage:
            self.count("unparsable")
            return
        try:
            self._manager.dispatch_message(message)
        except Exception:  # a mistake of ours; what else came with this datagram goes on
            self.count("internal")
            log.exception("coap.failed")

    # -- aiocoap's MessageInterface ------------------------------------------------------------

    def send(self, message: Any) -> None:
        """Send a message to the peer it names; one that is gone gets nothing."""
        peer = message.remote
        if peer.session is None:
            return
        try:
            peer.act(peer.association.send(message.encode()))
        except ValueError as problem:
            self.count("oversize")
            log.warning("coap.unsent", error=str(problem))

    async def recognize_remote(self, remote: object) -> bool:
        """Tell whether a remote is one of our peers."""
        return isinstance(remote, Peer) and remote._server is self and remote.session is not None

    async def determine_remote(self, message: object) -> None:
        """Answer that a server begins no association."""

    async def shutdown(self) -> None:
        """Close every association and the socket."""
        self._manager = None
        for peer in (*self.unproven.values(), *self.candidates.values(), *self.peers.values()):
            with contextlib.suppress(Exception):  # each in its own state of ending
                peer.end(ENDED)
            end_all(peer.exchanges)
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def is_flight(datagram: bytes) -> bool:
    """Tell whether a server's datagram holds more than a request for a cookie.

    A HelloRetryRequest is one plaintext record; only behind the right cookie come ciphertexts.
    """
    at = 0
    while at < len(datagram):
        if datagram[at] not in CLASSIC:
            return True
        at += dtls12.RECORD.size + int.from_bytes(datagram[at + 11 : at + 13], "big")
    return False
