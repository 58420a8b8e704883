"""A real Prometheus with the rules of deploy/prometheus, on the ports of one stack."""

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import yaml

from client.local.ports import free_ports
from tests.helpers.promql import DEPLOY
from tests.helpers.wait import until

SCRAPE = "1s"
ANSWER_SECONDS = 10.0
STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Prometheus:
    """One that runs."""

    url: str

    def ask(self, path: str, **words: str) -> Any:
        """Return the data of one answer of its API. AssertionError with its words on a refusal."""
        query = urllib.parse.urlencode(words)
        try:
            with urllib.request.urlopen(
                f"{self.url}/api/v1/{path}?{query}", timeout=ANSWER_SECONDS
            ) as answer:
                return json.load(answer)["data"]
        except HTTPError as error:
            raise AssertionError(f"{words}: {error.read().decode()}") from error

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series that an expression gives now."""
        found: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return found

    def value(self, expression: str) -> float:
        """Return the one value of an expression."""
        (only,) = self.query(expression)
        return float(only["value"][1])

    def health(self) -> dict[str, str]:
        """Return `up` or why not, by job."""
        targets = self.ask("targets", state="active")["activeTargets"]
        return {one["labels"]["job"]: one["lastError"] or one["health"] for one in targets}

    def ready(self) -> bool:
        """Tell whether it answers."""
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=ANSWER_SECONDS):
                return True
        except (HTTPError, URLError):
            return False


@contextmanager
def prometheus(directory: Path, targets: Mapping[str, int]) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes ports of this machine, by job, each second."""
    shutil.copytree(DEPLOY / "prometheus", directory, dirs_exist_ok=True)
    configuration = directory / "prometheus.yml"
    settings = yaml.safe_load(configuration.read_text())
    settings["global"] = {"scrape_interval": SCRAPE, "evaluation_interval": SCRAPE}
    configuration.write_text(yaml.safe_dump(settings))
    listed = [
        {"labels": {"job": job}, "targets": [f"127.0.0.1:{port}"]} for job, port in targets.items()
    ]
    (directory / "targets.yml").write_text(yaml.safe_dump(listed))
    (port,) = free_ports(1)
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={configuration}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    running = Prometheus(f"http://127.0.0.1:{port}")
    try:
        until(
            lambda: running.ready() or process.poll() is not None,
            within=30,
            describe="Prometheus answers",
        )
        assert process.poll() is None, (directory / "prometheus.log").read_text()
        yield running
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)
