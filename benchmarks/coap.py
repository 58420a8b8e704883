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
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from aiocoap.numbers import codes

from client.local import topics
from tests.coap.client import Client, association
from tests.coap.rig import Authorities, Identity
from tests.coap.test_tcp import SETTINGS, Peer, event, tls
from tests.helpers.kafka import kafka_process
from tests.helpers.ports import free_ports
from tests.helpers.wait import until

TRANSPORTS = ("coaps+tcp", "DTLS 1.3", "DTLS 1.2")
BODY = b'{"boot": 1, "sequence": %d, "body": "' + b"x" * 160 + b'"}'
WARM_SECONDS = 2.0
PROCESSES = 2


async def _tcp(port: int, identity: Identity, ca: Path, ends: float, done: list[int]) -> None:
    context = tls(ca, identity)
    opened = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname="localhost"
    )
    peer = Peer(*opened)
    peer.say(SETTINGS)
    await peer.hear()
    sequence = 0
    while time.monotonic() < ends:
        sequence += 1
        peer.say(event(sequence.to_bytes(4, "big"), sequence, 160))
        answer = await peer.hear()
        assert answer.code == codes.CHANGED, answer.code
        done[0] += 1
    opened[1].close()


async def _udp(port: int, identity: Identity, version: str, ends: float, done: list[int]) -> None:
    loop = asyncio.get_running_loop()
    one = Client(association(version, identity))
    one.transport, _ = await loop.create_datagram_endpoint(
        lambda: one, remote_addr=("127.0.0.1", port)
    )
    one.begin()
    await one.connected
    sequence = 0
    while time.monotonic() < ends:
        sequence += 1
        answer = await one.ask(codes.POST, "events/heat", BODY % sequence, content_format=50)
        assert answer.code == codes.CHANGED, answer.code
        done[0] += 1
        one.sent.clear()
    await one.close()


async def _load(transport: str, port: int, who: list[Identity], ca: Path, ends: float) -> int:
    done = [0]
    if transport == "coaps+tcp":
        work = [_tcp(port, one, ca, ends, done) for one in who]
    else:
        work = [_udp(port, one, transport[-3:], ends, done) for one in who]
    await asyncio.gather(*work)
    return done[0]


def _client(pipe: Connection, *arguments: Any) -> None:
    pipe.send(asyncio.run(_load(*arguments)))


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
    cpu, memory = _usage(pid)
    began, ends = time.monotonic(), time.monotonic() + WARM_SECONDS + seconds
    running = []
    for number in range(min(PROCESSES, sessions)):
        here, there = multiprocessing.Pipe()
        arguments = (there, transport, port, who[number::PROCESSES], pki.service_ca, ends)
        process = multiprocessing.Process(target=_client, args=arguments)
        process.start()
        running.append((process, here))
    total = sum(here.recv() for _, here in running)
    for process, _ in running:
        process.join()
    spent, held = _usage(pid)
    rate = total / (time.monotonic() - began)
    print(
        f"{transport:10} {sessions:6} sessions {rate:8.0f} requests/s "
        f"{1e6 * (spent - cpu) / total:7.1f} CPU s per million "
        f"{(held - memory) / sessions / 1024:7.1f} KiB per session",
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
        with kafka_process(folder / "kafka") as kafka:
            topics.create_topics(kafka.bootstrap, 2)
            command = [sys.executable, "-m", "bridges", "coap", "--bootstrap", kafka.bootstrap]
            command += ["--port", str(port), "--cert", str(folder / "bridge.pem")]
            command += ["--key", str(folder / "bridge.key"), "--device-ca", str(pki.device_ca)]
            command += ["--requests-per-second", "1000000", "--dtls", "1.3", "1.2"]
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
