"""Machines as programs: the deadline of an encoded row is the one of the decoded row."""

from schemas import codec
from streams.programs import DEVICES
from tests.helpers.folding import Log


def test_the_deadline_is_read_without_the_row() -> None:
    """For every row that a life produces."""
    log = Log().registered(days=20)
    log.opened(1)
    log.reported(1)
    log.tick(60_000)
    data = codec.encode(log.row)
    assert DEVICES.due_at(data) == log.row.next_due_at != 0
    assert DEVICES.decode(data) == log.row
