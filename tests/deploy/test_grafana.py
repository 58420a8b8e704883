"""Grafana's dashboards as files: they name what there is, and nothing lies over anything else."""

import json
import re
import subprocess
from itertools import combinations
from pathlib import Path

import pytest
import yaml

from schemas.metrics import METRICS
from tests.helpers.promql import DASHBOARDS, as_grafana_sends, asked, known, named, panels

PROVISIONING = DASHBOARDS[0].parents[1] / "provisioning"
ELSEWHERE = {"up", "process_resident_memory_bytes", "process_cpu_seconds_total"}
each_dashboard = pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)


@each_dashboard
def test_every_query_is_promql(path: Path, tmp_path: Path) -> None:
    """Prometheus' own parser takes each of them, as Grafana sends it."""
    rules = [
        {"record": f"a:{number}", "expr": as_grafana_sends(expression, "pumps|_other", "1m")}
        for number, (_, expression) in enumerate(asked(path))
    ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": path.stem, "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@each_dashboard
def test_a_dashboard_names_what_there_is(path: Path) -> None:
    """Each query names a metric of the catalogue, or one that a rule records."""
    for title, expression in asked(path):
        names = named(expression)
        assert names or any(one in expression for one in ELSEWHERE), title
        assert names <= known(), title


@each_dashboard
def test_panels_lie_side_by_side(path: Path) -> None:
    """Within 24 columns, none over another; each has an id and a title of its own."""
    dashboard = json.loads(path.read_text())
    places = [one["gridPos"] for one in dashboard["panels"]]
    for one in places:
        assert one["x"] + one["w"] <= 24
    for a, b in combinations(places, 2):
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart, (a, b)
    ids = [one["id"] for one in dashboard["panels"]]
    titles = [one["title"] for one in panels(path)]
    assert len(set(ids)) == len(ids)
    assert len(set(titles)) == len(titles)
    assert {one["datasource"]["uid"] for one in panels(path)} == {"${datasource}"}


def test_the_dashboards_are_three_and_known_by_their_uids() -> None:
    """Grafana takes a file again by its uid: two with the same one would replace each other."""
    uids = [json.loads(path.read_text())["uid"] for path in DASHBOARDS]
    assert sorted(uids) == ["fleetcert-certificates", "fleetcert-fleets", "fleetcert-pipeline"]


def test_the_promised_metrics_are_on_a_dashboard() -> None:
    """What users were promised, they see."""
    shown = {name for path in DASHBOARDS for _, one in asked(path) for name in named(one)}
    shown |= {one.removesuffix(part) for one in shown for part in ("_bucket", "_count", "_sum")}
    recorded_from = {"devices_registered", "devices_connected"}
    missing = {
        one.name
        for one in METRICS
        if one.name.startswith(("fleet_", "cert_", "mqtt_messages", "mqtt_message_size"))
    }
    assert missing - shown - recorded_from == {
        "fleet_results_failed_total",
    }, "recorded as fleet:results_failed:ratio_rate5m"


def test_grafana_is_provisioned_from_files() -> None:
    """One data source, one provider of dashboards; both addresses come from the environment."""
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    assert (source["type"], source["url"]) == ("prometheus", "${PROMETHEUS_URL}")
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "fleetcert.yml").read_text())[
        "providers"
    ]
    assert provider["options"]["path"] == "${DASHBOARDS}"


def test_compose_mounts_what_is_there() -> None:
    """Prometheus and Grafana run only when asked for, with these files, for this machine alone."""
    root = DASHBOARDS[0].parents[3]
    services = yaml.safe_load((root / "docker-compose.yml").read_text())["services"]
    environment = services["grafana"]["environment"]
    for name in ("prometheus", "grafana"):
        one = services[name]
        assert one["profiles"] == ["monitoring"]
        assert re.fullmatch(r".+:v?\d+\.\d+\.\d+", one["image"]), "a version, not latest"
        assert [port.split(":")[0] for port in one["ports"]] == ["127.0.0.1"]
        mounts = dict(part.split(":")[:2] for part in one["volumes"] if part.startswith("./"))
        assert all((root / path).exists() for path in mounts)
        if name == "grafana":
            assert environment["DASHBOARDS"] in mounts.values()
    (port,) = services["prometheus"]["ports"]
    assert environment["PROMETHEUS_URL"] == f"http://prometheus:{port.rsplit(':', 1)[1]}"
