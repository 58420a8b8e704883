"""The scripts of deploy/, run with stand-ins for the programs that they call."""

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN_TESTS, PACKAGES = ROOT / "deploy" / "run-tests", ROOT / "deploy" / "system-packages"


def stand_in(folder: Path, name: str, body: str = "") -> None:
    """Write a program that notes how it was called in `calls`, then does as told."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / name
    script.write_text(f'#!/bin/sh\necho "{name} $*" >>"$CALLS"\n{body}\n')
    script.chmod(0o755)


def run(script: Path, tmp_path: Path, path: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run a script in a folder of its own; return how it ended, and what it called."""
    calls = tmp_path / "calls"
    calls.touch()
    done = subprocess.run(
        ["/bin/sh", str(script)],
        cwd=tmp_path,
        env={"PATH": path, "CALLS": str(calls)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done, calls.read_text()


@pytest.mark.parametrize("failing", ["", "check", "pure", "integration"])
def test_every_suite_runs_and_a_failed_one_fails_the_run(tmp_path: Path, failing: str) -> None:
    """All three, whatever comes of the ones before; the failed one is named."""
    venv, programs = tmp_path / ".venv" / "bin", tmp_path / "bin"
    stand_in(venv, "python")
    stand_in(programs, "make", f"[ '{failing}' != check ]")
    which = "case $* in 'tests/integration '*) this=integration;; *) this=pure;; esac"
    stand_in(venv, "pytest", f"{which}\n[ '{failing}' != $this ]")
    done, calls = run(RUN_TESTS, tmp_path, f"{programs}:{os.environ['PATH']}")
    assert done.returncode == (1 if failing else 0)
    assert (f"failed: {failing}" in done.stdout) is bool(failing)
    for suite in ("check", "pure", "integration"):
        assert f"== {suite}: " in done.stdout
    assert "pytest tests --ignore tests/integration --cov" in calls
    assert "pytest tests/integration" in calls


def test_coverage_has_a_threshold() -> None:
    """pytest-cov fails the suite that is run with --cov below it."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["coverage"]
    assert told["report"]["fail_under"] >= 77
    assert told["run"]["patch"] == ["subprocess"]


def bare_machine(tmp_path: Path, user: int) -> str:
    """Return a PATH on which next to nothing is installed."""
    programs = tmp_path / "bin"
    stand_in(programs, "id", f"echo {user}")
    stand_in(programs, "apt-get")
    for name in ("uname", "grep"):
        (programs / name).symlink_to(shutil.which(name) or name)
    return str(programs)


def test_missing_packages_are_named_to_a_user(tmp_path: Path) -> None:
    """Who may not install them is told the command; nothing is touched."""
    done, calls = run(PACKAGES, tmp_path, bare_machine(tmp_path, 1000))
    assert done.returncode == 1
    assert "sudo apt-get install --no-install-recommends" in done.stderr
    assert {"default-jre-headless", "maven", "gcc"} <= set(done.stderr.split())
    assert "apt-get" not in calls


def test_missing_packages_are_installed_by_root(tmp_path: Path) -> None:
    """All of them at once."""
    done, calls = run(PACKAGES, tmp_path, bare_machine(tmp_path, 0))
    assert done.returncode == 0, done.stderr
    (install,) = [one for one in calls.splitlines() if " install " in one]
    assert {"default-jre-headless", "maven", "gcc"} <= set(install.split())
