"""What comes twice or late: refused evidence, orders, and devices that come and go."""

from typing import Any

import pytest

from schemas import commands, events
from schemas.states import Abandoned, Failed, Requested
from streams.core import presence, rotation
from tests.helpers.folding import DEVICE, Log

EVENTS = {
    "report": lambda log, number: events.DeviceReported(
        DEVICE, log.evidence(number), log.numbering(), "reading", "", b""
    ),
    "unnumbered report": lambda log, number: events.DeviceReported(
        DEVICE, log.evidence(number), None, "reading", "", b""
    ),
    "opening": lambda log, number: events.SessionOpened(DEVICE, log.evidence(number)),
    "refusal": lambda log, number: events.SessionRefused(
        DEVICE, log.evidence(number), "certificate-retired", ""
    ),
}


def rotated() -> Log:
    """Return a log whose device holds certificate 2; certificate 1 is retired."""
    log = Log().registered()
    log.opened(1)
    log.add(events.RotationOrdered(DEVICE, "first", "tests"))
    log.requested(1)
    log.issued(2)
    log.opened(2)
    log.tick(log.partition.row.policy.grace_ms)
    assert log.state() == "Idle"
    return log


@pytest.mark.parametrize("number", [1, 9])
@pytest.mark.parametrize("kind", EVENTS)
def test_refused_evidence_is_counted_once(kind: str, number: int) -> None:
    """A repeat under a retired or an unknown certificate has no outputs and changes nothing."""
    log = rotated()
    event: Any = EVENTS[kind](log, number)
    assert log.add(event) != []
    before = log.row
    assert log.add(event) == []
    assert log.row is before
    odd = before.oddities
    assert odd.retired + odd.unknown == 1


def test_refused_evidence_within_grace_is_told_once() -> None:
    """Also an opening, which has no number of its own."""
    log = Log().registered()
    log.opened(1)
    log.add(events.RotationOrdered(DEVICE, "first", "tests"))
    log.requested(1)
    log.issued(2)
    log.opened(2)
    event = EVENTS["opening"](log, 1)
    assert [type(one.record).__name__ for one in log.add(event)] == ["Decision"]
    assert log.add(event) == []


def test_each_further_message_of_a_refused_session_counts() -> None:
    """Its counter rises; what comes from behind it came before."""
    log = rotated()
    first, second = EVENTS["report"](log, 9), EVENTS["report"](log, 9)
    for event in (first, second, first, second):
        log.add(event)
    assert log.row.oddities.unknown == 2


def test_a_row_remembers_a_bounded_number_of_refused_sessions() -> None:
    """The last ones; a repeat from before them counts again."""
    log = rotated()
    made = [
        events.SessionOpened(DEVICE, log.evidence(9, session=f"s{number}"))
        for number in range(presence.REFUSED_KEPT_MAX + 1)
    ]
    for event in made:
        log.add(event)
    assert [one.session for one in log.row.refused] == ["s1", "s2", "s3", "s4"]
    assert log.add(made[-1]) == []
    assert log.add(made[0]) != []


@pytest.mark.parametrize("late", [False, True])
def test_a_late_copy_of_an_order_starts_no_other_rotation(late: bool) -> None:
    """Neither while its rotation is in work nor when that is long done."""
    log = rotated() if late else Log().registered()
    order = events.RotationOrdered(DEVICE, "first", "tests")
    if not late:
        log.add(order)
    before = log.row
    assert log.add(order) == []
    assert log.row is before


def test_a_late_copy_of_a_refused_order_starts_none_either() -> None:
    """It was answered: one rotation at a time."""
    log = Log().registered()
    log.opened(1)
    log.add(events.RotationOrdered(DEVICE, "first", "tests"))
    second = events.RotationOrdered(DEVICE, "second", "tests")
    log.add(second)
    assert log.decisions()[-1] == ("EventRefused", "repeated")
    log.requested(1)
    log.issued(2)
    log.opened(2)
    log.tick(log.partition.row.policy.grace_ms)
    assert log.add(second) == []
    assert log.state() == "Idle"


def test_an_answer_given_twice_refuses_nobody() -> None:
    """The command comes again with each session: the device answers both, the first one counts."""
    log = Log().registered()
    log.opened(1)
    log.add(events.RotationOrdered(DEVICE, "first", "tests"))
    log.opened(1, session="again")  # RotateCertificate goes down a second time
    asked = [one for one in log.outputs if isinstance(one.record, commands.RotateCertificate)]
    assert len({one.record.command_id for one in asked}) == 1 < len(asked)
    log.requested(1)
    assert log.state() == "CsrReceived"
    assert log.requested(1) == []
    log.issued(2)
    assert log.requested(1) == []
    log.opened(2)
    assert log.requested(2) == []
    assert ("EventRefused", "no-rotation") not in log.decisions()
    assert log.state() == "Proven"


def test_an_answer_after_its_deadline_refuses_nobody() -> None:
    """The next attempt has a command of its own; the late answer to the first changes nothing."""
    log = Log().registered()
    log.opened(1)
    log.add(events.RotationOrdered(DEVICE, "first", "tests"))
    first = log.last(commands.RotateCertificate)
    log.tick(log.partition.row.policy.answer_within_ms)
    log.tick(log.partition.row.policy.backoff_ms)
    assert log.last(commands.RotateCertificate) != first
    before = log.row.rotation
    assert log.requested(1, command_id=first.command_id, nonce=first.nonce) == []
    assert log.row.rotation == before


def test_a_row_remembers_a_bounded_number_of_orders() -> None:
    """Whatever the length of their ids: two long ones that begin alike are two."""
    log = Log().registered()
    for number in range(rotation.ORDERS_KEPT_MAX + 3):
        log.add(events.RotationOrdered(DEVICE, "x" * 100_000 + str(number), "tests"))
    assert len(log.row.orders) == len(set(log.row.orders)) == rotation.ORDERS_KEPT_MAX
    assert all(len(one) == rotation.ORDER_ID_CHARACTERS_MAX for one in log.row.orders)


def away(log: Log, session: str) -> None:
    """Let the device open a session and not answer."""
    log.opened(1, session=session)
    log.tick(log.partition.row.policy.answer_within_ms)


def test_a_device_that_reconnects_without_answering_has_its_attempts_counted() -> None:
    """Each session goes on with the next attempt at once; the last one is given up."""
    log = Log().registered()
    log.add(events.RotationOrdered(DEVICE, "first", "tests"))
    for attempt in range(1, log.partition.row.policy.attempts_max):
        away(log, f"s{attempt}")
        assert isinstance(log.row.rotation, Failed)
        assert (log.row.rotation.reason, log.row.rotation.attempt) == ("device-away", attempt)
    away(log, "last")
    assert log.decisions()[-1] == ("RotationAbandoned", "device-away")


def abandoned() -> Log:
    """Return a log whose device was away for all attempts, and is still."""
    log = Log().registered()
    log.add(events.RotationOrdered(DEVICE, "first", "tests"))
    for attempt in range(log.partition.row.policy.attempts_max):
        away(log, f"s{attempt}")
    assert isinstance(log.row.rotation, Abandoned)
    return log


def test_a_return_soon_after_the_last_attempt_waits_for_the_longest_backoff() -> None:
    """A hundred sessions ask nothing of the device; then it is asked once, connected or not."""
    log = abandoned()
    for number in range(100):
        assert log.opened(1, session=f"early-{number}") == [] or number >= 5
    sent = [one for one in log.outputs if isinstance(one.record, commands.RotateCertificate)]
    log.tick(log.partition.row.policy.backoff_max_ms - 1)
    assert log.state() == "Abandoned"
    log.tick(1)
    assert isinstance(log.row.rotation, Requested)
    assert log.row.rotation.attempt == 1
    again = [one for one in log.outputs if isinstance(one.record, commands.RotateCertificate)]
    assert len(again) == len(sent) + 1


def test_a_late_return_starts_at_once() -> None:
    """Nobody waits for a device that was away for longer than the longest back-off."""
    log = abandoned()
    log.tick(10 * log.partition.row.policy.backoff_max_ms)
    assert log.state() == "Abandoned"
    log.opened(1, session="late")
    assert log.state() == "Requested"
