"""Reads the stamp that the broker's plugin puts on every message of a device (see stamp.h).

A message without a stamp that verifies says nothing about who sent it: a will, a message of a
broker without the plugin, a forgery.
"""

import functools
import hashlib
import hmac
import re
from dataclasses import dataclass

import msgspec

from bridges import reported

NAME = "fleetcert-stamp"
"""The user property; the plugin removes whatever else begins with `fleetcert-`."""

BROKER = "@broker"
"""The client of what the broker says for itself: `started`."""

UNKNOWN = "@unknown"
"""The client of a refused connection whose certificate gave no name to believe."""

SENDERS_MAX = 100_000
"""Sessions remembered, so that only the first message of each is taken apart."""

_SENDER = re.compile(r"([0-9a-f]{64}) (\S+) ([0-9a-f]{32}) (\S+)")
_COUNTER = re.compile(r"0|[1-9][0-9]{0,19}")
_BLOCK = 64
"""Bytes in a block of SHA-256 (RFC 2104)."""


@dataclass(frozen=True, eq=False)
class Sender:
    """What the broker saw of a session.

    `certificate` is the SHA-256 of the DER client certificate (32 bytes, zeros when there was
    none); `address` is empty for what the broker says itself.
    """

    certificate: bytes
    client: str
    session: str
    address: str

    @functools.cached_property
    def key(self) -> bytes:
        """The Kafka key of its records."""
        return self.client.encode()

    @functools.cached_property
    def beginning(self) -> bytes:
        """What its reports begin with."""
        return reported.beginning(self.client, self.certificate, self.address, self.session)


class Stamp(msgspec.Struct, frozen=True, gc=False):
    """Who sent a message; `counter` numbers the session's messages from 1, `opened` is 0."""

    sender: Sender
    counter: int


class Verifier:
    """Verifies stamps under one secret."""

    def __init__(self, secret: bytes) -> None:
        key = hashlib.sha256(secret).digest() if len(secret) > _BLOCK else secret
        key = key.ljust(_BLOCK, b"\0")
        # The two halves of an HMAC, begun once: a third of the time of hmac.new.
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in key))
        self._senders: dict[str, Sender] = {}

    def verify(self, properties: list[tuple[str, str]], topic: str, payload: bytes) -> Stamp | None:
        """Give the stamp among MQTT 5 user properties, or None when there is no valid one.

        `topic` is as the device wrote it: without the bucket.
        """
        if len(properties) != 1:  # the device's own are there too, or none is
            properties = [one for one in properties if one[0] == NAME]
            if len(properties) != 1:
                return None
        name, text = properties[0]
        said = text.rsplit(" ", 2)
        if name != NAME or len(said) != 3:
            return None
        named, counter, mac = said
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(f"{named} {counter} {len(payload)}\n{topic}\n".encode() + payload)
        outer.update(inner.digest())
        if not (mac.isascii() and hmac.compare_digest(outer.hexdigest(), mac)):
            return None
        sender = self._senders.get(named) or self._learn(named)
        if sender is None or not _COUNTER.fullmatch(counter):
            return None
        return Stamp(sender, int(counter))

    def _learn(self, named: str) -> Sender | None:
        parts = _SENDER.fullmatch(named)
        if parts is None:
            return None
        certificate, client, session, address = parts.groups()
        if len(self._senders) >= SENDERS_MAX:
            self._senders.clear()
        sender = Sender(
            bytes.fromhex(certificate), client, session, "" if address == "-" else address
        )
        self._senders[named] = sender
        return sender


def own_topic(topic: str) -> str:
    """Give a topic as the device wrote it: without the bucket that the plugin put in front."""
    return topic.split("/", 2)[-1] if topic.startswith("bucket/") else topic


def verify(
    properties: list[tuple[str, str]], topic: str, payload: bytes, secret: bytes
) -> Stamp | None:
    """Verify one message as it came; for those who do not read many."""
    return Verifier(secret).verify(properties, own_topic(topic), payload)
