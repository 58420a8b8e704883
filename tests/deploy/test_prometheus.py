"""Prometheus' configuration and rules, checked by its own promtool."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from client.local.layout import Layout
from tests.helpers.promql import DEPLOY, RULES, known, named, recorded, rules

HERE = DEPLOY / "prometheus"
ROOT = DEPLOY.parent
ALERTS = [one for one in rules(HERE / "alerts.yml")]
TESTS = HERE / "tests.yml"


def promtool(*words: object) -> None:
    """Run promtool, and show what it complains about."""
    done = subprocess.run(
        ["promtool", *map(str, words)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def targets(path: Path) -> dict[str, list[str]]:
    """Return the targets of a file by job."""
    return {one["labels"]["job"]: one["targets"] for one in yaml.safe_load(path.read_text())}


def test_the_configuration_is_valid() -> None:
    """With every file that it names."""
    promtool("check", "config", HERE / "prometheus.yml")
    promtool("check", "rules", *RULES)


def test_every_alert_fires_when_it_must_and_only_then() -> None:
    """By made series: deploy/prometheus/tests.yml."""
    promtool("test", "rules", TESTS)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda one: one["alert"])
def test_an_alert_is_tested_both_ways_and_explained(alert: dict[str, Any]) -> None:
    """It is seen firing and quiet, has a severity, a summary, and a section of what to do."""
    asked = [
        one
        for group in yaml.safe_load(TESTS.read_text())["tests"]
        for one in group.get("alert_rule_test", ())
        if one["alertname"] == alert["alert"]
    ]
    assert {bool(one.get("exp_alerts")) for one in asked} == {True, False}
    assert alert["labels"]["severity"] in ("warning", "critical")
    assert alert["annotations"]["summary"].endswith(".")
    page, _, anchor = alert["annotations"]["runbook"].partition("#")
    headings = [line.removeprefix("### ") for line in (ROOT / page).read_text().splitlines()]
    assert alert["alert"] in headings
    assert anchor == alert["alert"].lower()


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_rules_name_what_there_is(path: Path) -> None:
    """Every metric of an expression is in the catalogue, or recorded by a rule."""
    for one in rules(path):
        names = named(one["expr"])
        assert names or one.get("alert") == "ProcessAway", one
        assert names <= known(), one


def test_every_recorded_name_is_used_or_tested() -> None:
    """A rule that nobody asks for would be work for nothing."""
    asked = set()
    for path in (*RULES, TESTS, *sorted((DEPLOY / "grafana").rglob("*.json"))):
        text = path.read_text()
        asked |= {one for one in recorded() if text.count(one) > (path == RULES[0])}
    assert asked == recorded()


def test_the_targets_are_the_stacks() -> None:
    """The local stack's default ports; in containers, the services that answer metrics."""
    first = Layout().metrics_port
    found = targets(HERE / "targets.yml")
    assert found["issuer"] == [f"127.0.0.1:{first}"]
    assert found["supervisor"] == [f"127.0.0.1:{Layout().supervisor_port}"]
    named_ports = {int(one.rsplit(":", 1)[1]) for every in found.values() for one in every}
    offered = {port for name, (port, _) in Layout().ports().items() if "metrics" in name}
    assert named_ports == offered
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    serving = {name for name, one in compose.items() if "--metrics-port" in one.get("command", ())}
    hosts = {one for every in targets(HERE / "targets.containers.yml").values() for one in every}
    assert hosts == {f"{name}:9460" for name in serving}
