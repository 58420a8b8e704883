"""Multicast discovery over IPv6: `python -m tests.coap.multicast INTERFACE`, in a namespace.

Asks All CoAP Nodes in the link and the site (RFC 7252 section 12.8) and prints, as JSON, what came
back: from where, with which code, and the links.
"""

import asyncio
import json
import socket
import sys
import tempfile
from pathlib import Path

from aiocoap import GET, Message
from aiocoap.numbers import NON

from tests.coap.rig import Authorities, running

GROUPS = ("ff02::fd", "ff05::fd")
PORT, SECONDS = 5683, 8.0


async def ask(interface: str, group: str) -> dict[str, str]:
    """Ask a group on an interface; return the one answer."""
    index = socket.if_nametoindex(interface)
    message = Message(code=GET, _mid=index, _mtype=NON, _token=b"t")
    message.opt.uri_path = (".well-known", "core")
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as made:
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        loop = asyncio.get_running_loop()
        await loop.sock_sendto(made, message.encode(), (group, PORT, 0, index))
        async with asyncio.timeout(SECONDS):
            data, source = await loop.sock_recvfrom(made, 65_536)
    answer = Message.decode(data)
    return {"from": source[0], "code": str(answer.code), "links": answer.payload.decode()}


async def main(interface: str) -> None:
    """Run a bridge that takes part in the groups; ask each."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"plain_port": PORT, "plain_host": "::", "multicast": (interface,)}
        async with running(Authorities(Path(folder)), **settings):
            answers = {group: await ask(interface, group) for group in GROUPS}
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
