"""What is asked of Prometheus in files: expressions, and the metrics that they name."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from schemas.metrics import METRICS

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RULES = (DEPLOY / "prometheus" / "rules.yml", DEPLOY / "prometheus" / "alerts.yml")
DASHBOARDS = tuple(sorted((DEPLOY / "grafana" / "dashboards").glob("*.json")))
WORD = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
OURS = re.compile(r"^(fleet|fleetcert|stream|mqtt|coap|est|bridge|issuer|stack|cert|devices)[_:]")
LABEL_VALUES = re.compile(r"label_values\((\w+), (\w+)\)")
PARTS = ("_bucket", "_sum", "_count")


def rules(path: Path) -> Iterator[dict[str, Any]]:
    """Yield every rule of a file."""
    for group in yaml.safe_load(path.read_text())["groups"]:
        yield from group["rules"]


def recorded() -> set[str]:
    """Return the names that the recording rules make."""
    return {one["record"] for path in RULES for one in rules(path) if "record" in one}


def known() -> set[str]:
    """Return every name that a query may use."""
    names = recorded()
    for one in METRICS:
        if one.kind == "histogram":
            names |= {one.name + part for part in PARTS}
        else:
            names.add(one.name)
    return names


def named(expression: str) -> set[str]:
    """Return the metrics that an expression names."""
    words = set(WORD.findall(STRING.sub("", expression)))
    return {one for one in words if OURS.match(one)}


def panels(path: Path) -> Iterator[dict[str, Any]]:
    """Yield every panel of a dashboard that asks for something."""
    for one in json.loads(path.read_text())["panels"]:
        if one["type"] != "row":
            yield one


def asked(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the title and each expression of a dashboard's panels, and those of its variables."""
    for one in panels(path):
        for target in one["targets"]:
            yield one["title"], target["expr"]
    for variable in json.loads(path.read_text())["templating"]["list"]:
        if variable["type"] == "query":
            found = LABEL_VALUES.fullmatch(variable["query"]["query"])
            assert found is not None, variable
            yield f"variable {variable['name']}", f"count by ({found[2]}) ({found[1]})"


def as_grafana_sends(expression: str, fleet: str, interval: str) -> str:
    """Return an expression with its variables replaced, as Grafana does before it asks."""
    replaced = expression.replace("$__rate_interval", interval).replace("$fleet", fleet)
    assert "$" not in replaced, expression
    return replaced
