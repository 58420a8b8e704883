"""The documents name what the code has."""

import io
import re
from pathlib import Path

import pytest
import typer

from client import bulk, campaign_spec
from client.alerts import ROTATION_ABANDONED
from client.cli import app
from schemas.metrics import METRICS
from schemas.reasons import Reason
from streams.core import anomaly, campaign

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
METRIC = re.compile(r"`((?:fleet|stream|mqtt|coap|bridge|est|issuer|stack|cert|devices)_[a-z_]+)`")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
FILE = re.compile(r"`?((?:tests|client|streams|bridges|pki|schemas|device)/[\w/]+\.py)`?")
COMMAND = re.compile(r"fleetcert ((?:[a-z]+ ?)+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_metric_that_is_named_exists(page: Path) -> None:
    """What looks like a metric in a page is one."""
    known = {one.name for one in METRICS}
    assert set(METRIC.findall(page.read_text())) <= known


def test_an_operator_is_told_what_to_watch() -> None:
    """Of each kind of process something stands in docs/operations.md."""
    told = set(METRIC.findall(OPERATIONS))
    shown = {process for one in METRICS if one.name in told for process in one.process}
    assert shown == {"worker", "mqtt bridge", "coap bridge", "est door", "issuer", "supervisor"}


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


def test_the_campaign_that_is_shown_is_one() -> None:
    """The specification of docs/campaigns.md is taken; digests are cut there."""
    (shown,) = re.findall(r"```json\n(.*?)```", (ROOT / "docs" / "campaigns.md").read_text(), re.S)
    spec = campaign_spec.parse(shown.replace("9f86…", "9f86" * 16).replace("3045…", "3045"), 0)
    assert campaign.objection("fw-2.1", spec, None) == ""


def test_the_devices_that_are_shown_can_be_imported() -> None:
    """The JSON of docs/registry.md is known as such, and read as one device."""
    (shown,) = re.findall(r"```json\n(.*?)```", (ROOT / "docs" / "registry.md").read_text(), re.S)
    assert bulk.form_of("devices", shown) == "json"
    (row,) = bulk.rows(io.StringIO(shown), "json")
    assert row.document["id"] == "pump-7"


def test_every_make_target_that_is_shown_exists() -> None:
    """`make demo` and the others are in the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        shown = re.findall(r"`make ([a-z]+)|^make ([a-z]+)", page.read_text(), re.MULTILINE)
        assert {one for pair in shown for one in pair if one} <= targets, page.name


def test_every_decision_has_a_number_of_its_own() -> None:
    """A decision is quoted by its number: in its name and its title, and of no other."""
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    numbers = [page.name[:4] for page in decisions]
    assert len(set(numbers)) == len(numbers), numbers
    for page, number in zip(decisions, numbers, strict=True):
        assert page.read_text().startswith(f"# {number} "), page.name
