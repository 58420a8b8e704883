"""Messages from bytes: what aiocoap reads is what we read, and garbage is only ever unparsable."""

import pytest
from aiocoap import Message
from aiocoap.error import UnparsableMessage
from aiocoap.numbers import CON, codes
from aiocoap.transports import tcp as stream
from hypothesis import example, given
from hypothesis import strategies as st

from bridges.coap import wire

OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "uri_path": st.lists(st.text(max_size=300), max_size=4),
        "uri_query": st.lists(st.text(max_size=20), max_size=3),
        "content_format": st.integers(0, 65_535),
        "accept": st.integers(0, 65_535),
        "observe": st.integers(0, 2**24 - 1),
        "block1": st.tuples(st.integers(0, 2**20 - 1), st.booleans(), st.integers(0, 7)),
        "block2": st.tuples(st.integers(0, 2**20 - 1), st.booleans(), st.integers(0, 7)),
        "size1": st.integers(0, 2**32 - 1),
        "no_response": st.integers(0, 127),
        "if_none_match": st.booleans(),
        "proxy_uri": st.text(max_size=30),
    },
)
TOKENS = st.binary(max_size=8)
PAYLOADS = st.binary(max_size=1_200)


def message(token: bytes, options: dict[str, object], payload: bytes) -> Message:
    """Return a request."""
    made = Message(code=codes.POST, payload=payload, _token=token, _mid=7, _mtype=CON)
    for name, value in options.items():
        setattr(made.opt, name, value)
    return made


def same(ours: wire.Heard, theirs: Message) -> None:
    """See that both are the same message, down to every view of its options."""
    assert (ours.code, ours.token, ours.payload) == (theirs.code, theirs.token, theirs.payload)
    assert ours.opt == theirs.opt
    assert wire.critical(ours.opt) == wire.critical(theirs.opt)
    for name in wire.VIEWS:
        assert getattr(ours.opt, name) == getattr(theirs.opt, name)


@given(TOKENS, OPTIONS, PAYLOADS)
def test_a_datagram_is_read_as_aiocoap_reads_it(
    token: bytes, options: dict[str, object], payload: bytes
) -> None:
    """The second time, from memory, too."""
    data = message(token, options, payload).encode()
    for _ in range(2):
        found = wire.datagram(data, "peer")
        same(found, Message.decode(data))
        assert (found.mid, found.mtype, found.remote) == (7, CON, "peer")


@given(TOKENS, OPTIONS, PAYLOADS, st.binary(max_size=20))
def test_a_message_of_a_stream_is_found_between_others(
    token: bytes, options: dict[str, object], payload: bytes, before: bytes
) -> None:
    """From its first byte to its last, and not before all of it is there."""
    data = stream._serialize(message(token, options, payload))
    spool, at = before + data + data, len(before)
    found = wire.frame(spool, at)
    assert found is not None
    begin, end = found
    assert end == at + len(data)
    same(wire.framed(spool, at, begin, end, None), stream._decode_message(data))
    assert all((wire.frame(data[:cut], 0) or (0, len(data)))[1] == len(data) for cut in range(9))


@given(st.binary(max_size=80))
@example(b"\x40\x02\x00\x01\xf0")
@example(b"\x40\x02\x00\x01\x0f")
@example(b"\x40\x02\x00\x01\xd1")
@example(b"\x40\x02\x00\x01\x0e\x01")
@example(b"\x40\x02\x00\x01\xb1\xff")
@example(b"\x49\x02\x00\x01123456789")
def test_garbage_is_unparsable_and_nothing_else(data: bytes) -> None:
    """Where aiocoap raises, we raise; what both read is the same."""
    head = b"\x40" + data[1:]
    for one in (data, head):
        try:
            found = wire.datagram(one, None)
        except UnparsableMessage:
            continue
        same(found, Message.decode(one))


def test_what_is_remembered_is_bounded_and_never_written_to() -> None:
    """Many requests share the options of one: whoever changed them would change all."""
    data = message(b"1", {"uri_path": ["events", "heat"]}, b"{}").encode()
    first, second = wire.datagram(data, 1), wire.datagram(data, 2)
    assert first.opt is second.opt
    with pytest.raises(AttributeError):
        first.opt.uri_path = ("commands",)
    long = message(b"1", {"uri_path": ["x" * wire.REMEMBERED_BYTES_MAX]}, b"").encode()
    assert wire.datagram(long, 1).opt is not wire.datagram(long, 2).opt
    assert wire._remembered.cache_info().maxsize == wire.REMEMBERED_MAX
