"""Presence: sessions, numbers and addresses, and what comes twice or late."""

import pytest

from schemas import codec, commands, events
from schemas.envelope import Evidence, Numbering
from streams.core import presence
from tests.helpers.folding import DEVICE, START, Log, fingerprint


def unnumbered(log: Log, session: str, counter: int) -> None:
    """Report as a device without our library does."""
    evidence = Evidence(fingerprint(1), "10.0.0.1", session, counter, "mqtt", START)
    log.add(events.DeviceReported(DEVICE, evidence, None, "reading", "", b"1"))


def session(log: Log, name: str, address: str = "10.0.0.1") -> events.SessionOpened:
    """Return the opening of a session."""
    evidence = Evidence(fingerprint(1), address, name, 0, "mqtt", START)
    return events.SessionOpened(DEVICE, evidence)


def test_the_same_opening_twice_changes_nothing_the_second_time() -> None:
    """Neither is it counted as flapping, nor is a pending command sent again."""
    log = Log().registered(days=20)
    log.tick(1_000)
    opened = session(log, "s1")
    assert [type(one.record) for one in log.add(opened)] == [commands.RotateCertificate]
    before = log.row
    assert log.add(opened) == []
    assert log.row == before


def test_an_opening_that_comes_after_its_closing_again_opens_nothing() -> None:
    """A late copy does not make a device look connected for ever."""
    log = Log().registered()
    opened = session(log, "s1")
    log.add(opened)
    log.add(events.SessionClosed(DEVICE, opened.evidence, 0))
    log.add(opened)
    assert not log.row.connected


def test_a_new_session_is_no_repeat_whatever_its_counter() -> None:
    """Counters begin anew with each session."""
    log = Log().registered()
    for number in range(3):
        log.add(session(log, f"s{number}"))
        unnumbered(log, f"s{number}", 1)
    assert log.row.oddities.opens == 3
    assert log.row.window.messages == 3


def test_unnumbered_events_are_known_by_their_sessions_counter() -> None:
    """A repeat and a straggler count nothing."""
    log = Log().registered()
    log.add(session(log, "s1"))
    for counter in (1, 2, 2, 1, 3):
        unnumbered(log, "s1", counter)
    assert log.row.window.messages == 3
    assert log.row.session_counter == 3


def test_an_older_sessions_events_do_not_move_the_open_ones_counter() -> None:
    """What comes from another session is taken, and the counter stays."""
    log = Log().registered()
    log.add(session(log, "s2"))
    unnumbered(log, "s2", 5)
    unnumbered(log, "s1", 9)
    assert (log.row.session, log.row.session_counter) == ("s2", 5)
    unnumbered(log, "s2", 6)
    assert log.row.window.messages == 3


def numbered(log: Log, boot: int, sequence: int) -> list[object]:
    """Report under a number."""
    evidence = log.evidence(1)
    numbering = Numbering(boot, sequence)
    return list(log.add(events.DeviceReported(DEVICE, evidence, numbering, "reading", "", b"")))


@pytest.mark.parametrize(
    ("numbers", "gaps", "messages"),
    [
        ([(1, 1), (1, 2), (1, 3)], 0, 3),
        ([(1, 1), (1, 4)], 2, 2),
        ([(1, 1), (1, 1)], 0, 1),
        ([(1, 2), (1, 1)], 0, 1),
        ([(1, 9), (2, 1)], 0, 2),
        ([(1, 9), (2, 3)], 2, 2),
        ([(2, 1), (1, 9)], 0, 1),
        ([(7, 40)], 0, 1),
    ],
)
def test_numbers_tell_repeats_and_gaps(
    numbers: list[tuple[int, int]], gaps: int, messages: int
) -> None:
    """A boot begins at one; what is not above the last number came before."""
    log = Log().registered()
    for boot, sequence in numbers:
        numbered(log, boot, sequence)
    assert (log.row.oddities.gaps, log.row.window.messages) == (gaps, messages)
    assert (log.row.boot, log.row.sequence) == max(numbers)


def test_a_jump_of_any_size_leaves_a_row_that_can_be_written() -> None:
    """A device cannot stop its partition with absurd numbers."""
    log = Log().registered()
    for boot in (1, 2, 3):
        for sequence in (-(2**63), 2**63 - 1):
            numbered(log, boot, sequence)
    assert log.row.oddities.gaps <= 6 * presence.GAP_MAX
    assert codec.decode(codec.encode(log.row)) == log.row


def test_the_number_of_one_who_may_not_speak_is_not_taken() -> None:
    """A stranger's certificate cannot push the device's own events out of the window."""
    log = Log().registered()
    numbered(log, 1, 1)
    event = events.DeviceReported(
        DEVICE, log.evidence(9), Numbering(9_999, 9_999), "reading", "", b""
    )
    log.add(event)
    assert (log.row.boot, log.row.sequence) == (1, 1)
    numbered(log, 1, 2)
    assert log.row.sequence == 2


@pytest.mark.parametrize(
    ("first", "second", "moved"),
    [
        ("10.0.0.1:1000", "10.0.0.1:2000", 0),
        ("10.0.0.1", "10.0.0.2", 1),
        ("10.0.0.1:1000", "10.0.0.2:1000", 1),
        ("[2001:db8::1]:1000", "[2001:db8::1]:2000", 0),
        ("[2001:db8::1]:1000", "[2001:db8::2]:1000", 1),
        ("2001:db8::1", "2001:db8::2", 1),
        ("2001:db8::1", "2001:db8::1", 0),
        ("door.example.net:1", "door.example.net:2", 0),
        ("", "10.0.0.1", 0),
    ],
)
def test_another_port_is_no_other_address(first: str, second: str, moved: int) -> None:
    """Hosts are compared, in IPv4, IPv6 and names; unknown ones are not held against anyone."""
    log = Log().registered()
    log.add(session(log, "s1", first))
    log.add(session(log, "s2", second))
    assert log.row.oddities.moves == moved
    assert log.row.peer_address == second


def test_moving_while_disconnected_is_no_move() -> None:
    """A device may be carried elsewhere between two sessions."""
    log = Log().registered()
    opened = session(log, "s1", "10.0.0.1")
    log.add(opened)
    log.add(events.SessionClosed(DEVICE, opened.evidence, 0))
    log.add(session(log, "s2", "10.0.0.2"))
    assert log.row.oddities.moves == 0


def test_closing_twice_or_a_session_never_opened_changes_no_row() -> None:
    """Nothing is written where nothing changed."""
    log = Log().registered()
    opened = session(log, "s1")
    log.add(events.SessionClosed(DEVICE, opened.evidence, 0))
    assert not log.row.connected
    log.add(opened)
    log.add(events.SessionClosed(DEVICE, opened.evidence, 0))
    before = log.row
    log.add(events.SessionClosed(DEVICE, opened.evidence, 0))
    assert log.row == before
