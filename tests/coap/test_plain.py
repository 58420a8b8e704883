"""Plain CoAP: discovery alone, by unicast and multicast, and of no use as a mirror."""

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiocoap import GET, POST, Message
from aiocoap.numbers import CON, NON, codes

from bridges.coap import resources
from client.local.ports import free_ports
from tests.coap.rig import Authorities, running

WITHIN = 8.0
ALL_COAP_NODES = "224.0.1.187"
ROOT = Path(__file__).parents[2]
INTERFACE = """
ip link set lo up
ip link add v0 type veth peer name v1
for one in v0 v1; do ip link set $one addrgenmode none; ip link set $one up; done
for one in fe80::1 fd00::1; do ip address add $one/64 dev v0 nodad; done
exec "$@"
"""


@contextlib.contextmanager
def probe() -> Iterator[socket.socket]:
    """A UDP socket."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.setblocking(False)
        yield made


def request(code: codes.Code, path: str, mid: int = 1, mtype: int = CON) -> bytes:
    """Return a request as bytes."""
    message = Message(code=code, _mid=mid, _mtype=mtype, _token=mid.to_bytes(2, "big"))
    message.opt.uri_path = tuple(path.split("/"))
    return bytes(message.encode())


async def ask(made: socket.socket, port: int, data: bytes, host: str = "127.0.0.1") -> Message:
    """Send a request and return the answer. Raises TimeoutError."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendto(made, data, (host, port))
    async with asyncio.timeout(WITHIN):
        answer, _ = await loop.sock_recvfrom(made, 65_536)
    return Message.decode(answer)


@pytest.mark.parametrize(("host", "asked"), [("127.0.0.1", "127.0.0.1"), ("::", "127.0.0.1")])
async def test_it_names_the_secured_resources_and_serves_nothing_else(
    authorities: Authorities, host: str, asked: str
) -> None:
    """Discovery gives whole addresses; every other path is 4.01, whatever the method."""
    (port,) = free_ports(1)
    async with running(authorities, plain_port=port, plain_host=host) as bridge:
        with probe() as made:
            found = await ask(made, port, request(GET, ".well-known/core"), asked)
            assert found.code == codes.CONTENT
            assert f"<coaps+tcp://127.0.0.1:{bridge.port}/commands>".encode() in found.payload
            for number, path in enumerate(("events/heat", "commands", "nowhere"), 2):
                answer = await ask(made, port, request(POST, path, number), asked)
                assert answer.code == codes.UNAUTHORIZED
        assert bridge.kafka.records == []


async def test_multicast_discovery_is_answered_by_unicast(authorities: Authorities) -> None:
    """All CoAP Nodes on the loopback interface (RFC 7252 section 8)."""
    (port,) = free_ports(1)
    settings = {"plain_port": port, "plain_host": "::", "multicast": ("lo",)}
    async with running(authorities, **settings) as bridge:
        with probe() as made:
            made.setsockopt(
                socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1")
            )
            data = request(GET, ".well-known/core", mtype=NON)
            found = await ask(made, port, data, ALL_COAP_NODES)
            assert found.code == codes.CONTENT
            assert f"<coaps+tcp://127.0.0.1:{bridge.port}/commands>".encode() in found.payload


def test_multicast_discovery_over_ipv6_names_an_address_that_can_be_reached() -> None:
    """All CoAP Nodes of the link and of the site: the answer and its links are by unicast.

    In a network namespace with an interface of its own: the loopback one takes no IPv6 multicast.
    """
    namespace = ["unshare", "--user", "--map-root-user", "--net", "sh", "-euc", INTERFACE, "sh"]
    command = [*namespace, sys.executable, "-m", "tests.coap.multicast", "v0"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    for group, address in (("ff02::fd", "fe80::1"), ("ff05::fd", "fd00::1")):
        answer = answers[group]
        assert (answer["from"], answer["code"]) == (address, "2.05 Content")
        assert f"<coaps+tcp://[{address}]:" in answer["links"]
        assert group not in answer["links"]


async def test_a_flood_is_answered_sparingly(authorities: Authorities) -> None:
    """Of a thousand requests a few dozen are answered: nothing to gain by a forged sender."""
    (port,) = free_ports(1)
    async with running(authorities, plain_port=port) as bridge:
        with probe() as flood, probe() as honest:
            for mid in range(1_000):
                flood.sendto(request(GET, ".well-known/core", mid, NON), ("127.0.0.1", port))
            answers = 0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    while True:
                        await asyncio.get_running_loop().sock_recv(flood, 65_536)
                        answers += 1
            assert 0 < answers <= resources.OPEN_BURST + 4 * resources.OPEN_PER_SECOND
            assert bridge.count.refusals["open"] > 100
            found = await ask(honest, port, request(GET, ".well-known/core"))
            assert found.code == codes.CONTENT
