"""The demo's live picture."""

import io
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from client import alerts
from client.demo import picture, svg
from client.demo.watch import Snapshot
from schemas.decisions import Decision
from tests.core.test_rotation import proven

COLUMNS, LINES = 100, 30
"""The terminal that the picture promises to fit."""


def snapshot(devices: int, seconds: float = 12.0) -> Snapshot:
    """Return a fleet of copies of one device that has just proven its certificate."""
    log = proven()
    row = log.row
    rows = {name: replace(row, device_id=name) for name in map("pump-{:05}".format, range(devices))}
    decided = [one.record for one in log.outputs if isinstance(one.record, Decision)]
    told = [one for one in decided if one.name in picture.NAMES] * 10
    open_alerts = [
        alerts.Alert(f"device:{name}", "flapping", "flapping", "critical", 1) for name in rows
    ]
    processes = dict.fromkeys(
        ("kafka", "mosquitto", "issuer", "bridge-0", "coap", "est", "worker-0"), "running"
    )
    kinds = Counter({"CertificateIssued": devices})
    return Snapshot(
        seconds, rows, told, open_alerts, kinds, 1_234, [3, 9, 6], processes, devices // 2, devices
    )


def lines(seen: Snapshot) -> list[str]:
    """Return the picture as lines of text."""
    console = Console(file=io.StringIO(), width=COLUMNS, markup=False)
    console.print(picture.draw(seen))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text.rstrip("\n").split("\n")


def test_the_picture_keeps_its_size() -> None:
    """An empty fleet and a full one take the same lines, below those of a small terminal."""
    empty, full = lines(snapshot(0, 0.0)), lines(snapshot(50, 3_599.0))
    assert len(empty) == len(full) < LINES
    assert max(map(len, full)) <= COLUMNS


def test_the_picture_shows_the_saga() -> None:
    """The bar of a state and the share that has rotated stand there."""
    text = "\n".join(lines(snapshot(50)))
    assert "25 of 50" in text
    assert "…" not in text, "something is cut off"
    assert "● coap" in text
    assert "new one proven" in text
    assert "Open alerts: 50" in text


@given(st.lists(st.integers(0, 10_000), max_size=80), st.integers(1, 60))
def test_a_sparkline_has_its_width(figures: list[int], width: int) -> None:
    """The highest figure shown is a full bar, zero is none."""
    drawn = picture.sparkline(figures, width)
    assert len(drawn) == width
    shown = figures[-width:]
    assert ("█" in drawn) == any(shown)


def test_the_drawing_of_a_run_fetches_nothing(tmp_path: Path) -> None:
    """The SVG is well-formed, has the picture's words, and names no font of another host."""
    target = tmp_path / "images" / "demo.svg"
    svg.write(target, picture.draw(snapshot(50)))
    text = target.read_text()
    ElementTree.fromstring(text)
    assert "csr-received" in text
    assert "@font-face" not in text
    assert "url(http" not in text
