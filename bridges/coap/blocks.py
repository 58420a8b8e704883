"""Block-wise transfer (RFC 7959), both ways: bodies that fit no message, in bounded memory.

Rules of this file: a body up is assembled per session and path, block after block without a gap,
up to a limit of its own and one of the process; the oldest unfinished one gives way. A body down is
cut anew for each request: nothing is kept, and its ETag tells the client when it has changed.
"""

import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from aiocoap import Message
from aiocoap.numbers import codes

from bridges.inbound import PAYLOAD_BYTES_MAX

BODY_BYTES_MAX = PAYLOAD_BYTES_MAX
"""The longest body."""
ASSEMBLIES_MAX = 2
"""Unfinished bodies per session."""
TOTAL_BYTES_MAX = 64 << 20
"""All unfinished bodies of the process."""
ASSEMBLY_SECONDS = 93.0
"""MAX_TRANSMIT_WAIT of RFC 7252 section 4.8.2: a client that was silent for so long gave up."""
BERT = 7
"""The size exponent of RFC 8323 section 6: many blocks of 1,024 bytes in one message."""
ETAG_BYTES = 4


class Answer(Exception):
    """The transfer goes on, or is refused: this is what the client is told."""

    def __init__(self, message: Message) -> None:
        super().__init__(str(message.code))
        self.message = message


@dataclass(slots=True)
class _Assembly:
    body: bytearray
    at: float


class Assembler:
    """The unfinished bodies of all sessions."""

    def __init__(self, exponent: int = 6) -> None:
        """Prefer blocks of 2 to the power of `exponent` + 4 bytes."""
        self._exponent = exponent
        self._found: OrderedDict[tuple[object, Any], _Assembly] = OrderedDict()
        self.total = 0

    def __len__(self) -> int:
        """Return how many bodies are unfinished."""
        return len(self._found)

    def take(self, request: Message, session: object) -> bytes:
        """Return the body of a request once it is whole. Raises Answer before, and for refusals."""
        block = request.opt.block1
        if block is None:
            if len(request.payload) > BODY_BYTES_MAX:
                raise Answer(_too_large())
            return bytes(request.payload)
        key = (session, (request.code, request.opt.uri_path, request.opt.uri_query))
        self._expire()
        body = self._begin(key, request) if block.block_number == 0 else self._go_on(key, request)
        if len(body) > BODY_BYTES_MAX:
            self._drop(key)
            raise Answer(_too_large())
        if not block.more:
            self._drop(key)
            return bytes(body)
        raise Answer(self._continue(block))

    def forget(self, session: object) -> None:
        """Drop what a session left unfinished."""
        for key in [one for one in self._found if one[0] is session]:
            self._drop(key)

    def _begin(self, key: tuple[object, Any], request: Message) -> bytearray:
        if (request.opt.size1 or 0) > BODY_BYTES_MAX:
            raise Answer(_too_large())
        _check(request)
        self._drop(key)
        own = [one for one in self._found if one[0] is key[0]]
        if len(own) >= ASSEMBLIES_MAX:
            self._drop(own[0])
        assembly = _Assembly(bytearray(request.payload), time.monotonic())
        self._found[key] = assembly
        self.total += len(assembly.body)
        self._bound()
        return assembly.body

    def _go_on(self, key: tuple[object, Any], request: Message) -> bytearray:
        assembly = self._found.get(key)
        if assembly is None:
            raise Answer(Message(code=codes.REQUEST_ENTITY_INCOMPLETE))
        _check(request)
        start, have = request.opt.block1.start, len(assembly.body)
        repeated = start < have and start + len(request.payload) == have
        if repeated and assembly.body[start:] == request.payload:
            return assembly.body
        if start != have:
            self._drop(key)
            raise Answer(Message(code=codes.REQUEST_ENTITY_INCOMPLETE))
        assembly.body += request.payload
        assembly.at = time.monotonic()
        self._found.move_to_end(key)
        self.total += len(request.payload)
        self._bound()
        return assembly.body

    def _continue(self, block: Any) -> Message:
        size = (
            block.size_exponent
            if block.size_exponent == BERT
            else min(block.size_exponent, self._exponent)
        )
        return Message(code=codes.CONTINUE, block1=(block.block_number, True, size))

    def _expire(self) -> None:
        limit = time.monotonic() - ASSEMBLY_SECONDS
        while self._found and next(iter(self._found.values())).at < limit:
            self._drop(next(iter(self._found)))

    def _bound(self) -> None:
        while self.total > TOTAL_BYTES_MAX:
            self._drop(next(iter(self._found)))

    def _drop(self, key: tuple[object, Any]) -> None:
        gone = self._found.pop(key, None)
        if gone is not None:
            self.total -= len(gone.body)


def cut(response: Message, request: Message, exponent: int = 6) -> Message:
    """Return the response, or the block of it that the request asks for and its peer can take."""
    asked, remote = request.opt.block2, request.remote
    reliable = remote.maximum_block_size_exp == BERT
    whole = remote.maximum_payload_size if reliable else 1 << (exponent + 4)
    if asked is None and len(response.payload) <= whole:
        return response
    number, wanted = (asked.block_number, asked.size_exponent) if asked else (0, exponent)
    wanted = min(wanted, exponent)
    size = 1 << (wanted + 4)
    if number and number * size >= len(response.payload):
        return Message(code=codes.BAD_OPTION, payload=b"no such block")
    part = response.payload[number * size : (number + 1) * size]
    more = (number + 1) * size < len(response.payload)
    response.opt.etag = hashlib.sha256(response.payload).digest()[:ETAG_BYTES]
    if number == 0:
        response.opt.size2 = len(response.payload)
    response.opt.block2 = (number, more, wanted)
    response.payload = part
    return response


def _check(request: Message) -> None:
    """Refuse a block that is not as long as it says, where more follow (section 2.2)."""
    block = request.opt.block1
    if not block.is_valid_for_payload_size(len(request.payload)):
        raise Answer(Message(code=codes.BAD_REQUEST, payload=b"the block has another size"))


def refusal(code: codes.Code, sentence: str, max_age: int | None = None) -> Answer:
    """Return a refusal with its sentence (RFC 7252 section 5.5.2)."""
    message = Message(code=code, payload=sentence.encode(errors="replace")[:256])
    if max_age is not None:
        message.opt.max_age = max_age
    if code == codes.REQUEST_ENTITY_TOO_LARGE:
        message.opt.size1 = BODY_BYTES_MAX
    return Answer(message)


def _too_large() -> Message:
    return Message(code=codes.REQUEST_ENTITY_TOO_LARGE, size1=BODY_BYTES_MAX)
