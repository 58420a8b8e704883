"""Requests that are being answered: for each peer a table, by token (RFC 7252 section 5.3.1).

Rules of this file: an exchange is over with its last answer, with another request of its token,
with a Reset of its notification, and with its peer; what would be said after that is dropped. We
ask nothing over these transports, so no answer is expected from them.
"""

from collections.abc import Callable
from typing import Any

from aiocoap import Context, Message, interfaces

from bridges.coap.wire import Heard

Send = Callable[[Message, Callable[[], None]], None]


class Exchange:
    """A request and the way back: as much of aiocoap's `Pipe` as a server needs."""

    __slots__ = ("_ended", "_send", "_table", "request")

    def __init__(self, request: Heard, table: dict[bytes, "Exchange"], send: Send) -> None:
        self.request, self._send = request, send
        self._table: dict[bytes, Exchange] | None = table
        self._ended: Callable[[], object] | None = None
        table[request.token] = self

    def add_response(self, response: Message, is_last: bool = False) -> None:
        """Send an answer, unless nobody waits for it any more."""
        if self._table is None:
            return
        request = self.request
        response.token, response.remote, response.request = request.token, request.remote, request
        if is_last:
            self.end()
        self._send(response, self.end)

    def on_interest_end(self, callback: Callable[[], object]) -> None:
        """Let this be called when nobody waits for an answer any more."""
        self._ended = callback
        if self._table is None:
            callback()

    def end(self) -> None:
        """Take note that nobody waits any more."""
        table, self._table = self._table, None
        if table is None:
            return
        del table[self.request.token]
        if self._ended is not None:
            self._ended()


class Exchanges(interfaces.TokenManager):  # type: ignore[misc] # aiocoap is untyped
    """The exchanges of one listener, in the place of aiocoap's token manager."""

    client_credentials = None

    def __init__(self, context: Context) -> None:
        self.context, self.log, self.loop = context, context.log, context.loop
        self.token_interface: Any = None

    def process_request(self, request: Heard) -> None:
        """Begin to answer a request; an older one of the same token is over."""
        table = request.remote.exchanges
        former = table.get(request.token)
        if former is not None:
            former.end()
        exchange = Exchange(request, table, self.token_interface.send_message)
        self.context.render_to_pipe(exchange)

    def process_response(self, _response: Heard) -> bool:
        """Tell that an answer was not waited for."""
        return False

    def dispatch_error(self, _error: Exception | None, remote: Any) -> None:
        """End what goes on with a peer that is gone."""
        end_all(remote.exchanges)

    async def shutdown(self) -> None:
        """Close the listener."""
        await self.token_interface.shutdown()


def end_all(table: dict[bytes, Exchange]) -> None:
    """End the exchanges of a peer."""
    for one in tuple(table.values()):
        one.end()
