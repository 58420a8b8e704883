"""The documents name what the code has."""

import re
from pathlib import Path

import pytest
import typer

from client.alerts import ROTATION_ABANDONED
from client.cli import app
from schemas.reasons import Reason
from streams.core import anomaly

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
METERS = ("streams/meter.py", "bridges/meter.py", "pki/meter.py", "client/local/meter.py")
METRIC = re.compile(r"(?:Counter|Gauge|Histogram)\(\s*\"(\w+)\"")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
FILE = re.compile(r"`?((?:tests|client|streams|bridges|pki|schemas|device)/[\w/]+\.py)`?")
COMMAND = re.compile(r"fleetcert ((?:[a-z]+ ?)+)")


@pytest.mark.parametrize("path", METERS)
def test_every_metric_is_explained(path: str) -> None:
    """An operator finds each of our metrics in docs/operations.md."""
    names = METRIC.findall((ROOT / path).read_text())
    assert names
    assert [one for one in names if f"`{one}`" not in OPERATIONS] == []


def test_every_alert_says_what_to_do() -> None:
    """An operator finds each alert that the machine can raise."""
    rules = [one.reason.value for one in anomaly.RULES]
    others = [Reason.SILENT.value, Reason.DOOR_AWAY.value, Reason.EXPIRED.value]
    for name in (*rules, *others, ROTATION_ABANDONED):
        assert f"`{name}`" in OPERATIONS, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_named_exists(page: Path) -> None:
    """Links and paths of a page lead somewhere."""
    text = page.read_text()
    for name in LINK.findall(text):
        assert (page.parent / name).exists(), name
    for name in FILE.findall(text):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_is_shown_exists(page: Path) -> None:
    """Whatever stands behind `fleetcert` in a page is a command of it."""
    groups = typer.main.get_group(app).commands
    for words in COMMAND.findall(page.read_text()):
        first, *rest = words.split()
        if first not in groups:
            continue  # prose: "fleetcert keeps the certificates"
        below = getattr(groups[first], "commands", None)
        if below is not None:
            assert rest, words
            assert rest[0] in below, words


def test_every_make_target_that_is_shown_exists() -> None:
    """`make demo` and the others are in the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        shown = re.findall(r"`make ([a-z]+)|^make ([a-z]+)", page.read_text(), re.MULTILINE)
        assert {one for pair in shown for one in pair if one} <= targets, page.name
