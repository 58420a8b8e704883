"""The help of the command line."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from client.cli import app
from client.errors import FleetError

COMMANDS = (
    "up", "down", "status", "doctor", "pki init", "pki sign", "device register", "device list",
    "device show", "device rotate", "device import", "device tag", "device retire",
    "device replace", "device invite", "device pending", "device approve", "device reject",
    "alerts", "events tail", "events export", "replay",
    "policy show", "policy set", "fleet create", "fleet list", "fleet show", "fleet add",
    "fleet remove", "fleet move", "fleet config", "fleet query", "fleet history", "fleet rollback",
    "fleet forecast", "campaign create", "campaign plan", "campaign list", "campaign show",
    "campaign watch", "campaign pause", "campaign resume", "campaign abort", "campaign gate",
    "snapshot create", "snapshot list", "snapshot verify", "history trim", "core show",
    "core activate", "schemas list", "schemas show", "schemas serve", "schemas push",
    "core activate", "config check", "config show", "config schema",
    "config apply", "kafka acls",
)  # fmt: skip


def shown(*words: str) -> str:
    """Return the help of a command."""
    return CliRunner().invoke(app, [*words, "--help"], prog_name="fleetcert").output


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_has_examples_and_json(words: str) -> None:
    """The help shows how a command is called, and every command can answer in JSON."""
    told = shown(*words.split())
    assert f"fleetcert {words}" in told.partition("Examples:")[2]
    assert "--json" in told


def test_an_example_of_a_pipe_is_one() -> None:
    """What feeds the command is no command of ours."""
    assert " cat devices.jsonl | fleetcert" in shown("device", "import")
    assert "fleetcert cat" not in shown("device", "import")


def test_a_verification_of_nothing_is_no_success(tmp_path: Path) -> None:
    """A folder without a snapshot is told, with what to do: a script must not take it for proof."""
    done = CliRunner().invoke(app, ["snapshot", "verify", "--snapshots", str(tmp_path)])
    assert isinstance(done.exception, FleetError)
    assert "fleetcert snapshot create" in str(done.exception)


def test_the_list_is_whole() -> None:
    """No command is left out of the test above."""
    groups = typer.main.get_group(app).commands
    names = {
        f"{group} {name}".strip()
        for group, command in groups.items()
        for name in getattr(command, "commands", {"": None})
    }
    assert names == set(COMMANDS)


def test_the_exit_codes_are_explained() -> None:
    """What scripts go by stands in the first help."""
    assert "4  a verification found a difference" in shown()
