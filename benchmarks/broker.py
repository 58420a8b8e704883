"""A Kafka of its own for benchmarks, on free ports, its data in a temporary folder."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from client.local import kafka, launch
from configuration.cluster import Cluster

TOOLS = Path("var/tools")
READY_SECONDS = 60.0


@contextlib.contextmanager
def broker() -> Iterator[tuple[str, int]]:
    """Run a broker; yield its bootstrap address and its process id."""
    with (
        tempfile.TemporaryDirectory(prefix="fleetcert-bench-") as folder,
        _ports() as (port, other),
    ):
        libs, data = kafka.install(TOOLS), Path(folder) / "data"
        properties = kafka.configure(port, other, data, Path(folder) / "server.properties")
        kafka.format_storage(libs, properties, data)
        command = [sys.executable, launch.__file__, str(os.getpid())]
        process = subprocess.Popen(
            [*command, *kafka.command(libs, properties)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        bootstrap = f"127.0.0.1:{port}"
        try:
            if not kafka.ready(Cluster(bootstrap), time.monotonic() + READY_SECONDS):
                raise SystemExit("Kafka did not start; try `fleetcert doctor`")
            yield bootstrap, process.pid
        finally:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _ports() -> Iterator[tuple[int, int]]:
    """Yield two ports that were free a moment ago."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        found = one.getsockname()[1], other.getsockname()[1]
    yield found
