"""Reads the stamp that the broker's plugin puts on every message of a device (see stamp.h).

A message without a stamp that verifies says nothing about who sent it: a will, a message of a
broker without the plugin, a forgery.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass

PREFIX = "fleetcert-"
SIGNED = ("certificate", "client", "session", "counter", "address", "topic")
"""The stamped values, in the order in which the HMAC covers them."""

BROKER = "@broker"
"""The client of what the broker says for itself: `started`."""

UNKNOWN = "@unknown"
"""The client of a refused connection whose certificate gave no name to believe."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SESSION = re.compile(r"[0-9a-f]{32}")
_COUNTER = re.compile(r"0|[1-9][0-9]{0,19}")


@dataclass(frozen=True, slots=True)
class Stamp:
    """What the broker saw of the session that sent a message.

    `certificate` is the SHA-256 of the DER client certificate (32 bytes, zeros when there was
    none); `counter` numbers the session's messages from 1, `opened` is 0; `topic` is as the
    device wrote it, without the bucket.
    """

    certificate: bytes
    client: str
    session: str
    counter: int
    address: str
    topic: str


def verify(properties: list[tuple[str, str]], payload: bytes, secret: bytes) -> Stamp | None:
    """Give the stamp among MQTT 5 user properties, or None when there is no valid one.

    Each of the seven properties must be there exactly once.
    """
    found: dict[str, str] = {}
    for name, value in properties:
        if not name.startswith(PREFIX):
            continue
        short = name.removeprefix(PREFIX)
        if short in found:
            return None
        found[short] = value
    if set(found) != {*SIGNED, "mac"}:
        return None
    if not hmac.compare_digest(_mac(found, payload, secret).encode(), found["mac"].encode()):
        return None
    if not (
        _SHA256.fullmatch(found["certificate"])
        and _SESSION.fullmatch(found["session"])
        and _COUNTER.fullmatch(found["counter"])
    ):
        return None
    return Stamp(
        certificate=bytes.fromhex(found["certificate"]),
        client=found["client"],
        session=found["session"],
        counter=int(found["counter"]),
        address=found["address"],
        topic=found["topic"],
    )


def _mac(values: dict[str, str], payload: bytes, secret: bytes) -> str:
    """Compute the HMAC over the signed values and the payload, in hexadecimal."""
    signed = [values[name] for name in SIGNED] + [hashlib.sha256(payload).hexdigest()]
    return hmac.new(secret, "\n".join(signed).encode(), hashlib.sha256).hexdigest()
