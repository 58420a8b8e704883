"""Clients that nobody here wrote, as processes: a line in, a line out; a bridge for them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from pki import revocation
from tests.coap.rig import NOW, Authorities, Identity, Kafka, Running, running

SECONDS = 60.0


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
    gone, moment = kinds["revoked"], int(NOW.timestamp() * 1000)
    entry = revocation.Revocation(gone.serial, gone.fingerprint, 1, 2**41, "", 1)
    listed = authorities.directory / "device.crl"
    listed.write_bytes(
        revocation.build(authorities.opened.device, [entry], 1, moment, moment + 3_600_000)
    )
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
