"""An HTTPS door of EST in this process, curl and openssl as its clients, a machine that answers."""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from bridges.est.process import EstBridge
from bridges.est.renewals import now_ms
from bridges.est.server import Settings
from client import enrolment
from pki import authority, ledger
from pki.issuer import Policy
from schemas.commands import (
    AnswerInvited,
    Command,
    InstallCertificate,
    RefuseRenewal,
    SignInvited,
)
from schemas.envelope import URN_PREFIX
from schemas.events import SigningRequested
from schemas.reasons import Reason
from tests.coap.rig import NOW, Authorities, Count, Identity, Kafka
from tests.helpers.wait import printed, until_async

FAR = 2**41
SECONDS = 30.0


class Machine(Kafka):
    """Takes what the door records; answers each request by `answer`, as the real one would."""

    def __init__(self, authorities: Authorities) -> None:
        super().__init__()
        self.authorities = authorities
        self.refusing: Reason | None = None
        self.silent = False
        self.made: dict[bytes, bytes] = {}
        self.issuer = ledger.State()
        self._telling: set[asyncio.Task[None]] = set()

    def record(self, topic: str, key: bytes, value: bytes, done: Callable[[], None]) -> None:
        """Take a record, and answer a request soon."""
        super().record(topic, key, value, done)
        event = self.records[-1][2]
        if isinstance(event, SigningRequested | SignInvited) and not self.silent:
            task = asyncio.get_running_loop().create_task(self._tell(event))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _tell(self, event: SigningRequested | SignInvited) -> None:
        assert self.deliver is not None
        word = self.first(event) if isinstance(event, SignInvited) else self.answer(event)
        await self.deliver(word)  # type: ignore[arg-type] # the door's own takes both

    def first(self, event: SignInvited) -> AnswerInvited:
        """Return the issuer's answer: its own judgement, and its memory."""
        at, policy = now_ms(), Policy(door_anchors=(self.authorities.opened.service.certificate,))
        noted = ledger.note(self.issuer, event, self.issuer.next_offset, at)
        ca = self.authorities.opened.device
        told = ledger.told(event, ledger.answer(self.issuer, event, noted, at, ca, policy))
        assert told is not None
        return told

    def answer(self, event: SigningRequested) -> Command:
        """Return the machine's word: the same certificate for the same key."""
        if self.refusing is not None:
            return RefuseRenewal(
                "no", event.device_id, 0, 1, event.spki_sha256, self.refusing.value, ""
            )
        if event.spki_sha256 not in self.made:
            key: Any = x509.load_der_x509_csr(event.csr).public_key()
            self.made[event.spki_sha256] = self.authorities.certify(event.device_id, key)
        return InstallCertificate("i", event.device_id, 1, 1, FAR, self.made[event.spki_sha256])


@dataclass
class Door:
    """An HTTPS door that runs in this loop."""

    bridge: EstBridge
    machine: Machine
    count: Count
    authorities: Authorities
    folder: Path
    _made: int = field(default=0)

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.bridge.server.port

    async def invite(self, device_id: str, seconds: float = 60.0) -> str:
        """Invite a device as an operator would; return its token."""
        pem, key = authority.issue_service(
            self.authorities.opened, "alice", [], now=NOW, client=False, registrar=True
        )
        der = x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)
        by = enrolment.Registrar(der, serialization.load_pem_private_key(key, None))
        token, word = enrolment.invitation_of(device_id, "pump", ("mqtt",), seconds, by)
        await self.bridge.deliver(word)
        return token

    async def enrol(
        self, device_id: str, token: str, csr: str, *options: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Ask for a first certificate by curl."""
        return await self.curl("simpleenroll", None, csr, "-u", f"{device_id}:{token}", *options)

    def csr(self, device_id: str, *options: str) -> str:
        """Make a new key and a CSR by openssl; return the CSR as a client of RFC 7030 sends it."""
        self._made += 1
        name = self.folder / f"{device_id}-{self._made}"
        command = ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        command += ["-nodes", "-keyout", f"{name}.key", "-subj", f"/CN={device_id}"]
        command += ["-addext", f"subjectAltName=URI:{URN_PREFIX}{device_id}", "-outform", "DER"]
        made = subprocess.run([*command, *options], check=True, capture_output=True).stdout
        lines = ["openssl", "base64", "-e"]
        return subprocess.run(lines, check=True, capture_output=True, input=made).stdout.decode()

    async def curl(
        self,
        operation: str,
        identity: Identity | None = None,
        body: str | None = None,
        *options: str,
    ) -> tuple[int, dict[str, str], bytes]:
        """Ask by curl; return status, headers and body. Status 0: no answer."""
        ca_file = str(self.authorities.service_ca)
        command = ["curl", "-s", "--cacert", ca_file, "--max-time", "20", "-D", "/dev/stderr"]
        if identity is not None:
            command += ["--cert", str(identity.certificate_file), "--key", str(identity.key_file)]
        if body is not None:
            command += ["-H", "Content-Type: application/pkcs10", "--data-binary", "@-"]
        uri = f"https://localhost:{self.port}/.well-known/est/{operation}"
        made = await asyncio.create_subprocess_exec(
            *(*command, *options, uri),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        said, head = await printed(made, SECONDS, (body or "").encode())
        lines = [one for one in head.decode().splitlines() if ": " in one]
        headers = {name.lower(): value for name, value in (one.split(": ", 1) for one in lines)}
        statuses = [one.split()[1] for one in head.decode().splitlines() if one.startswith("HTTP/")]
        return int(statuses[-1]) if statuses else 0, headers, said


def opened(body: bytes) -> list[x509.Certificate]:
    """Return the certificates in a body, as openssl reads them."""
    der = subprocess.run(["openssl", "base64", "-d"], input=body, check=True, capture_output=True)
    command = ["openssl", "pkcs7", "-inform", "DER", "-print_certs"]
    pem = subprocess.run(command, input=der.stdout, check=True, capture_output=True).stdout
    return x509.load_pem_x509_certificates(pem)


@contextlib.asynccontextmanager
async def running(authorities: Authorities, folder: Path, **settings: Any) -> AsyncIterator[Door]:
    """Run a door on a free port for the time of the block."""
    machine, count = Machine(authorities), Count()
    here = authorities.directory
    wanted = Settings(
        here / "bridge.pem",
        here / "bridge.key",
        authorities.device_ca,
        (authorities.service_ca, here / "pki" / "device-ca" / "bundle.pem"),
        port=0,
        **settings,
    )
    bridge = EstBridge(wanted, machine, count)  # type: ignore[arg-type] # both stand in
    machine.deliver = bridge.deliver
    bridge.caught_up.set()
    task = asyncio.create_task(bridge.keep_down())
    try:
        await until_async(lambda: task.done() or bridge.server.port, describe="the door is open")
        if task.done():
            task.result()
        yield Door(bridge, machine, count, authorities, folder)
    finally:
        await bridge.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
