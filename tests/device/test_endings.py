"""How a session ends: whatever ends it, the agent hears of a lost session and goes on."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

from mqtt5 import ConnAckPacket, ConnAckReasonCode

from protocols.mqtt import Client
from tests.device.authorities import ADDRESS, server_context
from tests.helpers.wait import until_async

GARBAGE = b"\x00\xff\xff\xff\xff\xff"


@contextlib.asynccontextmanager
async def rude_broker(folder: Path, rude: asyncio.Event) -> AsyncIterator[tuple[int, Path]]:
    """Accept a session, break the protocol when told, answer no farewell; yield port and CA."""
    context = server_context(folder)
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        accepted = ConnAckPacket(session_present=False, reason_code=ConnAckReasonCode.SUCCESS)
        writer.write(accepted.write())
        await rude.wait()
        writer.write(GARBAGE)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await ended.wait()
        writer.transport.abort()

    server = await asyncio.start_server(serve, ADDRESS, 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1], folder / "service.pem"
    finally:
        ended.set()
        server.close()


async def test_leaving_a_session_that_is_just_closing_cancels_nobody(tmp_path: Path) -> None:
    """A close that waits for the peer is not cancelled for all who wait for it.

    Its future is shared: cancelled once, it would cancel whoever leaves the session, and a device
    whose broker dies while it changes its identity would end without a word (seen).
    """
    rude = asyncio.Event()
    async with rude_broker(tmp_path, rude) as (port, ca_file):
        context = ssl.create_default_context(cafile=str(ca_file))
        client = Client(hostname=ADDRESS, port=port, identifier="lamp", ssl_context=context)
        await client.__aenter__()
        rude.set()
        await until_async(lambda: client._wire.closing)
        leaving = asyncio.create_task(client.__aexit__(None, None, None))
        await asyncio.wait([leaving], timeout=10)
        assert leaving.done()
        assert not leaving.cancelled()
