"""Doors: who is silent behind a door that nobody serves, and who says that it is away."""

import pytest

from schemas.decisions import DeadLetter, Decision
from schemas.envelope import BROADCAST_KEY
from schemas.events import DoorServed
from schemas.shares import share_of
from schemas.states import PartitionRow
from streams.core import anomaly, doors
from streams.core.turn import Output
from tests.helpers.folding import DEVICE, Log

SHARES = 4
OWN = share_of(DEVICE, SHARES)
OTHER = (OWN + 1) % SHARES
BEAT = 10_000
SILENT = 900_000
AWAY = 30_000


def serve(
    log: Log, share: int = OWN, shares: int = SHARES, late: int = 0, door: str = "mqtt"
) -> list[Output]:
    """Let a bridge say that it serves a share."""
    at = log.now - late
    return log.add(DoorServed(door, share, shares, at, at), BROADCAST_KEY)


def pass_time(log: Log, milliseconds: int, *served: int) -> None:
    """Let time pass in heartbeats; some shares are served."""
    for _ in range(milliseconds // BEAT):
        log.tick(BEAT)
        for share in served:
            serve(log, share)


def told(log: Log) -> list[tuple[str, str]]:
    """Return what was decided about doors."""
    records = [one.record for one in log.outputs if isinstance(one.record, Decision)]
    return [(one.name, one.subject) for one in records if one.subject.startswith("door:")]


def heard() -> Log:
    """Return a log whose device has just spoken, its share served."""
    log = Log().registered()
    serve(log)
    log.reported(1)
    return log


def test_silence_counts_while_the_door_is_served() -> None:
    """After the policy's span, to the tick."""
    log = heard()
    pass_time(log, SILENT - BEAT, OWN)
    assert not anomaly.is_silent(log.row)
    pass_time(log, BEAT, OWN)
    assert anomaly.is_silent(log.row)


def test_silence_is_not_held_against_a_device_whose_share_is_away() -> None:
    """However long it lasts; once the share is back, the span begins again."""
    log = heard()
    pass_time(log, 3 * SILENT, OTHER)
    assert not anomaly.is_silent(log.row)
    serve(log)
    pass_time(log, SILENT - BEAT, OWN)
    assert not anomaly.is_silent(log.row)
    pass_time(log, BEAT, OWN)
    assert anomaly.is_silent(log.row)


def test_a_door_that_was_never_served_changes_nothing() -> None:
    """Without heartbeats in the history, or with another door's, silence counts from the word."""
    log = Log().registered()
    log.reported(1)
    serve(log, door="coap")
    pass_time(log, SILENT)
    assert anomaly.is_silent(log.row)


def test_a_gap_within_the_policys_span_is_none() -> None:
    """Two missed heartbeats do not begin the quiet span again."""
    log = heard()
    for _ in range(SILENT // AWAY):
        log.tick(AWAY)
        serve(log)
    assert anomaly.is_silent(log.row)
    assert told(log) == []


def test_a_worker_that_was_away_blames_neither_devices_nor_doors() -> None:
    """An hour of heartbeats folds at one instant; the next tick jumps, and no alert is raised."""
    log = heard()
    began, beats = log.now, 360
    for beat in range(1, beats + 1):
        log.now = began + beat * BEAT
        serve(log)
    log.tick()
    assert (log.partition.row.now, anomaly.is_silent(log.row)) == (began + beats * BEAT, False)
    pass_time(log, SILENT + BEAT, OWN)
    assert anomaly.is_silent(log.row)
    assert told(log) == []


def test_a_share_that_goes_away_is_told_once_and_cleared_once() -> None:
    """With its figures, critically; by partition 0, whatever share it is."""
    log = heard()
    serve(log, OTHER)
    pass_time(log, AWAY, OTHER)
    assert told(log) == []
    pass_time(log, 5 * BEAT, OTHER)
    assert told(log) == [("AlertRaised", f"door:mqtt/{OWN}")]
    raised = log.last(Decision)
    assert (raised.reason, raised.rule, raised.severity) == ("door-away", "door-away", "critical")
    assert raised.values["figure"] == "40000"
    assert raised.values["limit"] == "30000"
    serve(log)
    pass_time(log, 5 * BEAT, OWN, OTHER)
    assert told(log)[1:] == [("AlertCleared", f"door:mqtt/{OWN}")]


def test_a_share_that_nobody_serves_for_a_week_is_forgotten() -> None:
    """Its alert is cleared as removed, and the silence behind it counts again."""
    log = heard()
    pass_time(log, 5 * BEAT, OTHER)
    (share, _) = log.partition.row.doors
    log.now = share.at + doors.FORGOTTEN_MS - 4 * BEAT
    pass_time(log, 4 * BEAT, OTHER)
    assert [one.share for one in log.partition.row.doors] == [OWN, OTHER]
    pass_time(log, BEAT, OTHER)
    assert [one.share for one in log.partition.row.doors] == [OTHER]
    cleared = log.last(Decision)
    assert (cleared.subject, cleared.reason) == (f"door:mqtt/{OWN}", "door-removed")
    assert not anomaly.is_silent(log.row)
    pass_time(log, SILENT, OTHER)
    assert anomaly.is_silent(log.row)


def test_a_stack_that_was_away_for_a_week_forgets_no_door() -> None:
    """Whoever is back first is no witness that the others are gone: they all get their time."""
    log = heard()
    serve(log, OTHER)
    log.tick(AWAY + 1)
    log.tick(2 * doors.FORGOTTEN_MS)
    serve(log, OTHER)
    pass_time(log, AWAY, OTHER)
    assert [one.share for one in log.partition.row.doors] == [OWN, OTHER]
    assert not anomaly.is_silent(log.row)
    serve(log)
    pass_time(log, 2 * AWAY, OWN, OTHER)
    assert len(log.partition.row.doors) == 2
    assert told(log)[-1] == ("AlertCleared", f"door:mqtt/{OWN}")


def test_another_partition_knows_and_does_not_tell() -> None:
    """One decision per share, not one per partition and share."""
    log = Log()
    log.partition.number = 3
    log.tick()
    serve(log)
    pass_time(log, 10 * BEAT)
    assert log.partition.row.doors[0].told
    assert log.outputs == []


def test_a_word_counts_once_by_its_number() -> None:
    """A repeat, or one that comes late, does not open a door again."""
    log = heard()
    word = DoorServed("mqtt", OWN, SHARES, log.now, log.now)
    pass_time(log, AWAY)
    log.add(word, BROADCAST_KEY)
    pass_time(log, BEAT)
    assert told(log) == [("AlertRaised", f"door:mqtt/{OWN}")]


def test_another_number_of_shares_is_another_layout() -> None:
    """The former shares are gone, and what was told of them is cleared."""
    log = heard()
    pass_time(log, 5 * BEAT)
    serve(log, 0, shares=8)
    assert [(one.share, one.shares) for one in log.partition.row.doors] == [(0, 8)]
    assert told(log)[-1] == ("AlertCleared", f"door:mqtt/{OWN}")


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (("", 0, 1), "malformed"),
        (("a/b", 0, 1), "malformed"),
        (("mqtt", 1, 1), "malformed"),
        (("mqtt", -1, 1), "malformed"),
        (("mqtt", 0, doors.SHARES_MAX + 1), "malformed"),
    ],
)
def test_a_word_that_makes_no_sense_is_a_dead_letter(
    event: tuple[str, int, int], reason: str
) -> None:
    """It changes nothing, and says what is wrong."""
    log = Log().registered()
    (output,) = log.add(DoorServed(*event, log.now, log.now), BROADCAST_KEY)
    assert isinstance(output.record, DeadLetter)
    assert output.record.reason == reason
    assert log.partition.row.doors == ()


@pytest.mark.parametrize("late", [AWAY + 1, -AWAY - 1])
def test_a_bridge_whose_clock_is_far_off_is_not_believed(late: int) -> None:
    """Nor is a word that lay in a queue for longer than the span: it says nothing of now."""
    log = Log().registered()
    (output,) = serve(log, late=late)
    assert output.record.reason == "clock-off"
    assert log.partition.row.doors == ()


def test_the_partition_row_remembers_a_bounded_number_of_shares() -> None:
    """One more is a dead letter."""
    log = Log().registered()
    for number in range(doors.HELD_MAX):
        serve(log, number % 64, shares=64, door=f"door-{number // 64}")
    (output,) = serve(log, 0, shares=64, door="one-too-many")
    assert output.record.detail == f"more than {doors.HELD_MAX} shares of doors"
    row: PartitionRow = log.partition.row
    assert len(row.doors) == doors.HELD_MAX
