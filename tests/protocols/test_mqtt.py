"""What is written by hand because it is written for each message, and how messages are read."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator

import pytest
from aiomqtt import ConnectError
from hypothesis import given
from hypothesis import strategies as st
from mqtt5 import ConnAckPacket, ConnAckReasonCode, PubAckPacket, PublishPacket

from protocols.mqtt import PUBACK, PUBACK_HEADER, SUCCESS, Client, Message

HOST = "127.0.0.1"
MESSAGES = 10


@given(st.integers(1, 65_535))
def test_an_acknowledgement_is_the_codec_s(packet_id: int) -> None:
    """Byte for byte."""
    assert (
        PUBACK.pack(PUBACK_HEADER, packet_id, SUCCESS) == PubAckPacket(packet_id=packet_id).write()
    )


@given(st.lists(st.integers(0, 400), max_size=8), st.integers(0, 300))
def test_messages_are_whole_however_their_bytes_are_cut(cuts: list[int], size: int) -> None:
    """Byte by byte or many at once, each comes once and in order."""
    sent = [PublishPacket(f"a/{number}", bytes(size * number)) for number in range(4)]
    accepted = ConnAckPacket(reason_code=ConnAckReasonCode.SUCCESS)
    stream = b"".join([accepted.write(), *(one.write() for one in sent)])
    edges = sorted({0, *(one for one in cuts if one < len(stream)), len(stream)})

    async def read() -> list[Message]:
        client = Client(hostname=HOST)
        for begin, end in itertools.pairwise(edges):
            client._took(memoryview(stream[begin:end]))
        return await client.batch()

    found = asyncio.run(read())
    assert [(one.topic, one.payload) for one in found if isinstance(one, PublishPacket)] == [
        (one.topic, one.payload) for one in sent
    ]


@pytest.mark.parametrize(
    ("gather_seconds", "reads"), [(0.0, range(5, MESSAGES + 1)), (0.5, range(1, 4))]
)
async def test_all_that_comes_thick_is_read_in_order(gather_seconds: float, reads: range) -> None:
    """And together, where the client may wait; an end of the session meanwhile loses nothing."""
    read: list[list[bytes | None]] = []
    async with session(gather_seconds) as client:
        with contextlib.suppress(ConnectError):
            while True:
                read.append([one.payload for one in await client.batch()])
    assert [one for some in read for one in some] == [b"%d" % one for one in range(MESSAGES)]
    assert len(read) in reads


async def test_whoever_is_cancelled_while_it_leaves_is_cancelled() -> None:
    """Else a bucket that was given up while its session was lost opens another, for ever."""
    leaving = asyncio.Event()

    async def stay_and_leave() -> None:
        async with session(0.0):
            leaving.set()

    task = asyncio.create_task(stay_and_leave())
    await leaving.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@contextlib.asynccontextmanager
async def session(gather_seconds: float) -> AsyncIterator[Client]:
    """Give a client of a broker that sends its messages one by one, and closes."""

    async def broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1_000)
        writer.write(ConnAckPacket(reason_code=ConnAckReasonCode.SUCCESS).write())
        for number in range(MESSAGES):
            writer.write(PublishPacket("bucket/0/devices/a/events/heat", b"%d" % number).write())
            await asyncio.to_thread(time.monotonic)  # meanwhile the client may read
        writer.close()

    server = await asyncio.start_server(broker, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Client(hostname=HOST, port=port, gather_seconds=gather_seconds) as client:
        yield client
