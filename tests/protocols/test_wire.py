"""A connection of our own, plain and under TLS, against real sockets."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from protocols.wire import Took, Wire
from tests.device.authorities import ADDRESS, server_context
from tests.helpers.wait import lasting, until_async

READ_BYTES = 4_096
SENT = bytes(range(256)) * 2_000
"""Half a megabyte."""
FLOOD = bytes(1_048_576)
Contexts = tuple[ssl.SSLContext, ssl.SSLContext] | tuple[None, None]
"""A server's, and its client's."""
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(params=["plain", "tls"])
def contexts(request: pytest.FixtureRequest, tmp_path: Path) -> Contexts:
    """With TLS and without."""
    if request.param == "plain":
        return None, None
    serving = server_context(tmp_path)
    return serving, ssl.create_default_context(cafile=str(tmp_path / "service.pem"))


@contextlib.asynccontextmanager
async def connected(contexts: Contexts, serve: Serve, took: Took) -> AsyncIterator[Wire]:
    """Serve one connection, and give its other end."""
    serving, ours = contexts
    server = await asyncio.start_server(serve, ADDRESS, 0, ssl=serving)
    port = server.sockets[0].getsockname()[1]
    async with server:
        wire = await Wire.open(
            ADDRESS, port, took, tls=ours, read_bytes=READ_BYTES, close_seconds=0.5
        )
        try:
            yield wire
        finally:
            wire.abort()


async def test_all_comes_in_order_in_bounded_pieces(contexts: Contexts) -> None:
    """And then the end: its peer has closed."""
    pieces: list[bytes] = []

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SENT)
        writer.close()

    async with connected(contexts, serve, lambda view: pieces.append(bytes(view))) as wire:
        with pytest.raises(ConnectionResetError):
            await wire.over()
    assert b"".join(pieces) == SENT
    assert max(len(one) for one in pieces) <= READ_BYTES


async def test_at_rest_what_comes_stays_with_its_sender(contexts: Contexts) -> None:
    """The sender is held up once the kernel's buffers are full; afterwards all comes."""
    count, sent = 0, 0
    wires: list[Wire] = []

    def took(view: memoryview) -> None:
        nonlocal count
        if not count:
            wires[0].rest()
        count += len(view)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.read(1)
        while True:
            writer.write(FLOOD)
            await writer.drain()
            sent += len(FLOOD)

    async with connected(contexts, serve, took) as wire:
        wires.append(wire)
        await wire.write(b"?")
        await until_async(lambda: count)
        await lasting(0.3)
        rested, held = count, sent
        await lasting(0.3)
        assert (count, sent) == (rested, held)
        assert rested <= ssl_bytes(contexts)
        wire.go_on()
        await until_async(lambda: count > 8 * rested + held)


def ssl_bytes(contexts: Contexts) -> int:
    """What may come at rest: what was read; asyncio's TLS has read 256 KiB before we hear of it."""
    return READ_BYTES if contexts[0] is None else 262_144


async def test_what_its_taker_raises_ends_it(contexts: Contexts) -> None:
    """And nothing more is handed on."""
    calls = 0

    def took(_view: memoryview) -> None:
        nonlocal calls
        calls += 1
        raise ValueError("not ours")

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SENT)
        await writer.drain()

    async with connected(contexts, serve, took) as wire:
        with pytest.raises(ValueError, match="not ours"):
            await wire.over()
        await wire.close()
    assert calls == 1


async def test_a_close_that_somebody_gives_up_ends_for_the_others(contexts: Contexts) -> None:
    """Also where it rests, and where its peer says no goodbye: behind it nothing is written."""
    ended = asyncio.Event()

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport = writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        await ended.wait()
        transport.abort()

    async with connected(contexts, serve, unheard) as wire:
        wire.rest()
        impatient, patient = (asyncio.create_task(wire.close()) for _ in range(2))
        await lasting(0)
        impatient.cancel()
        await patient
        await wire.over()
        assert impatient.cancelled()
        with pytest.raises(ConnectionResetError):
            await wire.write(b"late")
        ended.set()


async def test_a_writer_waits_for_a_reader_that_is_slow(contexts: Contexts) -> None:
    """And hears of the end where there is none."""
    reading = asyncio.Event()
    got = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        await reading.wait()
        while got < len(FLOOD):
            got += len(await reader.read(len(FLOOD)))
        writer.transport.abort()

    async with connected(contexts, serve, unheard) as wire:
        writing = asyncio.create_task(flood(wire))
        await lasting(0.2)
        assert not writing.done()
        reading.set()
        with pytest.raises(ConnectionResetError):
            await writing
        assert got >= len(FLOOD)


async def flood(wire: Wire) -> None:
    """Write without an end."""
    while True:
        await wire.write(FLOOD)


def unheard(_data: memoryview) -> None:
    """Take what comes, and do nothing."""
