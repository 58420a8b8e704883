"""Which doors are open: builds the transports that the settings ask for, over one resource tree.

Rules of this file: what is offered is said at the start, and what was wanted and cannot be offered
is said too. DTLS 1.2 is there only where it is named; a missing extension never brings it in.
"""

import importlib.util
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from aiocoap import Context
from aiocoap.tokenmanager import TokenManager
from aiocoap.transports.udp6 import MessageInterfaceUDP6
from aiocoap.util import hostportjoin, hostportsplit
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from bridges.coap import dtls12
from bridges.coap.datagrams import Association, DatagramServer
from bridges.coap.exchanges import Exchanges
from bridges.coap.messages import BoundedMessageManager, ForgetfulMessageManager
from bridges.coap.resources import Tree
from bridges.coap.sessions import Session, Sessions
from bridges.coap.tcp import TcpServer, Welcome
from bridges.coap.visitors import Visitors
from bridges.tls import server_context

log = structlog.get_logger()
LOGGER = "fleetcert.coap"
EXTENSION = "fleetcert_dtls13"
TCP, DTLS, PLAIN = "coaps+tcp", "coaps", "coap"
ABSENT = "run `make setup` with Rust 1.89 or newer; coaps over DTLS 1.3 is not offered"


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the bridge listens, as whom, and how much it holds. Files are PEM, spans seconds.

    `dtls` names the versions that coaps over UDP may speak; `plain_port` 0 means no plain CoAP,
    which listens on `plain_host`, else on `host` (multicast needs "::");
    `record_seconds` is how long a request waits for Kafka before its device is told 5.03;
    `multicast` are the network interfaces on which discovery is asked by multicast.

    `renewal_port` None means no renewal door; it takes certificates up to `grace_days` after their
    end. `ca_certificates` are handed out by `/est/crts`. Whom a CA of `provisioning_ca` names is
    let in for enrolment.
    """

    certificate: Path
    key: Path
    device_ca: Path
    revocation_list: Path | None = None
    host: str = "127.0.0.1"
    port: int = 5684
    plain_port: int = 0
    plain_host: str = ""
    multicast: tuple[str, ...] = ()
    dtls: frozenset[str] = frozenset({"1.3"})
    block_size: int = 1024
    idle_seconds: float = 3_600.0
    sessions_max: int = 10_000
    requests_per_second: float = 50.0
    record_seconds: float = 5.0
    shared: bool = False
    renewal_port: int | None = None
    grace_days: float = 30.0
    ca_certificates: tuple[Path, ...] = ()
    provisioning_ca: Path | None = None

    @property
    def provisioning_cas(self) -> tuple[Path, ...]:
        """What the transports trust beside the device CA."""
        return (self.provisioning_ca,) if self.provisioning_ca else ()

    @property
    def exponent(self) -> int:
        """The block size as the options write it: 2 to the power of this and 4."""
        return self.block_size.bit_length() - 5


@dataclass(slots=True)
class Listeners:
    """The open doors; `offered` names each with what it speaks."""

    settings: Settings
    context: Any
    sessions: Sessions
    leave: Callable[[Session, int], None]
    count: Callable[[str], None]
    offered: dict[str, str] = field(default_factory=dict)
    visitors: Visitors | None = None
    tcp: TcpServer | None = None
    renewal: TcpServer | None = None
    dtls: DatagramServer | None = None
    ready: bool = False

    async def open(self, tree: Tree) -> None:
        """Listen on everything that the settings allow and this machine can."""
        tree.bases = self._bases
        await self._open_tcp()
        self._open_dtls()
        if self.settings.plain_port:
            await self._open_plain()
        if self.visitors is not None:
            await self._open_renewal(self.visitors)
        self.ready = True
        where = f"{self.settings.host}:{self.settings.port}"
        log.info(
            "coap.offered", where=where, **{k.replace("+", "_"): v for k, v in self.offered.items()}
        )

    def open_sessions(self) -> Iterable[tuple[str, int]]:
        """Return how many sessions there are by transport."""
        yield TCP, len(self.tcp.connections) if self.tcp else 0
        yield DTLS, len(self.dtls.peers) if self.dtls else 0

    async def _open_renewal(self, visitors: Visitors) -> None:
        settings = self.settings
        self.renewal = await self._listen_tcp(
            visitors.admit, lambda _: None, settings.renewal_port or 0, ()
        )
        self.offered["renewal"] = f"EST on port {self.renewal.port}"

    async def _open_tcp(self) -> None:
        self.tcp = await self._listen_tcp(
            self.sessions.admit,
            self.sessions.heard,
            self.settings.port,
            self.settings.provisioning_cas,
        )
        self.offered[TCP] = "TLS 1.3"

    async def _listen_tcp(
        self,
        welcome: Welcome,
        heard: Callable[[Session], None],
        port: int,
        further: tuple[Path, ...],
    ) -> TcpServer:
        settings, exchanges = self.settings, Exchanges(self.context)
        context = server_context(
            settings.certificate, settings.key, settings.device_ca, *further, protocols=("coap",)
        )
        server = TcpServer(exchanges, context, welcome, heard, self.leave, self.count)
        await server.listen(settings.host, port, shared=settings.shared)
        exchanges.token_interface = server
        self.context.request_interfaces.append(exchanges)
        return server

    def _open_dtls(self) -> None:
        settings = self.settings
        make = _make_1_3(settings) if "1.3" in settings.dtls else None
        context = (
            dtls12.Context(
                settings.certificate,
                settings.key,
                settings.device_ca,
                *settings.provisioning_cas,
            )
            if "1.2" in settings.dtls
            else None
        )
        spoken = [name for name, on in (("DTLS 1.3", make), ("DTLS 1.2", context)) if on]
        if not spoken:
            return
        exchanges = Exchanges(self.context)
        manager = BoundedMessageManager(exchanges)
        self.dtls = DatagramServer(
            manager,
            make_1_3=make,
            context_1_2=context,
            welcome=self.sessions.admit,
            heard=self.sessions.heard,
            leave=self.leave,
            count=self.count,
        )
        assert self.tcp is not None
        self.dtls.listen(settings.host, self.tcp.port, shared=settings.shared)
        manager.message_interface, exchanges.token_interface = self.dtls, manager
        self.context.request_interfaces.append(exchanges)
        self.offered[DTLS] = ", ".join(spoken)

    async def _open_plain(self) -> None:
        settings, tokens = self.settings, TokenManager(self.context)
        manager = ForgetfulMessageManager(tokens)
        manager.message_interface = await MessageInterfaceUDP6.create_server_transport_endpoint(
            manager,
            log=self.context.log,
            loop=self.context.loop,
            bind=(settings.plain_host or settings.host, settings.plain_port),
            multicast=list(settings.multicast),
        )
        tokens.token_interface = manager
        self.context.request_interfaces.append(tokens)
        self.offered[PLAIN] = "discovery alone"

    def _bases(self, remote: Any) -> list[str]:
        """Return what the secured addresses begin with, for who asked without security."""
        host = _reached_at(remote)
        port = self.tcp.port if self.tcp else self.settings.port
        where = hostportjoin(host, None if port == 5684 else port)
        return [f"{scheme}://{where}" for scheme in (TCP, DTLS) if scheme in self.offered]


class TreeContext(Context):  # type: ignore[misc] # aiocoap is untyped
    """aiocoap's context for one tree, without the pipe between two pipes."""

    def __init__(self, tree: Tree) -> None:
        super().__init__(serversite=tree, loggername=LOGGER)

    def render_to_pipe(self, pipe: Any) -> None:
        """Let the tree answer."""
        self.serversite.answer(pipe)


def _reached_at(remote: Any) -> str:
    """Return our address as this peer reaches us: a group's, where it asked one, leads nowhere."""
    if not remote.is_multicast_locally:
        host, _ = hostportsplit(remote.hostinfo_local)
        return str(host)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.connect(remote.sockaddr)
        return str(probe.getsockname()[0]).removeprefix("::ffff:")


def _make_1_3(settings: Settings) -> Callable[[], Association] | None:
    """Return what begins a DTLS 1.3 association, None where the extension is not built."""
    if importlib.util.find_spec(EXTENSION) is None:
        log.warning("coap.dtls13-absent", advice=ABSENT)
        return None
    import fleetcert_dtls13

    leaf = x509.load_pem_x509_certificates(settings.certificate.read_bytes())[0]
    key = serialization.load_pem_private_key(settings.key.read_bytes(), None)
    context = fleetcert_dtls13.Context(
        leaf.public_bytes(serialization.Encoding.DER),
        key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        server=True,
    )
    return lambda: fleetcert_dtls13.Association(context)
