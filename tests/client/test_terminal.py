"""What reaches the terminal."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import terminal
from schemas.envelope import Position


@given(st.text())
def test_safe_text_can_be_printed(text: str) -> None:
    """No control character survives, and printable text is left alone."""
    assert terminal.safe(text).isprintable()
    if text.isprintable():
        assert terminal.safe(text) == text


def test_records_become_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Records name their kind, bytes are hex, tuples are lists."""
    terminal.as_json({"at": Position("decisions", 1, 2), "der": b"\x01\xff", "many": (1, 2)})
    assert json.loads(capsys.readouterr().out) == {
        "at": {"kind": "Position", "topic": "decisions", "partition": 1, "offset": 2},
        "der": "01ff",
        "many": [1, 2],
    }


def test_progress_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A log file gets no bars."""
    with terminal.progress("working", 10) as one_done:
        for _ in range(1_000):
            one_done()
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
