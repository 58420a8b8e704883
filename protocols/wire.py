"""A connection, TLS or plain, that is read into one buffer, and whose socket can be left alone.

asyncio's streams copy what comes and wake a task for each read. And pausing a TLS transport does
not pause its socket: the process goes on being woken for each segment, only to keep it. Here what
has come is handed on in the call that read it, and `rest` leaves it in the kernel.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Self

Took = Callable[[memoryview], None]


class Wire(asyncio.BufferedProtocol):
    """One connection; `took` gets what comes, and must copy what it keeps."""

    _socket: asyncio.Transport
    _transport: asyncio.Transport

    def __init__(self, took: Took, read_bytes: int) -> None:
        """At most `read_bytes` are handed on at once. `open` makes one that is connected."""
        loop = asyncio.get_running_loop()
        self._took, self._buffer = took, memoryview(bytearray(read_bytes))
        self._over: asyncio.Future[Exception | None] = loop.create_future()
        self._lost: asyncio.Future[None] = loop.create_future()
        self._writable = asyncio.Event()
        self._writable.set()

    @classmethod
    async def open(
        cls,
        host: str,
        port: int,
        took: Took,
        *,
        tls: ssl.SSLContext | None,
        read_bytes: int,
        close_seconds: float,
    ) -> Self:
        """Connect. A peer that does not answer a goodbye within `close_seconds` is left without.

        Raises OSError, ssl.SSLError among them.
        """
        loop = asyncio.get_running_loop()
        wire = cls(took, read_bytes)
        wire._socket, _ = await loop.create_connection(lambda: wire, host, port)
        wire._transport = wire._socket
        if tls is not None:
            try:
                encrypted = await loop.start_tls(
                    wire._socket,
                    wire,
                    tls,
                    server_hostname=host,
                    ssl_shutdown_timeout=close_seconds,
                )
            except BaseException:
                wire._socket.abort()
                raise
            assert encrypted is not None
            wire._transport = encrypted
        return wire

    async def over(self) -> None:
        """Wait until nothing more comes. Raises why: an OSError, or what `took` raised.

        Returns where it was closed on this side.
        """
        await asyncio.wait([self._over])
        if error := self._over.result():
            raise error

    def rest(self) -> None:
        """Leave what comes where it is; a little that is on its way may come all the same."""
        self._socket.pause_reading()

    def go_on(self) -> None:
        """Read again."""
        self._socket.resume_reading()

    @property
    def closing(self) -> bool:
        """Whether nothing can be written any more."""
        return self._transport.is_closing()

    async def write(self, data: bytes) -> None:
        """Write, and wait while too much is unwritten. Raises OSError where the end was there."""
        # In Python 3.11 a TLS transport whose connection is lost raises AttributeError on write.
        if self.closing:
            raise ConnectionResetError("the connection is closed")
        self._transport.write(data)
        if not self._writable.is_set():
            await self._writable.wait()
        if self._lost.done():
            raise ConnectionResetError("the connection was lost")

    def abort(self) -> None:
        """Drop the connection."""
        self._transport.abort()

    async def close(self) -> None:
        """Say goodbye, and wait for the end; whoever is cancelled meanwhile cancels nobody else."""
        self._finish(None)
        self.go_on()  # the peer's goodbye is to be read
        self._transport.close()
        await asyncio.wait([self._lost])

    # -- called by asyncio -----------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        """Say where to read to."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Hand on what was read."""
        if self._over.done():
            return
        try:
            self._took(self._buffer[:nbytes])
        except Exception as error:
            self._finish(error)

    def eof_received(self) -> None:
        """Nothing more comes; asyncio closes the connection."""
        self._finish(ConnectionResetError("the peer has closed"))

    def pause_writing(self) -> None:
        """Too much is unwritten."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """There is room again."""
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end, whoever wanted it."""
        self._finish(exc or ConnectionResetError("the connection was lost"))
        self._lost.set_result(None)
        self._writable.set()

    def _finish(self, error: Exception | None) -> None:
        if not self._over.done():
            self._over.set_result(error)
