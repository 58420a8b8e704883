"""A DTLS 1.3 client as an aiocoap transport: one association with one server.

Rules of this file: nothing is said before the server has proven that it owns a certificate which
the service CA issued for the name we called; an association that ended is never used again.
"""

import asyncio
import datetime
import importlib.util
import ipaddress
import ssl
from pathlib import Path
from typing import Any

from aiocoap import error, interfaces
from aiocoap.message import Message
from aiocoap.numbers import constants
from aiocoap.util import hostportjoin
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import verification

from device.store import Identity

HANDSHAKE_SECONDS = 15.0
FAR_SECONDS = 3_600.0
ABSENT = "no DTLS 1.3 on this device: build native/dtls13, or use coaps+tcp"


class Server(interfaces.EndpointAddress):  # type: ignore[misc] # aiocoap is untyped
    """The one peer of a transport."""

    scheme = "coaps"
    is_multicast = is_multicast_locally = False
    maximum_block_size_exp = constants.MAX_REGULAR_BLOCK_SIZE_EXP
    hostinfo_local = ""
    uri_base_local = ""

    def __init__(self, hostinfo: str) -> None:
        self._hostinfo = hostinfo

    @property
    def hostinfo(self) -> str:
        """Where the server is."""
        return self._hostinfo

    @property
    def uri_base(self) -> str:
        """The server as a URI."""
        return "coaps://" + self._hostinfo

    @property
    def blockwise_key(self) -> object:
        """Blocks belong to one association."""
        return self


class DtlsClient(asyncio.DatagramProtocol, interfaces.MessageInterface):  # type: ignore[misc]
    """The transport: `connect` before the first message."""

    def __init__(
        self, manager: Any, identity: Identity, ca_file: Path, host: str, port: int
    ) -> None:
        if not has_dtls():
            raise OSError(ABSENT)
        import fleetcert_dtls13

        self._manager, self._loop = manager, asyncio.get_running_loop()
        self._host, self._port = host, port
        self._anchors = x509.load_pem_x509_certificates(ca_file.read_bytes())
        context = fleetcert_dtls13.Context(_der(identity), _key(identity), server=False)
        self._association = fleetcert_dtls13.Association(context)
        self._connected: asyncio.Future[None] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._transport: Any = None
        self.remote = Server(str(hostportjoin(host, port)))
        self.reached = False
        self._ended = ""

    async def connect(self) -> None:
        """Shake hands. Raises OSError, ssl.SSLCertVerificationError where it is not our server."""
        self._transport, _ = await self._loop.create_datagram_endpoint(
            lambda: self, remote_addr=(self._host, self._port)
        )
        self._act(self._association.tick())
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            await self._connected

    def datagram_received(self, data: bytes, addr: object) -> None:
        """Take a datagram of the server."""
        self.reached = True
        self._act(self._association.receive(data))

    def error_received(self, exc: Exception) -> None:
        """Nobody listens there (ICMP): begin anew. Forged, it costs a handshake, nothing more."""
        if isinstance(exc, ConnectionRefusedError):
            self._over(str(exc))

    def send(self, message: Any) -> None:
        """Send one message; over an association that ended already, its end is the answer."""
        if self._ended:
            self._loop.call_soon(self._tell)
        else:
            self._act(self._association.send(message.encode()))

    async def recognize_remote(self, remote: object) -> bool:
        """Tell whether a remote is our server."""
        return remote is self.remote

    async def determine_remote(self, message: Any) -> Server | None:
        """Return our server, whatever it was called."""
        return self.remote if message.requested_scheme == "coaps" else None

    async def shutdown(self) -> None:
        """Say that it is over and close the socket."""
        self._manager = None
        self._act(self._association.close())
        if self._transport is not None:
            self._transport.close()

    def _act(self, told: Any) -> None:
        for kind, data in told:
            if kind == "datagram":
                self._transport.sendto(data)
            elif kind == "connected":
                self._verify(data)
            elif kind == "data":
                self._take(data)
            else:
                self._over(data.decode(errors="replace") or "closed")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        delay = self._association.delay()
        if delay is not None and delay < FAR_SECONDS:
            self._timer = self._loop.call_later(delay, self._due)

    def _due(self) -> None:
        self._timer = None
        self._act(self._association.tick())

    def _verify(self, der: bytes) -> None:
        verifier = (
            verification.PolicyBuilder()
            .store(verification.Store(self._anchors))
            .time(datetime.datetime.now(datetime.UTC))
            .build_server_verifier(_subject(self._host))
        )
        try:
            verifier.verify(x509.load_der_x509_certificate(der), [])
        except (verification.VerificationError, ValueError) as problem:
            if not self._connected.done():
                self._connected.set_exception(ssl.SSLCertVerificationError(str(problem)))
            self._over("not our server")
            return
        if not self._connected.done():
            self._connected.set_result(None)

    def _take(self, data: bytes) -> None:
        if not self._connected.done() or self._manager is None:
            return
        try:
            message = Message.decode(data, remote=self.remote)
        except error.UnparsableMessage:
            return
        self._manager.dispatch_message(message)

    def _over(self, why: str) -> None:
        self._ended = why
        if not self._connected.done():
            self._connected.set_exception(ConnectionResetError(why))
        self._tell()

    def _tell(self) -> None:
        """End what waits for an answer."""
        if self._manager is not None:
            self._manager.dispatch_error(error.NetworkError(self._ended), self.remote)


def has_dtls() -> bool:
    """Tell whether this machine can speak DTLS 1.3."""
    return importlib.util.find_spec("fleetcert_dtls13") is not None


def _subject(host: str) -> x509.DNSName | x509.IPAddress:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _der(identity: Identity) -> bytes:
    return identity.certificate().public_bytes(serialization.Encoding.DER)


def _key(identity: Identity) -> bytes:
    return identity.key().private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
