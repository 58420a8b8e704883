"""The CoAP bridge's speed: `python -m benchmarks.coap [--seconds N] [--sessions N ...]`.

A bridge process with a real Kafka; clients in processes of their own, each session with one request
of 200 bytes at a time, answered after Kafka has it. Prints requests per second, the bridge's CPU
seconds per million requests, and its memory per session.
"""

import argparse
import asyncio
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from aiocoap.numbers import codes

from client.local import topics
from client.local.ports import free_ports
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


async def _tcp(port: int, identity: Identity, ca: Path) -> Session:
    opened = await asyncio.open_connection(
        "127.0.0.1", port, ssl=tls(ca, identity), server_hostname="localhost"
    )
    peer = Peer(*opened)
    peer.say(SETTINGS)
    await peer.hear()

    async def ask(sequence: int) -> codes.Code:
        peer.say(event(sequence.to_bytes(4, "big"), sequence, 160))
        return (await peer.hear()).code

    return ask


async def _udp(port: int, identity: Identity, version: str) -> Session:
    loop = asyncio.get_running_loop()
    one = Client(association(version, identity))
    one.transport, _ = await loop.create_datagram_endpoint(
        lambda: one, remote_addr=("127.0.0.1", port)
    )
    one.again_seconds = PATIENCE_SECONDS
    one.begin()
    await one.connected

    async def ask(sequence: int) -> codes.Code:
        one.sent.clear()
        return (await one.ask(codes.POST, "events/heat", BODY % sequence, content_format=50)).code

    return ask


async def _talk(ask: Session, ends: float) -> int:
    sequence = 0
    while time.monotonic() < ends:
        sequence += 1
        answered = await ask(sequence)
        assert answered == codes.CHANGED, answered
    return sequence


async def _load(
    pipe: Connection, transport: str, port: int, who: list[Identity], ca: Path, seconds: float
) -> int:
    if transport == "coaps+tcp":
        opened = [await _tcp(port, one, ca) for one in who]
    else:
        opened = [await _udp(port, one, transport[-3:]) for one in who]
    pipe.send("ready")
    await asyncio.to_thread(pipe.recv)
    ends = time.monotonic() + seconds
    return sum(await asyncio.gather(*(_talk(one, ends) for one in opened)))


def _client(pipe: Connection, *arguments: Any) -> None:
    pipe.send(asyncio.run(_load(pipe, *arguments)))


def _usage(pid: int) -> tuple[float, int]:
    """Return CPU seconds and resident bytes of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    ticks = int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK"), int(fields[21]) * os.sysconf("SC_PAGE_SIZE")


def measure(
    transport: str, sessions: int, seconds: float, port: int, pid: int, pki: Authorities
) -> None:
    """Run one load and print its line."""
    who = [pki.device(f"bench-{number}") for number in range(sessions)]
    _, empty = _usage(pid)
    running = []
    for number in range(min(PROCESSES, sessions)):
        here, there = multiprocessing.Pipe()
        arguments = (there, transport, port, who[number::PROCESSES], pki.service_ca, seconds)
        process = multiprocessing.Process(target=_client, args=arguments)
        process.start()
        running.append((process, here))
    assert {here.recv() for _, here in running} == {"ready"}
    cpu, memory = _usage(pid)
    for _, here in running:
        here.send("go")
    total = sum(here.recv() for _, here in running)
    spent, _ = _usage(pid)
    for process, _ in running:
        process.join()
    print(
        f"{transport:10} {sessions:6} sessions {total / seconds:8.0f} requests/s "
        f"{1e6 * (spent - cpu) / total:7.1f} CPU s per million "
        f"{(memory - empty) / sessions / 1024:7.1f} KiB per open session",
        flush=True,
    )


def main() -> None:
    """Start Kafka and a bridge, and measure each transport."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--sessions", type=int, nargs="*", default=[1, 50, 500])
    parser.add_argument("--transports", nargs="*", default=TRANSPORTS, choices=TRANSPORTS)
    options = parser.parse_args()
    multiprocessing.set_start_method("spawn")
    with tempfile.TemporaryDirectory() as scratch:
        folder, (port,) = Path(scratch), free_ports(1)
        (folder / "kafka").mkdir()
        pki = Authorities(folder)
        with kafka_broker(folder / "kafka") as kafka:
            topics.create_topics(Cluster(kafka.bootstrap), 2)
            command = [sys.executable, "-m", "bridges", "coap", "--bootstrap", kafka.bootstrap]
            command += ["--port", str(port), "--cert", str(folder / "bridge.pem")]
            command += ["--key", str(folder / "bridge.key"), "--device-ca", str(pki.device_ca)]
            command += ["--requests-per-second", "1000000", "--plain-port", "0"]
            command += ["--renewal-port", "0"]
            command += ["--dtls", "DTLSv1.3", "DTLSv1.2"]
            with (folder / "bridge.log").open("wb") as log:
                bridge = subprocess.Popen(command, stderr=log)
            try:
                said = folder / "bridge.log"
                until(lambda: "coap.offered" in said.read_text(), within=30, describe="it listens")
                for transport in options.transports:
                    for sessions in options.sessions:
                        measure(transport, sessions, options.seconds, port, bridge.pid, pki)
            finally:
                bridge.terminate()
                bridge.wait()


if __name__ == "__main__":
    main()
