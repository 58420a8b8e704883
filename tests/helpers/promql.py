"""What is asked of Prometheus in files: expressions, and the metrics that they name."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from schemas.metrics import METRICS

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RULES = (DEPLOY / "prometheus" / "rules.yml", DEPLOY / "prometheus" / "alerts.yml")
WORD = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
OURS = re.compile(r"^(fleet|fleetcert|stream|mqtt|coap|est|bridge|issuer|stack|cert|devices)[_:]")
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
