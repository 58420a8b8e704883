"""What travels with an event: who said it, over which session, and which number they gave it.

Rules of this file: evidence comes from the session, never from the payload. Instants are
milliseconds since 1970-01-01T00:00:00Z (UTC); hashes are raw bytes.
"""

import re
from dataclasses import dataclass

DEVICE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""The form of a device id; the CN of its certificates and the tail of its SAN URI."""

BROADCAST_KEY = b"@broadcast"
"""The Kafka key of records meant for a whole partition. No device id can begin with `@`."""

RENEWAL = "est"
"""The protocol of a door that renews certificates and holds no sessions: no device lives there."""

URN_PREFIX = "urn:fleetcert:device:"
"""The SAN URI of a device certificate is this prefix and the device id."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the door saw of a session.

    `certificate_sha256` is the SHA-256 of the DER client certificate (32 bytes), `session`
    names one connection, `counter` numbers its messages from 1, `received_at` is the bridge's
    clock. `peer_address` is personal data: it is kept in the history and never logged.
    """

    certificate_sha256: bytes
    peer_address: str
    session: str
    counter: int
    protocol: str
    received_at: int


@dataclass(frozen=True, slots=True)
class Numbering:
    """The number a device gave its own event: a persisted boot counter and a sequence from 1."""

    boot: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Position:
    """Where a record stands in Kafka."""

    topic: str
    partition: int
    offset: int


def is_device_id(text: str) -> bool:
    """Tell whether `text` can name a device."""
    return DEVICE_ID.fullmatch(text) is not None


HOPS_MAX = 8
"""How often machines may answer each other before one of them stops."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a machine wrote a record: the record it answers, which output of it, and how many hops.

    Outputs of one source partition reach a log in the order of (offset, index): a receiver that
    keeps the highest one recognises every repeat.
    """

    position: Position
    index: int
    hops: int


def is_fleet_id(text: str) -> bool:
    """Tell whether `text` can name a fleet or a campaign: the form of a device id."""
    return DEVICE_ID.fullmatch(text) is not None
