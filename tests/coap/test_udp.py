"""The UDP socket: all that has come is taken at once, and nothing that is lost stops it."""

import asyncio
import socket

from bridges.coap import udp
from bridges.coap.udp import DatagramSocket
from tests.helpers.wait import until_async

BYTES_MAX = 100


async def test_all_that_has_come_is_taken_in_few_turns_and_in_order() -> None:
    """A turn ends after TURN_MAX datagrams, so that others have theirs; the next one goes on."""
    heard: list[bytes] = []
    turns: list[int] = []

    def received(data: bytes, _address: object) -> None:
        if not heard or len(heard) % udp.TURN_MAX == 0:
            asyncio.get_running_loop().call_soon(lambda: turns.append(len(heard)))
        heard.append(data)

    one = DatagramSocket(
        "127.0.0.1", 0, bytes_max=BYTES_MAX, received=received, count=lambda _: None
    )
    many = 2 * udp.TURN_MAX
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        for number in range(many):
            peer.sendto(b"%d" % number, ("127.0.0.1", one.port))
        await until_async(lambda: len(turns) == 2, describe="all are taken")
    one.close()
    assert heard == [b"%d" % number for number in range(many)]
    assert turns == [udp.TURN_MAX, many]


async def test_what_cannot_be_sent_is_counted_and_the_next_one_goes() -> None:
    """Too long, or after the end: lost like any datagram. What comes too long is seen to be so."""
    counted: list[str] = []
    heard: list[bytes] = []
    one = DatagramSocket(
        "127.0.0.1",
        0,
        bytes_max=BYTES_MAX,
        received=lambda data, _: heard.append(data),
        count=counted.append,
    )
    here = ("127.0.0.1", one.port)
    one.send(b"x" * 70_000, here)
    one.send(b"x" * 500, here)
    one.send(b"next", here)
    await until_async(lambda: len(heard) == 2, describe="both came")
    one.close()
    one.send(b"late", here)
    assert (counted, [len(each) for each in heard]) == (["unsent"] * 2, [BYTES_MAX + 1, 4])
