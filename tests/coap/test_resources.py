"""What each path answers to whom: codes, formats, block-wise bodies, observation, limits."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import cbor2
import pytest
from aiocoap.numbers import codes

from bridges.coap import blocks, resources
from bridges.coap.sessions import COMMANDS_MAX
from schemas.commands import DropCertificate, InstallCertificate
from schemas.decisions import DeadLetter
from schemas.events import CommandAnswered, DeviceReported
from schemas.progress import OUTCOMES, Progress
from tests.coap.client import Client, client
from tests.coap.rig import NOW, Authorities, Running, running
from tests.helpers.wait import until_async

pytest.importorskip("fleetcert_dtls13", reason="built by `make setup` where Rust is")
JSON, CBOR, LINKS = 50, 60, 40
FAR = 2**41
EVENT = b'{"boot": 1, "sequence": 1, "body": 1}'


@pytest.fixture
async def at(authorities: Authorities) -> AsyncIterator[tuple[Running, Client]]:
    """A bridge, and one device that is connected to it."""
    me = authorities.device("pump-1")
    async with running(authorities) as found, client(found, "1.3", me) as one:
        yield found, one


At = tuple[Running, Client]


def install(name: str, device_id: str = "pump-1", expires_at: int = FAR) -> InstallCertificate:
    """Return a command with bytes in it."""
    return InstallCertificate(name, device_id, 1, 1, expires_at, b"\x00\xffDER")


@pytest.mark.parametrize(
    ("method", "path", "payload", "options", "code"),
    [
        ("POST", "events/heat", EVENT, {"content_format": JSON}, "2.04"),
        ("POST", "events/heat", cbor2.dumps({"body": 1}), {"content_format": CBOR}, "2.04"),
        ("POST", "events/heat", EVENT, {}, "2.04"),
        ("POST", "events/heat", b"no json", {"content_format": JSON}, "4.00"),
        ("POST", "events/heat", b"[]", {"content_format": JSON}, "4.00"),
        ("POST", "replies/c-1", b'{"outcome": "perhaps"}', {"content_format": JSON}, "4.00"),
        ("POST", "events/" + "x" * 65, EVENT, {"content_format": JSON}, "4.04"),
        ("POST", "events/heat", EVENT, {"content_format": 0}, "4.15"),
        ("POST", "events/heat", EVENT, {"block1": (1, True, 6)}, "4.08"),
        ("POST", "events/heat", EVENT, {"block1": (0, True, 6)}, "4.00"),
        ("POST", "events/heat", b"x" * 16, {"block1": (0, True, 0), "size1": 2**24}, "4.13"),
        ("POST", "events/heat", EVENT, {"if_none_match": True}, "4.02"),
        ("POST", "events/heat", EVENT, {"proxy_uri": "coap://x"}, "5.05"),
        ("GET", "events/heat", b"", {}, "4.05"),
        ("DELETE", "commands", b"", {}, "4.05"),
        ("GET", "commands", b"", {"accept": LINKS}, "4.06"),
        ("GET", ".well-known/core", b"", {"accept": JSON}, "4.06"),
        ("POST", ".well-known/core", b"", {}, "4.05"),
        ("GET", "nowhere", b"", {}, "4.04"),
        ("POST", "events", EVENT, {}, "4.04"),
    ],
)
async def test_every_request_has_its_code(
    at: At, method: str, path: str, payload: bytes, options: dict[str, Any], code: str
) -> None:
    """A refusal says which, and a sentence with it; what was understood is 2.xx."""
    _, one = at
    found = await one.ask(getattr(codes, method), path, payload, **options)
    assert found.code.dotted == code
    assert found.payload or code in ("2.04", "4.08", "4.13")


async def test_2_04_comes_after_kafka(at: At) -> None:
    """While Kafka is silent there is no answer; it comes when Kafka has the event."""
    running, one = at
    running.kafka.away = True
    asking = asyncio.create_task(one.ask(codes.POST, "events/heat", EVENT, content_format=JSON))
    await until_async(lambda: running.kafka.of(DeviceReported), describe="Kafka was asked")
    assert not asking.done()
    running.kafka.away = False
    assert (await asking).code == codes.CHANGED


async def test_a_device_is_told_that_kafka_is_away(authorities: Authorities) -> None:
    """5.03 with a Max-Age: not known to be recorded; the next request may succeed."""
    me = authorities.device("pump-1")
    async with running(authorities, record_seconds=0.2) as found, client(found, "1.3", me) as one:
        found.kafka.away = True
        away = await one.ask(codes.POST, "events/heat", EVENT, content_format=JSON)
        assert (away.code, away.opt.max_age) == (codes.SERVICE_UNAVAILABLE, resources.AWAY_SECONDS)
        found.kafka.away = False
        again = await one.ask(codes.POST, "events/heat", EVENT, content_format=JSON)
        assert again.code == codes.CHANGED


async def test_what_is_refused_is_kept(at: At) -> None:
    """A malformed body is in the dead letters, whole, with its reason and place."""
    running, one = at
    await one.ask(codes.POST, "events/heat", b"no json", content_format=JSON)
    (letter,) = running.kafka.of(DeadLetter)
    assert (letter.reason, letter.payload, letter.origin) == (
        "malformed",
        b"no json",
        "coap:events/heat",
    )
    assert running.count.refusals["malformed"] == 1


async def test_a_repeated_message_is_recorded_once_and_answered_again(at: At) -> None:
    """The same message id is the same request (RFC 7252 section 4.5)."""
    running, one = at
    first = await one.ask(codes.POST, "events/heat", EVENT, content_format=JSON)
    one._mid -= 1
    again = await one.ask(codes.POST, "events/heat", EVENT, content_format=JSON)
    assert (first.code, again.code) == (codes.CHANGED, codes.CHANGED)
    assert len(running.kafka.of(DeviceReported)) == 1


async def test_a_body_of_fifty_kilobytes_comes_block_by_block(at: At) -> None:
    """Every block is answered 2.31, the last 2.04, and the whole stands in the history."""
    running, one = at
    body = json.dumps({"boot": 1, "sequence": 1, "body": "x" * 50_000}).encode()
    answers = await upload(one, "events/trace", body)
    assert set(answers[:-1]) == {"2.31"}
    assert answers[-1] == "2.04"
    (found,) = running.kafka.of(DeviceReported)
    assert found.payload == body
    assert (len(running.bridge._tree.assembler), running.bridge._tree.assembler.total) == (0, 0)


async def upload(one: Client, path: str, body: bytes, stop: int | None = None) -> list[str]:
    """Send a body in blocks of 1,024 bytes, or its first `stop`; return the codes."""
    parts = [body[start : start + 1024] for start in range(0, len(body), 1024)]
    found = []
    for number, part in enumerate(parts[:stop]):
        block = (number, number + 1 < len(parts), 6)
        answer = await one.ask(codes.POST, path, part, content_format=JSON, block1=block)
        found.append(answer.code.dotted)
    return found


async def test_unfinished_bodies_are_bounded_and_leave_with_their_session(at: At) -> None:
    """Two per session, a limit for each; when the session ends nothing is left."""
    running, one = at
    assembler = running.bridge._tree.assembler
    for name in ("a", "b", "c"):
        await upload(one, f"events/{name}", b"x" * 4096, stop=2)
    assert len(assembler) == blocks.ASSEMBLIES_MAX
    long = await upload(one, "events/long", b"x" * (blocks.BODY_BYTES_MAX + 2048))
    assert long[-2:] == ["4.13", "4.08"]
    assert not running.kafka.of(DeviceReported)
    running.bridge.sessions.close()
    assert (len(assembler), assembler.total) == (0, 0)


async def test_commands_wait_until_they_are_answered(at: At) -> None:
    """The list holds what came for the session, as CBOR or JSON, until the reply."""
    running, one = at
    await one.ask(codes.POST, "events/heat", EVENT, content_format=JSON)
    await running.bridge.deliver(install("c-1"))
    await running.bridge.deliver(install("c-2", expires_at=1))
    await running.bridge.deliver(install("c-3", device_id="pump-2"))
    found = await one.ask(codes.GET, "commands")
    (command,) = cbor2.loads(found.payload)
    assert (command["type"], command["command_id"]) == ("InstallCertificate", "c-1")
    assert command["certificate"] == b"\x00\xffDER"
    as_json = await one.ask(codes.GET, "commands", accept=JSON)
    assert json.loads(as_json.payload)[0]["certificate"] == "AP9ERVI="
    reply = cbor2.dumps({"boot": 1, "sequence": 2, "outcome": "done"})
    assert (
        await one.ask(codes.POST, "replies/c-1", reply, content_format=CBOR)
    ).code == codes.CHANGED
    assert cbor2.loads((await one.ask(codes.GET, "commands")).payload) == []
    assert [one.command_id for one in running.kafka.of(CommandAnswered)] == ["c-1"]


async def test_an_answer_says_how_far_an_update_is(at: At) -> None:
    """Many answers to one command, each recorded; what is no word of the list is told and kept."""
    running, one = at
    words = [*Progress, "", "flying", None, 7, ["verified"]]
    codes_of = {}
    for number, word in enumerate(words, start=1):
        outcome = OUTCOMES[Progress(word)] if word in list(Progress) else "accepted"
        said = {"boot": 1, "sequence": number, "outcome": outcome, "progress": word}
        reply = await one.ask(codes.POST, "replies/u-1", cbor2.dumps(said), content_format=CBOR)
        codes_of[str(word)] = reply.code
    wrong = {name for name, code in codes_of.items() if code == codes.BAD_REQUEST}
    assert wrong == {"flying", "None", "7", "['verified']"}
    answers = running.kafka.of(CommandAnswered)
    assert [(each.command_id, each.progress) for each in answers] == [
        ("u-1", word) for word in [*Progress, ""]
    ]
    assert len(running.kafka.of(DeadLetter)) == len(wrong)


async def test_commands_of_a_session_are_bounded(at: At) -> None:
    """The oldest gives way; the list comes block by block, under one ETag."""
    running, one = at
    await one.ask(codes.GET, "commands")
    for number in range(2 * COMMANDS_MAX):
        await running.bridge.deliver(install(f"command-with-a-long-name-{number}"))
    body, etags, number, more = b"", set(), 0, True
    while more:
        found = await one.ask(codes.GET, "commands", block2=(number, False, 4))
        body, number, more = body + found.payload, number + 1, found.opt.block2.more
        etags.add(found.opt.etag)
    names = [command["command_id"] for command in cbor2.loads(body)]
    assert names == [f"command-with-a-long-name-{n}" for n in range(COMMANDS_MAX, 2 * COMMANDS_MAX)]
    assert len(etags) == 1


async def test_an_observer_is_told_of_each_command(at: At) -> None:
    """Registration, confirmable notifications in order, and the end of it (RFC 7641)."""
    running, one = at
    first = await one.ask(codes.GET, "commands", observe=0)
    assert cbor2.loads(first.payload) == []
    token, numbers = first.token, [first.opt.observe]
    for number in range(3):
        await running.bridge.deliver(install(f"c-{number}"))
        told = await one.answer(token, 5)
        assert told is not None
        assert len(cbor2.loads(told.payload)) == number + 1
        numbers.append(told.opt.observe)
    assert numbers == sorted(set(numbers))
    (session,) = running.bridge.sessions.of("pump-1")
    assert len(session.observers) == 1
    one._mid -= 1
    token_again = await one.ask(codes.GET, "commands", observe=0, accept=CBOR)
    assert token_again.opt.observe is not None


async def test_a_sleepy_device_takes_its_command_with_the_answer(at: At) -> None:
    """`ttd` keeps the answer open until a command comes, or the time is over."""
    running, one = at
    asking = asyncio.create_task(
        one.ask(codes.POST, "events/heat", EVENT, content_format=JSON, uri_query=("ttd=10",))
    )
    await until_async(
        lambda: any(s.observers for s in running.bridge.sessions.of("pump-1")), describe="it waits"
    )
    await running.bridge.deliver(DropCertificate("d-1", "pump-1", 1, 1, FAR, b"f" * 32))
    answer = await asking
    assert answer.code == codes.CHANGED
    assert cbor2.loads(answer.payload)[0]["type"] == "DropCertificate"


async def test_discovery_names_the_resources_and_filters_them(at: At) -> None:
    """Link format with attributes; a filter that matches nothing gives an empty document."""
    _, one = at
    found = await one.ask(codes.GET, ".well-known/core")
    assert found.opt.content_format == LINKS
    assert b'</commands>;rt="fleetcert.commands";ct="50 60";obs' in found.payload
    only = await one.ask(codes.GET, ".well-known/core", uri_query=("rt=fleetcert.e*",))
    assert only.payload.startswith(b"</events>")
    assert b"," not in only.payload
    assert (await one.ask(codes.GET, ".well-known/core", uri_query=("rt=x",))).payload == b""


async def test_who_asks_too_much_is_told_to_slow_down(authorities: Authorities) -> None:
    """4.29 with a Max-Age, and the session goes on (RFC 8516)."""
    me = authorities.device("pump-1")
    async with (
        running(authorities, requests_per_second=5.0) as found,
        client(found, "1.3", me) as one,
    ):
        answers = [await one.ask(codes.GET, "commands") for _ in range(15)]
        said = [answer.code.dotted for answer in answers]
        assert said[:10] == ["2.05"] * 10
        assert "4.29" in said
        slow = next(answer for answer in answers if answer.code.dotted == "4.29")
        assert slow.opt.max_age == resources.CALM_SECONDS


async def test_a_session_ends_with_its_certificate(authorities: Authorities) -> None:
    """What was valid at the handshake and no longer is: 4.03, and the sweep closes it."""
    me = authorities.device("pump-1")
    async with running(authorities) as found, client(found, "1.3", me) as one:
        assert (await one.ask(codes.GET, "commands")).code == codes.CONTENT
        (session,) = found.bridge.sessions.of("pump-1")
        assert session.valid_until > NOW.timestamp()
        session.valid_until = NOW.timestamp()
        assert (await one.ask(codes.GET, "commands")).code == codes.FORBIDDEN
        await asyncio.wait_for(one.ended.wait(), 5)
        assert found.sessions == 0
