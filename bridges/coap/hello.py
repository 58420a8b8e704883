"""Reads a ClientHello before anything is decided: which version, and is it a new beginning.

Rules of this file: pure; bytes that are no whole, unfragmented hello give less, never an
exception. RFC 6347 section 4.2, RFC 9147 sections 5.2 and 5.3.
"""

from dataclasses import dataclass

HANDSHAKE, CLIENT_HELLO = 22, 1
RECORD_BYTES, HEADER_BYTES, RANDOM_BYTES = 13, 12, 32
SUPPORTED_VERSIONS, EXTENDED_MASTER_SECRET = 43, 23
DTLS_1_3 = b"\xfe\xfc"


@dataclass(frozen=True, slots=True)
class Hello:
    """A ClientHello: `sequence` is 0 in the first of a handshake.

    `random` is empty and `extensions` too where only a part of it is in this datagram.
    """

    sequence: int
    random: bytes
    extensions: dict[int, bytes]

    @property
    def offers_1_3(self) -> bool:
        """Tell whether the client can do DTLS 1.3; one that comes in parts surely can."""
        if not self.random:
            return True
        versions = self.extensions.get(SUPPORTED_VERSIONS, b"")[1:]
        return DTLS_1_3 in {versions[at : at + 2] for at in range(0, len(versions), 2)}

    @property
    def extended_master_secret(self) -> bool:
        """Tell whether the client offers RFC 7627."""
        return EXTENDED_MASTER_SECRET in self.extensions


def read(datagram: bytes) -> Hello | None:
    """Return the ClientHello that a datagram begins with, None where it does not."""
    if len(datagram) < RECORD_BYTES + HEADER_BYTES or datagram[0] != HANDSHAKE:
        return None
    if datagram[3:5] != b"\0\0" or datagram[RECORD_BYTES] != CLIENT_HELLO:
        return None
    header = datagram[RECORD_BYTES : RECORD_BYTES + HEADER_BYTES]
    length = int.from_bytes(header[1:4], "big")
    sequence = int.from_bytes(header[4:6], "big")
    body = datagram[RECORD_BYTES + HEADER_BYTES :]
    if header[6:9] != b"\0\0\0" or header[9:12] != header[1:4] or len(body) < length:
        return Hello(sequence, b"", {})
    return Hello(sequence, body[2 : 2 + RANDOM_BYTES], _extensions(body[:length]))


def _extensions(body: bytes) -> dict[int, bytes]:
    """Return the extensions behind version, random, session, cookie, suites and compression."""
    at = 2 + RANDOM_BYTES
    for size_bytes in (1, 1, 2, 1):
        at += size_bytes + int.from_bytes(body[at : at + size_bytes], "big")
    end = at + 2 + int.from_bytes(body[at : at + 2], "big")
    at += 2
    found: dict[int, bytes] = {}
    while at + 4 <= min(end, len(body)):
        kind, size = body[at : at + 2], int.from_bytes(body[at + 2 : at + 4], "big")
        found[int.from_bytes(kind, "big")] = body[at + 4 : at + 4 + size]
        at += 4 + size
    return found
