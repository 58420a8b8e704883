"""What reaches the terminal."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import terminal
from client.errors import FleetError
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


def test_a_number_goes_with_its_noun() -> None:
    """One of a thing is no plural."""
    assert [terminal.count(one, "device") for one in (0, 1, 2)] == [
        "0 devices",
        "1 device",
        "2 devices",
    ]


def test_what_cannot_be_undone_is_asked_where_somebody_can_answer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`--yes` answers beforehand; without a terminal nothing is done, and it says how to."""
    terminal.confirm("All will be gone.", yes=True)
    with pytest.raises(FleetError, match="--yes"):
        terminal.confirm("All will be gone.", yes=False, asked=io.StringIO("y\n"))
    terminal.confirm("All will be gone.", yes=False, asked=Attended("y\n"))
    assert "All will be gone. Go on?" in capsys.readouterr().err
    for answer in ("n\n", "\n", ""):
        with pytest.raises(FleetError, match="nothing is done"):
            terminal.confirm("All will be gone.", yes=False, asked=Attended(answer))


class Attended(io.StringIO):
    """Standard input at which somebody sits."""

    def isatty(self) -> bool:
        """Say so."""
        return True
