"""A device killed before or after any durable write has an identity and loses nothing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import device
from device import faults
from device.outbox import BEGINNING, Outbox
from device.provision import DeviceCa
from device.store import Store
from tests.device.authorities import write_pem

LIFE = Path(__file__).with_name("life.py")


def run_life(lamp: Path, ca_folder: Path, fault: str | None) -> subprocess.CompletedProcess[str]:
    """Run the life in a process of its own, to be killed at a point."""
    root = Path(device.__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    environment |= {faults.VARIABLE: fault} if fault else {}
    command = [sys.executable, str(LIFE), str(lamp), str(ca_folder)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=30, check=False
    )


def numbers(output: str, what: str) -> set[tuple[int, int]]:
    """Return the numbers that the process told."""
    lines = [line.split() for line in output.splitlines()]
    return {(int(boot), int(sequence)) for kind, boot, sequence in lines if kind == what}


@pytest.mark.parametrize("fault", faults.POINTS)
def test_a_crash_leaves_a_working_identity_and_every_item(
    fault: str, lamp: Path, ca: DeviceCa, tmp_path: Path
) -> None:
    """Killed at the point, the store opens with a usable current identity; no item is lost."""
    write_pem(ca, tmp_path, "devices")
    killed = run_life(lamp, tmp_path, fault)
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    store, outbox = Store(lamp), Outbox(lamp / "outbox.sqlite")
    identities = store.identities()
    assert store.current() in identities
    assert not list(lamp.rglob(".aside-*"))
    kept = numbers(killed.stdout, "kept") - numbers(killed.stdout, "recorded")
    there = {item.number for item in outbox.after(BEGINNING, 100)}
    assert kept <= there
    assert outbox.boot == (1 if fault == "outbox:before-boot" else 2)
    outbox.close()

    again = run_life(lamp, tmp_path, None)
    assert again.returncode == 0, again.stderr
    assert Store(lamp).current() in Store(lamp).identities()
