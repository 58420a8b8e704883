"""Clients that nobody here wrote, as processes: a line in, a line out; a bridge for them."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pki import revocation
from tests.coap.rig import NOW, Authorities, Identity, Kafka, Running, running

SECONDS = 60.0
WHOLE = os.environ.get("FLEETCERT_INTEROP") == "1"
"""Whether every client is asked everything, as `make interop` does."""


@dataclass(frozen=True)
class Client:
    """A foreign client: its name, its command, and what stands before the address."""

    name: str
    command: Callable[[], list[str]]
    scheme: str = ""

    def __str__(self) -> str:
        """Name it in a test's id."""
        return self.name


class Served(Protocol):
    """A door of ours, in this process."""

    authorities: Authorities

    @property
    def port(self) -> int:
        """Where it listens."""


def revoked(authorities: Authorities, identity: Identity, listed: Path) -> Path:
    """Write a revocation list with this certificate on it; return its path."""
    moment = int(NOW.timestamp() * 1000)
    entry = revocation.Revocation(identity.serial, identity.fingerprint, 1, 2**41, "", 1)
    ca = authorities.opened.device
    listed.write_bytes(revocation.build(ca, [entry], 1, moment, moment + 3_600_000))
    return listed


@contextlib.asynccontextmanager
async def bridge(
    authorities: Authorities, kafka: Kafka | None = None
) -> AsyncIterator[tuple[Running, dict[str, Identity]]]:
    """Run a bridge that speaks everything; give one identity of each kind."""
    kinds = {
        "good": authorities.device("good-1"),
        "stranger": authorities.stranger("good-1"),
        "expired": authorities.expired("expired-1"),
        "revoked": authorities.device("revoked-1"),
    }
    listed = revoked(authorities, kinds["revoked"], authorities.directory / "device.crl")
    settings = {"dtls": frozenset({"1.3", "1.2"}), "revocation_list": listed}
    async with running(authorities, kafka, **settings) as found:
        yield found, kinds


class Peer:
    """The client's process: a line in, a line out."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def say(self, *words: object) -> None:
        """Ask for something."""
        assert self._process.stdin is not None
        self._process.stdin.write((" ".join(map(str, words)) + "\n").encode())

    async def hears(self) -> str:
        """Return the next answer."""
        assert self._process.stdout is not None
        async with asyncio.timeout(SECONDS):
            return (await self._process.stdout.readline()).decode(errors="replace").strip()

    async def ask(self, *words: object) -> str:
        """Ask and return the answer."""
        self.say(*words)
        return await self.hears()


@contextlib.asynccontextmanager
async def peer(
    command: Sequence[str], address: str, authorities: Authorities, identity: Identity | None
) -> AsyncIterator[Peer]:
    """Run a client by its command against an address, under an identity or under none."""
    shown = "none"
    if identity is not None:
        both = identity.key_file.with_name("both.pem")
        both.write_bytes(identity.key_file.read_bytes() + identity.certificate_file.read_bytes())
        shown = str(both)
    process = await asyncio.create_subprocess_exec(
        *(*command, address, shown),
        str(authorities.service_ca),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Peer(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def asking(client: Client, door: Served, identity: Identity | None) -> AsyncIterator[Peer]:
    """Run a foreign client against a door."""
    command = await asyncio.to_thread(client.command)
    address = f"{client.scheme}localhost:{door.port}"
    async with peer(command, address, door.authorities, identity) as one:
        yield one
