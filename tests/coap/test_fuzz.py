"""Damaged and invented CoAP inside sound sessions: nothing escapes, nothing grows.

Some thousands here; a million by `make fuzz` (FLEETCERT_FUZZ=1000000). A failure names its seed.
"""

import asyncio
import contextlib
import os
import random
from typing import Any

import pytest
from aiocoap import Message
from aiocoap.numbers import CON, NON, codes
from aiocoap.transports import tcp as wire

from bridges.coap.messages import RECENT_MAX
from tests.coap.client import Client, client
from tests.coap.rig import Authorities, Running, running
from tests.coap.test_tcp import SETTINGS, event, peer

pytest.importorskip("fleetcert_dtls13", reason="built by `make setup` where Rust is")
COUNT = int(os.environ.get("FLEETCERT_FUZZ", "3000"))
SEED = int(os.environ.get("FLEETCERT_FUZZ_SEED", "20261125"))
TURN = 50
TRIES, PATIENCE_SECONDS = 4, 3.0
JSON = 50
PATHS = (("events", "heat"), ("commands",), ("replies", "c"), (".well-known", "core"), ())


def seeds(dice: random.Random) -> Message:
    """Return a sound request of some kind."""
    message = Message(
        code=dice.choice((codes.GET, codes.POST, codes.PUT, codes.DELETE, codes.FETCH)),
        payload=dice.choice((b"", b"{}", b'{"boot": 1, "sequence": 1}', b"\xa0", b"x" * 64)),
        _mid=dice.randrange(65_536),
        _mtype=dice.choice((CON, NON)),
        _token=dice.randbytes(dice.choice((0, 1, 3, 4, 5, 6, 7, 8))),  # two: a sound request's
    )
    message.opt.uri_path = dice.choice(PATHS)
    if dice.random() < 0.5:
        message.opt.content_format = dice.choice((0, 40, 50, 60, 65_000))
    if dice.random() < 0.3:
        message.opt.observe = dice.choice((0, 1, 7))
    if dice.random() < 0.3:
        message.opt.block1 = (dice.randrange(1 << 12), dice.random() < 0.5, dice.randrange(8))
    if dice.random() < 0.3:
        message.opt.block2 = (dice.randrange(1 << 12), dice.random() < 0.5, dice.randrange(8))
    if dice.random() < 0.2:
        message.opt.uri_query = (dice.choice(("ttd=0", "ttd=x", "ttd=9999999", "rt=*", "=")),)
    return message


def damaged(dice: random.Random, data: bytes) -> bytes:
    """Flip, cut, double or invent bytes; leave some as they are."""
    kind = dice.randrange(6)
    if kind == 0 or not data:
        return data
    if kind == 1:
        return data[: dice.randrange(len(data))]
    if kind == 2:
        return data + dice.randbytes(dice.randrange(40))
    if kind == 3:
        return dice.randbytes(dice.randrange(1, 80))
    at = dice.randrange(len(data))
    return data[:at] + bytes([dice.randrange(256)]) + data[at + 1 :]


def complaints(loop: asyncio.AbstractEventLoop) -> list[dict[str, Any]]:
    """Collect what reaches the loop's exception handler."""
    found: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _loop, context: found.append(context))
    return found


def bounded(bridge: Running) -> None:
    """See that what a peer can fill is within its limits."""
    (session,) = bridge.bridge.sessions.of("pump-1")
    assert len(session.observers) <= 4
    assert len(bridge.bridge._tree.assembler) <= 2
    assert session.in_flight <= 32


async def sound(one: Client, body: bytes) -> Message | None:
    """Return the answer to a sound request; its id may be one that was just invented."""
    for _ in range(TRIES):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await one.ask(codes.POST, "events/heat", body, content_format=JSON)
    return None


async def test_damaged_messages_over_dtls(authorities: Authorities) -> None:
    """The session answers a sound request after each turn of damaged ones."""
    dice, found = random.Random(SEED), complaints(asyncio.get_running_loop())
    me = authorities.device("pump-1")
    async with (
        running(authorities, requests_per_second=1e9) as bridge,
        client(bridge, "1.3", me) as one,
    ):
        for turn in range(COUNT // TURN):
            for _ in range(TURN):
                data = damaged(dice, seeds(dice).encode())
                one._act(one.association.send(data[:1_100]))
            body = b'{"boot": 2, "sequence": %d}' % (turn + 1)
            answer = await sound(one, body)
            assert answer is not None, (SEED, turn)
            assert answer.code == codes.CHANGED, (SEED, turn)
            assert found == [], (SEED, turn)
            bounded(bridge)
            bridge.kafka.records.clear()
            one.sent.clear()
            one.heard.clear()
        (there,) = bridge.bridge.listeners.dtls.peers.values()  # type: ignore[union-attr]
        assert len(there.recent) <= RECENT_MAX
        assert bridge.count.refusals.get("internal", 0) == 0


async def test_damaged_messages_over_tcp(authorities: Authorities) -> None:
    """A stream that is damaged ends its connection; the next one is served."""
    dice, found = random.Random(SEED + 1), complaints(asyncio.get_running_loop())
    me = authorities.device("pump-1")
    async with running(authorities, requests_per_second=1e9) as bridge:
        for turn in range(max(1, COUNT // 500)):
            async with peer(bridge, me) as one:
                one.say(SETTINGS)
                await one.hear()
                sound = event(b"1", turn + 1)
                one.say(sound)
                assert (await one.hear()).code == codes.CHANGED, (SEED, turn)
                for _ in range(TURN):
                    one.writer.write(damaged(dice, wire._serialize(seeds(dice))))
                one.writer.write(b"\x00" + dice.randbytes(8) + b"\xf0" * 64)
            assert found == [], (SEED, turn)
            bridge.kafka.records.clear()
        assert bridge.count.refusals.get("internal", 0) == 0
