"""What libraries write: one line per place and span, with the number of those left out."""

import io
import json
import logging
from contextlib import redirect_stderr

import structlog

from streams import logs
from streams.logs import Sparing

SECONDS = 10.0


class Clock:
    """Time as the test has it."""

    now = 0.0

    def __call__(self) -> float:
        """Return it."""
        return self.now


def record(line: int, *args: object) -> logging.LogRecord:
    """Return what a place in the code says."""
    return logging.LogRecord("aiokafka", logging.ERROR, "client.py", line, "away: %s", args, None)


def test_one_line_per_place_and_span_the_rest_is_counted() -> None:
    """Eighty a second for a minute make six lines, whatever their arguments are."""
    clock = Clock()
    sparing = Sparing(SECONDS, clock)
    passed = []
    for number in range(60 * 80):
        clock.now = number / 80
        said = record(1, number)
        if sparing.filter(said):
            passed.append(getattr(said, "unsaid", 0))
    assert passed == [0, *[799] * 5]


def test_another_place_speaks_for_itself() -> None:
    """And a place that was quiet for the span has nothing to count."""
    clock = Clock()
    sparing = Sparing(SECONDS, clock)
    assert sparing.filter(record(1))
    assert sparing.filter(record(2))
    assert not sparing.filter(record(2))
    clock.now = SECONDS
    assert sparing.filter(first := record(1))
    assert not hasattr(first, "unsaid")
    assert sparing.filter(second := record(2))
    assert second.__dict__["unsaid"] == 1


def test_a_librarys_line_is_json_like_ours() -> None:
    """With its logger, its level and its exception."""
    root = logging.getLogger()
    before, root.handlers = root.handlers, []
    try:
        with redirect_stderr(io.StringIO()) as written:
            logs.configure()
            for _ in range(3):
                try:
                    raise ConnectionError("refused")
                except ConnectionError as error:
                    logging.getLogger("aiokafka").exception("no node %s: %s", 1, error)
    finally:
        root.handlers = before
        structlog.reset_defaults()
    (line,) = written.getvalue().splitlines()
    said = json.loads(line)
    assert (said["event"], said["level"]) == ("no node 1: refused", "error")
    assert said["logger"] == "aiokafka"
    assert "ConnectionError: refused" in said["exception"]
