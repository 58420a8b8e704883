"""One device's story, drawn from what the machine has folded."""

import io
from dataclasses import replace

from rich.console import Console

from client import alerts, show
from schemas.decisions import Decision
from schemas.events import CertificateRevoked
from tests.core.test_rotation import proven
from tests.helpers.folding import DEVICE, Log, fingerprint


def drawn(log: Log, columns: int = 110, **row: str) -> str:
    """Return the story of the log's device as a pipe would get it."""
    decided = [one.record for one in log.outputs if isinstance(one.record, Decision)]
    console = Console(file=io.StringIO(), width=columns, markup=False, highlight=False)
    told = replace(log.row, **row)  # type: ignore[arg-type]
    console.print(show.device_story(told, decided, alerts.raised(log.row), log.now))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def rotated() -> Log:
    """Return a log whose device has rotated whole."""
    log = proven()
    log.add(CertificateRevoked(DEVICE, fingerprint(1), "1", 7))
    log.tick(log.partition.row.policy.grace_ms + 1_000)
    return log


def test_a_rotation_is_told_with_offsets_and_times() -> None:
    """Every state of the saga stands there with the offset of the record that caused it."""
    log = rotated()
    text = drawn(log)
    for step in log.row.journey:
        assert f"● {step.state}" in text
        assert f" {step.offset} " in text
    assert "● proven" in text
    assert f"offset {log.row.certificates[1].first_used_offset}" in text
    assert "listed" in text
    assert "The first event came under the new certificate." in text


def test_repeats_of_a_decision_become_one_line() -> None:
    """A device that is refused again and again does not fill the screen."""
    log = rotated()
    log.tick(60_000)
    for number in range(30):
        log.opened(1, session=f"old-{number}")
    text = drawn(log)
    assert text.count("EventRefused") < 5
    assert "times" in text


def test_what_a_device_is_called_is_data() -> None:
    """Markup is not read, and control characters are shown as text."""
    text = drawn(Log().registered(), device_type="[red]x[/red]\x1b[31m")
    assert "[red]x[/red]\\x1b[31m" in text
    assert "\x1b" not in text


def test_a_pipe_gets_no_colours() -> None:
    """No escape sequence reaches what is no terminal."""
    assert "\x1b" not in drawn(rotated())
