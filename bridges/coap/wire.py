"""CoAP messages from bytes: datagrams (RFC 7252 section 3) and streams (RFC 8323 section 3.2).

A device asks for the same things again and again, in the same bytes: the options of the last
requests are remembered by their bytes, so that most are read once and never again. Rules of this
file: what is remembered belongs to many requests and is never written to; it is bounded in number
and in length; bytes that are no message raise UnparsableMessage and nothing else.
"""

import functools
from dataclasses import dataclass
from typing import Any

from aiocoap.error import UnparsableMessage
from aiocoap.numbers import TransportTuning, codes
from aiocoap.numbers.types import Type
from aiocoap.options import Options

REMEMBERED_MAX = 4_096
REMEMBERED_BYTES_MAX = 256
"""Options that are longer are read anew each time."""
TOKEN_BYTES_MAX = 8
PAYLOAD_MARKER = 0xFF
EXTENDED = {13: (1, 13), 14: (2, 269), 15: (4, 65_805)}
"""How many bytes further a length goes on, and what is added to them (RFC 8323 section 3.2)."""
VIEWS = (
    "accept",
    "block1",
    "block2",
    "content_format",
    "no_response",
    "observe",
    "size1",
    "uri_path",
    "uri_query",
)
"""What requests are asked for again and again."""
TUNING = TransportTuning()
_CODES = tuple(codes.Code(number) for number in range(256))
_TYPES = tuple(Type(number) for number in range(4))


class Asked(Options):  # type: ignore[misc] # aiocoap is untyped
    """The options of a request: aiocoap's, looked through once, and not to be changed.

    `critical` are the numbers of those that must be understood (RFC 7252 section 5.4.1).
    """

    __slots__ = ("critical", *VIEWS)
    critical: tuple[int, ...]

    def __init__(self, written: bytes) -> None:
        keep = functools.partial(object.__setattr__, self)
        keep("_options", {})
        self.decode(written)
        keep("critical", _critical(self))
        for name in VIEWS:
            keep(name, getattr(super(), name))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name}: these options belong to other requests, too")


@dataclass(slots=True, eq=False)
class Heard:
    """A message that came, as aiocoap's layers ask for it; without type and id from a stream."""

    code: codes.Code
    token: bytes
    opt: Asked
    payload: bytes
    remote: Any
    mtype: Type | None = None
    mid: int | None = None
    transport_tuning: TransportTuning = TUNING


def critical(options: Options) -> tuple[int, ...]:
    """Return the numbers of the options that must be understood."""
    return options.critical if isinstance(options, Asked) else _critical(options)


def datagram(data: bytes, remote: Any) -> Heard:
    """Return the message that a datagram is. Raises UnparsableMessage."""
    if len(data) < 4 or data[0] >> 6 != 1:
        raise UnparsableMessage("no message of version 1")
    token, options, payload = _parts(data, 4, data[0] & 0xF, len(data))
    kind, mid = _TYPES[data[0] >> 4 & 3], int.from_bytes(data[2:4], "big")
    return Heard(_CODES[data[1]], token, options, payload, remote, kind, mid)


def frame(data: bytes, at: int) -> tuple[int, int] | None:
    """Return where the token of the message at `at` begins and where the message ends.

    None where there is not enough to tell.
    """
    if at >= len(data):
        return None
    length, token = data[at] >> 4, at + 2
    if length in EXTENDED:
        size, more = EXTENDED[length]
        if len(data) < at + 1 + size:
            return None
        length = int.from_bytes(data[at + 1 : at + 1 + size], "big") + more
        token += size
    return token, token + (data[at] & 0xF) + length


def framed(data: bytes, at: int, begin: int, end: int, remote: Any) -> Heard:
    """Return the message at `at` of a stream, as `frame` found it. Raises UnparsableMessage."""
    token, options, payload = _parts(data, begin, data[at] & 0xF, end)
    return Heard(_CODES[data[begin - 1]], token, options, payload, remote)


def _critical(options: Options) -> tuple[int, ...]:
    return tuple(int(one.number) for one in options.option_list() if one.number & 1)


def _parts(data: bytes, at: int, token_bytes: int, end: int) -> tuple[bytes, Asked, bytes]:
    if token_bytes > TOKEN_BYTES_MAX or at + token_bytes > end:
        raise UnparsableMessage("the token is too long")
    begin = at + token_bytes
    marker = _marker(data, begin, end)
    written = data[begin:marker]
    read = _remembered if len(written) <= REMEMBERED_BYTES_MAX else _read
    return data[at:begin], read(written), data[marker + 1 : end]


def _marker(data: bytes, at: int, end: int) -> int:
    """Return where the options from `at` end: at the marker of a payload, or with the message.

    Whether they are well-formed is for their reading to tell.
    """
    while at < end and data[at] != PAYLOAD_MARKER:
        delta, length = data[at] >> 4, data[at] & 0xF
        at += 1
        if delta in EXTENDED:
            at += EXTENDED[delta][0]
        if length in EXTENDED:
            size, more = EXTENDED[length]
            length = int.from_bytes(data[at : at + size], "big") + more
            at += size
        at += length
    return min(at, end)


def _read(written: bytes) -> Asked:
    try:
        return Asked(written)
    except Exception as error:  # aiocoap raises many kinds on garbage; all mean the same
        raise UnparsableMessage(f"no options: {error}") from error


_remembered = functools.lru_cache(maxsize=REMEMBERED_MAX)(_read)
