"""The CoAP bridge's speed: `python -m benchmarks.coap [--seconds N] [--sessions N ...]`.

Bridge processes with a real Kafka; each session has one request of 200 bytes at a time, answered
after Kafka has it. Prints requests per second, the server's CPU seconds per million requests, and
its memory per session; then how long it takes until all observers of `/commands` are told of one
each. Beside it in the same run libcoap's server in C (Debian: libcoap3-bin), which keeps the last
body in memory, looks at no client's certificate and speaks no DTLS 1.3: what the protocol alone
costs. `two` are two bridge processes that share a port (SO_REUSEPORT).

The clients of coaps+tcp and of plain discovery are in Go, so that they leave the cores to the
server; DTLS 1.3 is spoken by no library of Go, its clients are processes in Python.
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
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from aiocoap.numbers import codes
from confluent_kafka import Producer

from benchmarks.rig import cpu_seconds, go, go_program, line
from client.local import topics
from client.local.ports import free_ports
from client.local.processes import listens
from configuration.cluster import Cluster
from schemas import codec
from schemas.commands import InstallCertificate
from schemas.topics import DEVICE_COMMANDS, PARTITIONER
from tests.coap.client import Client, association
from tests.coap.rig import Authorities, Identity
from tests.helpers.kafka import kafka_broker
from tests.helpers.wait import until

PLAIN, TCP = "plain", "coaps+tcp"
TRANSPORTS = (PLAIN, TCP, "DTLS 1.3", "DTLS 1.2")
BODY_BYTES = 160
BODY = b'{"boot": 1, "sequence": %d, "body": "' + b"x" * BODY_BYTES + b'"}'
Session = Callable[[int], Awaitable[codes.Code]]
PROCESSES = 2
PATIENCE_SECONDS = 10.0
"""Nothing is lost here: a slow answer is not asked for again."""
OPEN_SECONDS = 180.0
"""For all handshakes of a run."""
HOUR_MS = 3_600_000


@dataclass(frozen=True)
class Server:
    """A server that is measured: where it listens, what it speaks, how a body is given to it."""

    name: str
    port: int
    plain_port: int
    pids: tuple[int, ...]
    transports: tuple[str, ...]
    method: codes.Code
    bootstrap: str = ""
    """Of the Kafka behind it, where there is one."""

    def usage(self) -> tuple[float, int]:
        """Return CPU seconds and resident bytes of its processes."""
        return sum(map(cpu_seconds, self.pids)), sum(map(_resident, self.pids))


def _resident(pid: int) -> int:
    """Return the resident bytes of a process."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Load:
    """What one process of clients over DTLS does."""

    transport: str
    port: int
    method: codes.Code
    who: list[Identity]
    seconds: float


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
    opened = [await _udp(load, one) for one in load.who]
    pipe.send("ready")
    await asyncio.to_thread(pipe.recv)
    ends = time.monotonic() + load.seconds
    return sum(await asyncio.gather(*(_talk(one, ends) for one in opened)))


def _client(pipe: Connection, load: Load) -> None:
    pipe.send(asyncio.run(_load(pipe, load)))


@dataclass(frozen=True)
class Bench:
    """What the runs have in common."""

    folder: Path
    pki: Authorities
    seconds: float
    made: list[Identity] = field(default_factory=list)

    def devices(self, count: int) -> list[Identity]:
        """Return certificates of so many devices."""
        missing = range(len(self.made), count)
        self.made.extend(self.pki.device(_name(number)) for number in missing)
        return self.made[:count]

    def ask(self, server: Server, transport: str, sessions: int) -> None:
        """Run one load and print its line."""
        who = self.devices(0 if transport == PLAIN else sessions)
        _, empty = server.usage()
        opened = self._python if transport.startswith("DTLS") else self._go
        begins = f"{server.name:9} {transport:9} {sessions:6} sessions "
        try:
            with opened(server, transport, sessions, who) as run:
                cpu, memory = server.usage()
                total = run()
                spent, _ = server.usage()
        except TimeoutError as error:
            print(f"{begins} {error}", flush=True)
            return
        print(
            f"{begins}{total / self.seconds:8.0f} requests/s "
            f"{1e6 * (spent - cpu) / total:7.1f} CPU s per million "
            f"{(memory - empty) / sessions / 1024:7.1f} KiB per open session",
            flush=True,
        )

    def tell(self, server: Server, count: int) -> None:
        """Let so many devices observe, write a command for each, and print when all were told."""
        who = self.devices(count)
        with self._loading(server, TCP, "observe", who, {}) as load:
            cpu, _ = server.usage()
            go(load)
            _command_all(server.bootstrap, [_name(number) for number in range(count)])
            seconds = float(line(load))
            spent, _ = server.usage()
        print(
            f"{server.name:9} {TCP:9} {count:6} observers told in {seconds:6.2f} s, "
            f"{1e6 * (spent - cpu) / count:7.1f} CPU s per million",
            flush=True,
        )

    @contextlib.contextmanager
    def _go(
        self, server: Server, transport: str, sessions: int, who: list[Identity]
    ) -> Iterator[Callable[[], int]]:
        kind = "discovery" if transport == PLAIN else "coap"
        options = {
            "n": sessions,
            "seconds": self.seconds,
            "method": server.method.name,
            "size": BODY_BYTES,
        }
        with self._loading(server, transport, kind, who, options) as load:

            def run() -> int:
                go(load)
                return int(line(load))

            yield run

    @contextlib.contextmanager
    def _loading(
        self,
        server: Server,
        transport: str,
        kind: str,
        who: list[Identity],
        options: Mapping[str, object],
    ) -> Iterator[subprocess.Popen[str]]:
        """Run the load generator; its sessions are open."""
        listed = self.folder / "load.csv"
        listed.write_text(
            "".join(
                f"{_name(number)},{one.certificate_file},{one.key_file}\n"
                for number, one in enumerate(who)
            )
        )
        port = server.plain_port if transport == PLAIN else server.port
        command = [str(go_program("load")), kind, f"-ca={self.pki.service_ca}"]
        command += [f"-addr=127.0.0.1:{port}", f"-devices={listed}"]
        command += [f"-{key}={value}" for key, value in options.items()]
        load = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        try:
            assert line(load) == "ready"
            yield load
        finally:
            load.kill()
            load.wait()

    @contextlib.contextmanager
    def _python(
        self, server: Server, transport: str, sessions: int, who: list[Identity]
    ) -> Iterator[Callable[[], int]]:
        pipes, running = [], []
        for number in range(min(PROCESSES, sessions)):
            here, there = multiprocessing.Pipe()
            some = who[number::PROCESSES]
            load = Load(transport, server.port, server.method, some, self.seconds)
            process = multiprocessing.Process(target=_client, args=(there, load))
            process.start()
            running.append(process)
            pipes.append(here)

        def run() -> int:
            for here in pipes:
                here.send("go")
            return sum(here.recv() for here in pipes)

        try:
            deadline = time.monotonic() + OPEN_SECONDS
            if not all(here.poll(deadline - time.monotonic()) for here in pipes):
                raise TimeoutError(f"{sessions} sessions are not open in {OPEN_SECONDS:.0f} s")
            assert {here.recv() for here in pipes} == {"ready"}
            yield run
        finally:
            for process in running:
                process.kill()
                process.join()


def _name(number: int) -> str:
    return f"bench-{number}"


def _command_all(bootstrap: str, devices: list[str]) -> None:
    """Write a command for each device."""
    producer = Producer({"bootstrap.servers": bootstrap, "partitioner": PARTITIONER})
    now = time.time_ns() // 1_000_000
    for one in devices:
        command = InstallCertificate(f"told-{one}", one, 1, now, now + HOUR_MS, bytes(500))
        producer.produce(DEVICE_COMMANDS, codec.encode(command), one)
    assert producer.flush(PATIENCE_SECONDS) == 0


@contextlib.contextmanager
def _bridges(
    folder: Path, pki: Authorities, transports: tuple[str, ...], count: int, name: str
) -> Iterator[Server]:
    """Run bridge processes that share their port, with a real Kafka."""
    port, plain = free_ports(2)
    with contextlib.ExitStack() as running:
        (folder / name).mkdir()
        kafka = running.enter_context(kafka_broker(folder / name))
        topics.create_topics(Cluster(kafka.bootstrap), 2)
        command = [sys.executable, "-m", "bridges", "coap", "--bootstrap", kafka.bootstrap]
        command += ["--port", str(port), "--cert", str(folder / "bridge.pem")]
        command += ["--key", str(folder / "bridge.key"), "--device-ca", str(pki.device_ca)]
        command += ["--requests-per-second", "1000000", "--plain-port", str(plain)]
        command += ["--renewal-port", "0", "--dtls", "DTLSv1.3", "DTLSv1.2"]
        command += ["--sessions-max", "10000"] + (["--shared"] if count > 1 else [])
        pids = []
        for number in range(count):
            said = folder / f"{name}-{number}.log"
            own = [*command, "--client-id", f"{name}-{number}"]
            pids.append(running.enter_context(_process(own, said)).pid)
            until(
                lambda: "coap.offered" in said.read_text(),  # noqa: B023 - it has run by then
                within=30,
                describe="it listens",
            )
        yield Server(name, port, plain, tuple(pids), transports, codes.POST, kafka.bootstrap)


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
        yield Server("libcoap", port, port - 1, (server.pid,), spoken, codes.PUT)


@contextlib.contextmanager
def _process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as written:
        running = subprocess.Popen(command, stdout=written, stderr=written)
    try:
        yield running
    finally:
        running.terminate()
        running.wait()


SERVERS: dict[str, Callable[..., contextlib.AbstractContextManager[Server]]] = {
    "fleetcert": partial(_bridges, count=1, name="fleetcert"),
    "libcoap": _libcoap,
    "two": partial(_bridges, count=2, name="two"),
}


def main() -> None:
    """Start each server, and measure each transport of all in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--sessions", type=int, nargs="*", default=[1, 50, 500, 5_000])
    parser.add_argument("--observers", type=int, nargs="*", default=[5_000])
    parser.add_argument("--transports", nargs="*", default=TRANSPORTS, choices=TRANSPORTS)
    parser.add_argument("--servers", nargs="*", default=["fleetcert", "libcoap"], choices=SERVERS)
    options = parser.parse_args()
    multiprocessing.set_start_method("spawn")
    go_program("load")
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as running:
        folder = Path(scratch)
        bench = Bench(folder, Authorities(folder), options.seconds)
        servers = [
            running.enter_context(SERVERS[one](folder, bench.pki, tuple(options.transports)))
            for one in options.servers
        ]
        for transport in options.transports:
            for sessions in options.sessions:
                for server in servers:
                    if transport in server.transports:
                        bench.ask(server, transport, sessions)
        for count in options.observers if TCP in options.transports else ():
            for server in servers:
                if server.bootstrap:
                    bench.tell(server, count)


if __name__ == "__main__":
    main()
