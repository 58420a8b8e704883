"""The bridge's sessions with the broker: the only module of the bridge that knows aiomqtt."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import aiomqtt

NEVER_EXPIRES = 0xFFFFFFFF
RECEIVE_MAX = 2_000
AT_LEAST_ONCE = aiomqtt.QoS.AT_LEAST_ONCE
AT_MOST_ONCE = aiomqtt.QoS.AT_MOST_ONCE
Lost = (aiomqtt.ConnectError, aiomqtt.NegativeAckError, aiomqtt.ProtocolError, OSError)
"""What ends a session; the caller opens it again."""


@dataclass(frozen=True, slots=True)
class Door:
    """Where the broker's service listener is, and who we are there."""

    host: str
    port: int
    ca: Path
    cert: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """Return the TLS context: 1.3 at least, the broker verified, our certificate shown."""
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(self.ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(self.cert, self.key)
        return context


def bucket_session(door: Door, bucket: int) -> aiomqtt.Client:
    """Return the persistent session of one bucket; the broker keeps its messages for us."""
    return aiomqtt.Client(
        hostname=door.host,
        port=door.port,
        ssl_context=door.context(),
        identifier=f"@bucket-{bucket}",
        clean_start=False,
        session_expiry_interval=NEVER_EXPIRES,
        receive_max=RECEIVE_MAX,
        keep_alive=30,
    )


def command_session(door: Door, bridge_id: str) -> aiomqtt.Client:
    """Return the session that commands and acknowledgements go down."""
    return aiomqtt.Client(
        hostname=door.host,
        port=door.port,
        ssl_context=door.context(),
        identifier=f"@commands-{bridge_id}",
        clean_start=True,
        keep_alive=30,
    )
