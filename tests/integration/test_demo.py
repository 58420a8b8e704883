"""The whole loop, on real Kafka, mosquitto and TLS: `make demo` and what it proves."""

import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from tests.helpers.wait import until

DEMO_SECONDS = 240
STOP_SECONDS = 60
FIGURES = {
    "devices": 50,
    "rotated": 25,
    "events_lost": 0,
    "duplicate_effects": 0,
    "replay_identical": True,
    "missing": [],
}


def demo(directory: Path, *options: str) -> list[str]:
    """Return the command of a demo in a directory of its own."""
    return [sys.executable, "-m", "client.demo", "--directory", str(directory), *options]


def test_the_demo_proves_every_rotation(tmp_path: Path) -> None:
    """Twenty-five devices rotate, each proof holds, nothing is lost, the replay is identical."""
    svg = tmp_path / "demo.svg"
    done = subprocess.run(
        demo(tmp_path / "demo", "--svg", str(svg)),
        capture_output=True,
        text=True,
        timeout=DEMO_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    report = json.loads((tmp_path / "demo" / "report.json").read_text())
    assert {name: report[name] for name in FIGURES} == FIGURES
    assert report["events_acknowledged"] > 500
    assert report["proven"] >= 25, "one that goes offline may have rotated before"
    assert report["retired"] >= 25
    assert report["refused"] > 0
    assert report["seconds"] > 0
    assert all(proof["holds"] for proof in report["proofs"])
    answers = {one["behaviour"]: one["answered_by"] for one in report["misbehaviour"].values()}
    for behaviour, reason in {
        "goes-offline": "silent",
        "names-another": "wrong-subject",
        "uses-old-certificate": "certificate-retired",
        "flaps": "flapping",
        "sensor-fails": "error-rate",
    }.items():
        assert reason in answers[behaviour]
        assert reason in done.stdout
    ElementTree.parse(svg)


def test_an_interrupted_demo_leaves_nothing_running(tmp_path: Path) -> None:
    """Ctrl-C while the devices live: exit code 130, no traceback, every process is gone.

    A second demo in the same directory is refused meanwhile.
    """
    directory, log = tmp_path / "demo", tmp_path / "demo.log"
    with log.open("w") as out:
        running = subprocess.Popen(demo(directory), stdout=out, stderr=out)
    try:
        until(
            lambda: "misbehave" in log.read_text() or running.poll() is not None,
            within=120,
            describe="the devices are registered",
        )
        status = json.loads((directory / "stack" / "status.json").read_text())
        second = subprocess.run(
            demo(directory), capture_output=True, text=True, timeout=60, check=False
        )
        assert second.returncode == 1
        assert "a demo runs already" in second.stderr
        running.send_signal(signal.SIGINT)
        code = running.wait(STOP_SECONDS)
    finally:
        running.kill()
    told = log.read_text()
    assert code == 130, told
    assert "Traceback" not in told
    alive = [one["name"] for one in status["processes"] if _lives(one["pid"])]
    assert alive == []


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
