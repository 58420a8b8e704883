"""The stack of docker-compose.yml under a project name of its own, on free ports."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from client.fleet import Fleet
from client.local.ports import free_ports

ROOT = Path(__file__).parents[2]
COMMAND_SECONDS = 1_800.0
"""The first `up` builds the images, Rust included."""
SERVICES = ("kafka", "mosquitto", "issuer", "bridge", "coap", "est", "worker")


class Compose:
    """One project: its containers, networks and volumes are nobody else's."""

    def __init__(self, project: str) -> None:
        ports = free_ports(5)
        self.kafka_port, self.mqtt_port, self.coap_port, self.renewal_port, self.est_port = ports
        self._project = project
        self._environment = os.environ | {
            "FLEETCERT_KAFKA_PORT": str(self.kafka_port),
            "FLEETCERT_MQTT_PORT": str(self.mqtt_port),
            "FLEETCERT_MQTT_HOST": "127.0.0.1",
            "FLEETCERT_COAP_PORT": str(self.coap_port),
            "FLEETCERT_COAP_HOST": "127.0.0.1",
            "FLEETCERT_COAP_RENEWAL_PORT": str(self.renewal_port),
            "FLEETCERT_EST_PORT": str(self.est_port),
            "FLEETCERT_EST_HOST": "127.0.0.1",
        }

    @property
    def fleet(self) -> Fleet:
        """A client on this machine, through the published port."""
        return Fleet(f"127.0.0.1:{self.kafka_port}", actor="tests")

    def run(self, *arguments: str, input: str = "") -> str:
        """Run `docker compose`; return what it prints. It has to succeed."""
        done = subprocess.run(
            ["docker", "compose", "--project-name", self._project, *arguments],
            cwd=ROOT,
            env=self._environment,
            input=input,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def up(self) -> None:
        """Build what changed, start everything, wait until all is healthy."""
        self.run("up", "--detach", "--build", "--wait", "--quiet-pull")

    def operator(self, *command: str, input: str = "") -> str:
        """Run a command where the authorities are."""
        return self.run("run", "--rm", "--no-deps", "-T", "operator", *command, input=input)

    def processes(self) -> dict[str, dict[str, Any]]:
        """What the engine says of each service, ended ones too."""
        lines = self.run("ps", "--all", "--format", "json").splitlines()
        found = [json.loads(line) for line in lines]
        return {one["Service"]: one for one in found}

    def remove(self) -> None:
        """Remove containers, networks and volumes."""
        self.run("down", "--volumes", "--remove-orphans", "--timeout", "5")
