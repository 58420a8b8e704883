"""The bridge's sessions with the broker, and where that broker is."""

import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path

from protocols.mqtt import Client

NEVER_EXPIRES = 0xFFFFFFFF
RECEIVE_MAX = 2_000
"""Messages of a bucket that the broker sends before one is acknowledged."""
KEEP_ALIVE_SECONDS = 10
"""A ping goes out twice in this time: a broker that stands still is noticed within it."""
READ_BYTES = 262_144
"""What a bucket reads at once."""
GATHER_SECONDS = 0.01
"""What messages that come thick may wait for each other: each wake-up costs as much as one."""

Pem = Path | str
"""A file, which is read anew for each session, or the PEM text itself."""


@dataclass(frozen=True, slots=True)
class Door:
    """Where the broker's service listener is, and who we are there."""

    host: str
    port: int
    ca: tuple[Pem, ...]
    cert: Pem
    key: Pem
    keep_alive_seconds: int = KEEP_ALIVE_SECONDS

    def context(self) -> ssl.SSLContext:
        """Return the TLS context: 1.3 at least, the broker verified, our certificate shown."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies the name and the chain
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        for one in self.ca:
            context.load_verify_locations(cadata=_text(one))
        with tempfile.TemporaryDirectory() as folder:  # OpenSSL takes a chain and a key by path
            chain, key = Path(folder, "chain.pem"), Path(folder, "key.pem")
            chain.write_text(_text(self.cert))
            key.touch(0o600)
            key.write_text(_text(self.key))
            context.load_cert_chain(chain, key)
        return context


def _text(pem: Pem) -> str:
    return pem.read_text() if isinstance(pem, Path) else pem


def bucket_session(door: Door, bucket: int) -> Client:
    """Return the persistent session of one bucket; the broker keeps its messages for us."""
    return Client(
        hostname=door.host,
        port=door.port,
        ssl_context=door.context(),
        identifier=f"@bucket-{bucket}",
        clean_start=False,
        session_expiry_interval=NEVER_EXPIRES,
        receive_max=RECEIVE_MAX,
        read_bytes=READ_BYTES,
        gather_seconds=GATHER_SECONDS,
        keep_alive=door.keep_alive_seconds,
    )


def command_session(door: Door, bridge_id: str) -> Client:
    """Return the session that commands and acknowledgements go down."""
    return Client(
        hostname=door.host,
        port=door.port,
        ssl_context=door.context(),
        identifier=f"@commands-{bridge_id}",
        clean_start=True,
        keep_alive=door.keep_alive_seconds,
    )
