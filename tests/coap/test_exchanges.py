"""Which answers still reach a peer: one exchange per token, over when nobody waits for it."""

from typing import Any

import pytest
from aiocoap import Message
from aiocoap.numbers import codes

from bridges.coap import wire
from bridges.coap.exchanges import Exchange, Exchanges


class Peer:
    """A remote: all that an exchange asks of it is its table."""

    def __init__(self) -> None:
        self.exchanges: dict[bytes, Exchange] = {}


class Context:
    """Keeps what is to be answered; is the transport, too."""

    log = loop = None

    def __init__(self) -> None:
        self.asked: list[Exchange] = []
        self.sent: list[Message] = []

    def render_to_pipe(self, exchange: Exchange) -> None:
        """Take a request."""
        self.asked.append(exchange)

    def send_message(self, message: Message, reset: Any) -> None:
        """Take an answer."""
        message.reset = reset
        self.sent.append(message)


@pytest.fixture
def context() -> Context:
    """A context."""
    return Context()


def asked(context: Context, peer: Peer, token: bytes = b"1") -> Exchange:
    """Let a peer ask."""
    exchanges = Exchanges(context)
    exchanges.token_interface = context
    data = Message(code=codes.GET, _mid=1, _mtype=0, _token=token).encode()
    exchanges.process_request(wire.datagram(data, peer))
    return context.asked[-1]


def answer() -> Message:
    """Return an answer."""
    return Message(code=codes.CONTENT)


def test_an_answer_goes_where_the_request_came_from(context: Context) -> None:
    """With its token; after the last one the token is free."""
    peer = Peer()
    one = asked(context, peer, b"token")
    one.add_response(answer())
    assert peer.exchanges == {b"token": one}
    one.add_response(answer(), is_last=True)
    one.add_response(answer(), is_last=True)
    assert [(sent.token, sent.remote) for sent in context.sent] == [(b"token", peer)] * 2
    assert peer.exchanges == {}


@pytest.mark.parametrize("why", ["token", "reset", "peer"])
def test_nobody_waits_any_more(context: Context, why: str) -> None:
    """The token was used again, a notification was reset, or the peer is gone: told once."""
    peer, ended = Peer(), []
    one = asked(context, peer)
    one.on_interest_end(lambda: ended.append(1))
    one.add_response(answer())
    if why == "token":
        asked(context, peer)
    elif why == "reset":
        context.sent[0].reset()
    else:
        Exchanges(context).dispatch_error(None, peer)
    one.add_response(answer())
    one.end()
    assert (len(context.sent), ended) == (1, [1])
    late: list[int] = []
    one.on_interest_end(lambda: late.append(1))
    assert late == [1]


def test_peers_share_no_tokens(context: Context) -> None:
    """The same token of another peer is another exchange."""
    one, other = asked(context, Peer()), asked(context, Peer())
    for each in (one, other):
        each.add_response(answer(), is_last=True)
    assert len(context.sent) == 2
