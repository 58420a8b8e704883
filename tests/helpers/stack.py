"""A whole local stack for tests, started, watched and stopped through the command line."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.fleet import Fleet
from client.local import supervisor
from client.local.layout import Layout
from client.local.ports import on_free_ports
from configuration.cluster import Cluster
from configuration.load import load
from pki import authority
from schemas.states import Policy
from tests.helpers.wait import until

START_SECONDS = 90.0
STOP_SECONDS = 60.0
ACTIVE_SECONDS = 20.0


@dataclass(frozen=True)
class RunningStack:
    """A stack that runs, and ways to look at it and to hurt it."""

    layout: Layout

    @property
    def fleet(self) -> Fleet:
        """A client of this stack."""
        return Fleet(self.cluster, actor="tests")

    @property
    def cluster(self) -> Cluster:
        """The stack's Kafka, as its processes reach it."""
        held = load(self.layout.configuration_file, environment={}).configuration
        named = held.kafka.bootstrap is not None
        return held.cluster if named else held.cluster.at(self.layout.bootstrap)

    @property
    def authorities(self) -> authority.Authority:
        """The authorities of this stack."""
        return authority.load(self.layout.pki_dir)

    def processes(self) -> dict[str, dict[str, Any]]:
        """What the supervisor says of each process, by name."""
        found: Any = supervisor.status(self.layout).get("processes", [])
        return {one["name"]: one for one in found}

    def all_run(self) -> bool:
        """Tell whether the whole stack has started and every process is ready."""
        if not supervisor.status(self.layout).get("ready"):
            return False
        states = [one["state"] for one in self.processes().values()]
        return bool(states) and set(states) == {supervisor.RUNNING}

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to one process."""
        pid = self.processes()[name]["pid"]
        if pid:
            os.kill(pid, number)

    @contextlib.contextmanager
    def under(self, policy: Policy) -> Iterator[None]:
        """Let a policy hold in every partition for the time of the block."""
        usual = self.fleet.partition_row(0).policy
        self._activate(policy)
        try:
            yield
        finally:
            self._activate(usual)

    def _activate(self, policy: Policy) -> None:
        self.fleet.activate(policy)
        numbers = range(self.layout.partitions)
        until(
            lambda: all(self.fleet.partition_row(one).policy == policy for one in numbers),
            within=ACTIVE_SECONDS,
            describe="the policy is active",
        )

    def seen_inside(self, path: Path) -> Path:
        """Return where a path of the stack is, whose mount namespace may be its own."""
        pid = supervisor.status(self.layout)["pid"]
        return Path(f"/proc/{pid}/root") / path.resolve().relative_to("/")

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `fleetcert` against this stack."""
        return subprocess.run(
            [sys.executable, "-m", "client.cli", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=os.environ
            | {
                "FLEETCERT_CONFIG": str(self.layout.configuration_file),
                "FLEETCERT_KAFKA_BOOTSTRAP": self.cluster.bootstrap,
                "FLEETCERT_STACK_DATA_DIR": str(self.layout.data_dir),
                "COLUMNS": "160",
            },
        )

    def json(self, *arguments: str) -> list[Any]:
        """Run `fleetcert` and return the JSON documents it prints."""
        done = self.command(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


@contextlib.contextmanager
def running_stack(
    directory: Path,
    partitions: int = 2,
    volumes: Mapping[str, int] | None = None,
    config: Path | None = None,
) -> Iterator[RunningStack]:
    """Start a stack on free ports; stop it at the end and see that it ended well.

    What `config` says holds, but for the ports.

    `volumes` are folders of the stack that are volumes of so many MiB, see `seen_inside`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    layout = on_free_ports(Layout(data_dir=directory, partitions=partitions))
    log = (directory / "supervisor.log").open("ab")
    command = _command(layout) + (["--config", str(config)] if config else [])
    if volumes:
        command = _on_volumes({directory / name: mib for name, mib in volumes.items()}, command)
    running = subprocess.Popen(command, stdout=log, stderr=log)
    stack = RunningStack(layout)
    try:
        until(
            lambda: stack.all_run() or running.poll() is not None,
            within=START_SECONDS,
            describe="the stack is up",
        )
        assert running.poll() is None, (directory / "supervisor.log").read_text()
        yield stack
    finally:
        running.send_signal(signal.SIGTERM)
        code = running.wait(STOP_SECONDS)
        log.close()
    assert code == 0, (directory / "supervisor.log").read_text()


def _on_volumes(volumes: Mapping[Path, int], command: list[str]) -> list[str]:
    """Return the command that runs in a mount namespace with volumes of its own; no root."""
    words = []
    for path, mib in volumes.items():
        path.mkdir(parents=True)
        words += [str(mib), str(path.resolve())]
    mount = 'mount -t tmpfs -o size="$1"m fleetcert "$2"; shift 2'
    script = f'while [ "$1" != -- ]; do {mount}; done; shift; exec "$@"'
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    return [*namespace, "sh", "-ec", script, "sh", *words, "--", *command]


def _command(layout: Layout) -> list[str]:
    options = {
        "--data-dir": layout.data_dir,
        "--kafka-port": layout.kafka_port,
        "--controller-port": layout.controller_port,
        "--device-port": layout.device_port,
        "--service-port": layout.service_port,
        "--coap-port": layout.coap_port,
        "--coap-plain-port": layout.coap_plain_port,
        "--coap-renewal-port": layout.coap_renewal_port,
        "--est-port": layout.est_port,
        "--metrics-port": layout.metrics_port,
        "--partitions": layout.partitions,
    }
    words = [str(word) for pair in options.items() for word in pair]
    return [sys.executable, "-m", "client.cli", "up", *words]
