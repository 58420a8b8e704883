"""Registration, presence, the clock, and the anomaly rules of the device machine."""

from collections.abc import Callable

import pytest

from schemas.events import SessionClosed, SessionOpened, SigningRefused
from schemas.reasons import Reason
from tests.helpers.folding import DEVICE, Log


def test_the_refusal_of_a_first_certificate_is_no_business_of_the_machine() -> None:
    """Whoever ordered it reads it in the log: nothing is decided, no device is made."""
    log = Log()
    assert log.add(SigningRefused(DEVICE, "first-1", "weak-key", "")) == []
    assert log.rows == {}


def test_an_unknown_device_is_refused_and_leaves_no_row() -> None:
    """Events of devices that nobody registered change nothing."""
    log = Log()
    log.tick()
    log.opened(1)
    assert log.rows == {}
    assert ("EventRefused", "unknown-device") in log.decisions()


def test_a_repeated_number_changes_nothing() -> None:
    """The same (boot, sequence) a second time has no outputs and no effect but the offset."""
    log = Log().registered()
    log.reported(1)
    before = log.row
    log.sequence -= 1
    assert log.reported(1) == []
    assert log.row == before


def test_a_tick_far_off_the_brokers_time_is_refused() -> None:
    """More than five seconds off is an alarm, and the machine's time stays."""
    log = Log().registered()
    before = log.partition.row.now
    log.tick(1_000, off=6_000)
    assert ("TickRefused", "clock-off") in log.decisions()
    assert log.partition.row.now == before


def test_presence_follows_the_open_session() -> None:
    """The closing of an older session than the open one says nothing."""
    log = Log().registered()
    log.opened(1, session="first")
    old = log.evidence(1, session="first")
    log.opened(1, session="second")
    log.add(SessionClosed(DEVICE, old, 0))
    assert log.row.connected
    log.add(SessionClosed(DEVICE, log.evidence(1, session="second"), 0))
    assert not log.row.connected
    assert log.partition.row.totals.connected == 0


def flap(log: Log) -> None:
    """Open six sessions at once."""
    for number in range(6):
        log.opened(1, session=f"s{number}")


def jump(log: Log) -> None:
    """Leave numbers out."""
    log.reported(1)
    log.sequence += 3
    log.reported(1)


def move(log: Log) -> None:
    """Come from two addresses in turns while connected."""
    for number in range(4):
        event = SessionOpened(DEVICE, log.evidence(1, f"10.0.0.{number % 2}", f"s{number}"))
        log.add(event)


def misuse(log: Log) -> None:
    """Speak under a certificate that nobody issued."""
    log.reported(9)


def err(log: Log) -> None:
    """Report errors only, for two windows."""
    for _ in range(2):
        for _ in range(10):
            log.reported(1, kind="error")
        log.tick(61_000)


def grow(factor: int, size: int) -> Callable[[Log], None]:
    """Build a past of ten messages per window, then send far more, or far larger ones."""

    def act(log: Log) -> None:
        for count, length in [(10, 10)] * 6 + [(10 * factor, size)] * 2:
            for _ in range(count):
                log.reported(1, size=length)
            log.tick(61_000)

    return act


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (flap, Reason.FLAPPING),
        (jump, Reason.SEQUENCE_GAP),
        (move, Reason.TWO_ADDRESSES),
        (misuse, Reason.FINGERPRINT_UNKNOWN),
        (err, Reason.ERROR_RATE),
        (grow(30, 10), Reason.MESSAGE_RATE),
        (grow(1, 2_000), Reason.MESSAGE_SIZE),
        (lambda log: (log.reported(1), log.tick(900_001)), Reason.SILENT),
    ],
)
def test_each_rule_raises_once_and_clears(act: Callable[[Log], None], reason: Reason) -> None:
    """An alert is raised once, carries its figures, and clears when its condition has ended."""
    log = Log().registered()
    log.opened(1)
    act(log)
    raised = [one for one in log.decisions() if one == ("AlertRaised", reason.value)]
    assert len(raised) == 1
    assert log.partition.row.totals.alerts_open >= 1
    for _ in range(6):
        log.reported(1)
        log.tick(61_000)
    assert not any(one.rule == reason.value and one.raised_at for one in log.row.watches)
    assert log.partition.row.totals.alerts_open == 0
