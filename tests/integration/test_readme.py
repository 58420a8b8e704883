"""The examples of the README and two pages, run as they stand: only ports are the stack's."""

import os
import re
import select
import subprocess
import sys
from pathlib import Path

import cbor2
import pytest

from client.fleets import Fleets
from schemas.events import DeviceReported
from schemas.topics import DEVICE_EVENTS
from tests.helpers.stack import RunningStack
from tests.helpers.wait import until

README = Path(__file__).parents[2] / "README.md"
CAMPAIGNS = README.parent / "docs" / "campaigns.md"
REGISTRY = README.parent / "docs" / "registry.md"
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)
RUN_SECONDS = 60


def block(stack: RunningStack, language: str, mark: str, page: Path = README) -> str:
    """Return the one block of a language that holds `mark`, with the stack's ports."""
    found = [text for name, text in BLOCK.findall(page.read_text()) if name == language]
    (text,) = [one for one in found if mark in one]
    text = text.replace("127.0.0.1:9092", stack.layout.bootstrap)
    return text.replace("8883", str(stack.layout.device_port))


@pytest.fixture(scope="module")
def home(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that looks as the README's reader has it: `.venv`, `var/stack`, pump-7."""
    home = tmp_path_factory.mktemp("readme")
    (home / ".venv").symlink_to(sys.prefix)
    (home / "var").mkdir()
    (home / "var" / "stack").symlink_to(stack.layout.data_dir.resolve())
    commands = block(stack, "sh", "device adopt")
    done = run(stack, home, "sh", "-e", "-c", commands)
    assert done.returncode == 0, done.stdout + done.stderr
    until(lambda: stack.fleet.find("pump-7"), within=20, describe="pump-7 is registered")
    return home


def environment(stack: RunningStack) -> dict[str, str]:
    """Return the environment of the examples."""
    return os.environ | {
        "FLEETCERT_KAFKA_BOOTSTRAP": stack.layout.bootstrap,
        "PYTHONPATH": str(README.parent),
    }


def run(stack: RunningStack, home: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run an example in its directory."""
    return subprocess.run(
        command,
        cwd=home,
        env=environment(stack),
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )


def test_a_device_reports(stack: RunningStack, home: Path) -> None:
    """The device's example ends once its report is recorded: it stands in the history."""
    done = run(stack, home, sys.executable, "-c", block(stack, "python", "Agent("))
    assert done.returncode == 0, done.stderr
    reports = [
        one.record
        for one in stack.fleet.read(DEVICE_EVENTS, device_id="pump-7")
        if isinstance(one.record, DeviceReported) and one.record.event_type == "temperature"
    ]
    assert reports
    assert cbor2.loads(reports[0].payload)["body"] == {"celsius": 21.5}


def test_a_device_is_watched(stack: RunningStack, home: Path) -> None:
    """The asyncio example registers, and prints that the device came."""
    running = subprocess.Popen(
        [sys.executable, "-c", block(stack, "python", "Connection(", REGISTRY)],
        cwd=home,
        env=environment(stack),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert running.stdout is not None
        said = running.stdout

        def come_and_go() -> bool:
            """Give the device something to be watched doing; tell whether it was seen."""
            run(stack, home, sys.executable, "-c", block(stack, "python", "Agent("))
            return bool(select.select([said], [], [], 1)[0])

        until(come_and_go, within=60, describe="the example prints")
        assert said.readline().startswith("status ")
    finally:
        running.kill()
        running.wait()


def test_an_operator_rotates(stack: RunningStack, home: Path) -> None:
    """The operator's example registers, orders a rotation and prints what it reads."""
    done = run(stack, home, sys.executable, "-c", block(stack, "python", " Fleet("))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(("Idle(", "Requested("))
    until(
        lambda: stack.fleet.device("pump-7").journey or None,
        within=20,
        describe="the rotation of pump-7",
    )


def test_the_command_line_answers(stack: RunningStack, home: Path) -> None:
    """Each command that is shown does what it says on the reader's stack."""
    commands = block(stack, "sh", "fleetcert status").replace("pumps", "read-about")
    for line in commands.splitlines():
        if "--install-completion" not in line:
            done = run(stack, home, "sh", "-e", "-c", f". .venv/bin/activate; {line}")
            assert done.returncode == 0, line + done.stdout + done.stderr
    with Fleets(stack.layout.bootstrap) as fleets:
        fleets.remove_device("read-about", "pump-7")


def test_a_fleet_is_made_and_configured(stack: RunningStack, home: Path) -> None:
    """The fleets' example creates one, merges a change into it and prints what it then goes by."""
    done = run(stack, home, sys.executable, "-c", block(stack, "python", "Fleets(", CAMPAIGNS))
    assert done.returncode == 0, done.stderr
    assert "batch_size=50" in done.stdout
    with Fleets(stack.layout.bootstrap) as fleets:
        (member,) = fleets.members("pumps")
        assert (member.device_id, fleets.fleet("pumps").tags) == ("pump-7", ("site=berlin",))
        fleets.remove_device("pumps", "pump-7")


def test_a_consumer_reads_decisions(stack: RunningStack, home: Path) -> None:
    """The consumer's example prints the first decision there is."""
    running = subprocess.Popen(
        [sys.executable, "-c", block(stack, "python", "Consumer(")],
        cwd=home,
        env=environment(stack),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert running.stdout is not None
        assert "device:" in running.stdout.readline()
    finally:
        running.kill()
        running.wait()
