"""The CoAP bridge's speed: `python -m benchmarks.coap [--seconds N] [--sessions N ...]`.

A bridge process with a real Kafka; clients in processes of their own, each session with one request
of 200 bytes at a time, answered after Kafka has it. Prints requests per second, the server's CPU
seconds per million requests, and its memory per session. Beside it in the same run libcoap's server
in C (Debian: libcoap3-bin), which keeps the last body in memory, looks at no client's certificate
and speaks no DTLS 1.3: what the protocol alone costs.
"""

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from aiocoap.numbers import codes

from client.local import topics
from client.local.ports import free_ports
from client.local.processes import listens
from configuration.cluster import Cluster
from tests.coap.client import Client, association
from tests.coap.rig import Authorities, Identity
from tests.coap.test_tcp import SETTINGS, Peer, event, tls
from tests.helpers.kafka import kafka_broker
from tests.helpers.wait import until

TRANSPORTS = ("coaps+tcp", "DTLS 1.3", "DTLS 1.2")
BODY = b'{"boot": 1, "sequence": %d, "body": "' + b"x" * 160 + b'"}'
Session = Callable[[int], Awaitable[codes.Code]]
PROCESSES = 2
PATIENCE_SECONDS = 10.0
"""Nothing is lost here: a slow answer is not asked for again."""


@dataclass(frozen=True)
class Server:
    """A server that is measured: where it listens, what it speaks, how a body is given to it."""

    name: str
    port: int
    pid: int
    transports: tuple[str, ...]
    method: codes.Code


@dataclass(frozen=True)
class Load:
    """What one process of clients does."""

    transport: str
    port: int
    method: codes.Code
    who: list[Identity]
    ca: Path
    seconds: float


async def _tcp(load: Load, identity: Identity) -> Session:
    opened = await asyncio.open_connection(
        "127.0.0.1", load.port, ssl=tls(load.ca, identity), server_hostname="localhost"
    )
    peer = Peer(*opened)
    peer.say(SETTINGS)
    await peer.hear()

    async def ask(sequence: int) -> codes.Code:
        message = event(sequence.to_bytes(4, "big"), sequence, 160)
        message.code = load.method
        peer.say(message)
        return (await peer.hear()).code

    return ask


async def _udp(load: Load, identity: Identity) -> Session:
    loop = asyncio.get_running_loop()
    one = Client(association(load.transport[-3:], identity))
    one.transport, _ = await loop.create_datagram_endpoint(
        lambda: one, remote_addr=("127.0.0.1", load.port)
    )
    one.again_seconds = PATIENCE_SECONDS
    one.begin()
    await one.connected

    async def ask(sequence: int) -> codes.Code:
        one.sent.clear()
        return (await one.ask(load.method, "events/heat", BODY % sequence, content_format=50)).code

    return ask


async def _talk(ask: Session, ends: float) -> int:
    sequence = 0
    while time.monotonic() < ends:
        sequence += 1
        answered = await ask(sequence)
        assert answered in (codes.CHANGED, codes.CREATED), answered
    return sequence


async def _load(pipe: Connection, load: Load) -> int:
    opener = _tcp if load.transport == "coaps+tcp" else _udp
    opened = [await opener(load, one) for one in load.who]
    pipe.send("ready")
    await asyncio.to_thread(pipe.recv)
    ends = time.monotonic() + load.seconds
    return sum(await asyncio.gather(*(_talk(one, ends) for one in opened)))


def _client(pipe: Connection, load: Load) -> None:
    pipe.send(asyncio.run(_load(pipe, load)))


def _usage(pid: int) -> tuple[float, int]:
    """Return CPU seconds and resident bytes of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    ticks = int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK"), int(fields[21]) * os.sysconf("SC_PAGE_SIZE")


def measure(
    server: Server, transport: str, sessions: int, seconds: float, pki: Authorities
) -> None:
    """Run one load and print its line."""
    who = [pki.device(f"bench-{number}") for number in range(sessions)]
    _, empty = _usage(server.pid)
    running = []
    for number in range(min(PROCESSES, sessions)):
        here, there = multiprocessing.Pipe()
        some = who[number::PROCESSES]
        load = Load(transport, server.port, server.method, some, pki.service_ca, seconds)
        process = multiprocessing.Process(target=_client, args=(there, load))
        process.start()
        running.append((process, here))
    assert {here.recv() for _, here in running} == {"ready"}
    cpu, memory = _usage(server.pid)
    for _, here in running:
        here.send("go")
    total = sum(here.recv() for _, here in running)
    spent, _ = _usage(server.pid)
    for process, _ in running:
        process.join()
    print(
        f"{server.name:9} {transport:9} {sessions:6} sessions {total / seconds:8.0f} requests/s "
        f"{1e6 * (spent - cpu) / total:7.1f} CPU s per million "
        f"{(memory - empty) / sessions / 1024:7.1f} KiB per open session",
        flush=True,
    )


@contextlib.contextmanager
def _bridge(folder: Path, pki: Authorities, transports: tuple[str, ...]) -> Iterator[Server]:
    """Run a bridge process with a real Kafka."""
    (port,), said = free_ports(1), folder / "bridge.log"
    (folder / "kafka").mkdir()
    with kafka_broker(folder / "kafka") as kafka:
        topics.create_topics(Cluster(kafka.bootstrap), 2)
        command = [sys.executable, "-m", "bridges", "coap", "--bootstrap", kafka.bootstrap]
        command += ["--port", str(port), "--cert", str(folder / "bridge.pem")]
        command += ["--key", str(folder / "bridge.key"), "--device-ca", str(pki.device_ca)]
        command += ["--requests-per-second", "1000000", "--plain-port", "0"]
        command += ["--renewal-port", "0"]
        command += ["--dtls", "DTLSv1.3", "DTLSv1.2"]
        with _process(command, said) as bridge:
            until(lambda: "coap.offered" in said.read_text(), within=30, describe="it listens")
            yield Server("fleetcert", port, bridge.pid, transports, codes.POST)


@contextlib.contextmanager
def _libcoap(folder: Path, pki: Authorities, transports: tuple[str, ...]) -> Iterator[Server]:
    """Run libcoap's server: it makes the resource at its first PUT; TLS is at the next port."""
    (port,) = free_ports(1)
    command = ["coap-server-openssl", "-d", "10", "-n", "-p", str(port - 1), "-A", "127.0.0.1"]
    command += ["-c", str(folder / "bridge.pem"), "-j", str(folder / "bridge.key")]
    command += ["-C", str(pki.device_ca)]
    with _process(command, folder / "libcoap.log") as server:
        until(lambda: listens(port), within=10, describe="libcoap's server listens")
        spoken = tuple(one for one in transports if one != "DTLS 1.3")
        yield Server("libcoap", port, server.pid, spoken, codes.PUT)


@contextlib.contextmanager
def _process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as written:
        running = subprocess.Popen(command, stdout=written, stderr=written)
    try:
        yield running
    finally:
        running.terminate()
        running.wait()


SERVERS = {"fleetcert": _bridge, "libcoap": _libcoap}


def main() -> None:
    """Start Kafka and a bridge, and its peer, and measure each transport of both in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--sessions", type=int, nargs="*", default=[1, 50, 500])
    parser.add_argument("--transports", nargs="*", default=TRANSPORTS, choices=TRANSPORTS)
    parser.add_argument("--servers", nargs="*", default=[*SERVERS], choices=SERVERS)
    options = parser.parse_args()
    multiprocessing.set_start_method("spawn")
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as running:
        folder = Path(scratch)
        pki = Authorities(folder)
        servers = [
            running.enter_context(SERVERS[one](folder, pki, tuple(options.transports)))
            for one in options.servers
        ]
        for transport in options.transports:
            for sessions in options.sessions:
                for server in servers:
                    if transport in server.transports:
                        measure(server, transport, sessions, options.seconds, pki)


if __name__ == "__main__":
    main()
