"""Which alerts are open, from rows that the machine has folded."""

from client import alerts
from client.alerts import Alert
from schemas.decisions import Decision
from schemas.envelope import BROADCAST_KEY
from schemas.events import CommandAnswered, DoorServed
from tests.helpers.folding import DEVICE, POLICY, Log


def decisions(log: Log) -> list[Decision]:
    """Return the decisions of a log."""
    return [one.record for one in log.outputs if isinstance(one.record, Decision)]


def open_alerts(log: Log) -> list[Alert]:
    """Return the open alerts of the log's device, with their figures."""
    return alerts.with_values(alerts.raised(log.row), decisions(log))


def flapping() -> Log:
    """Return a log whose device opens too many sessions."""
    log = Log().registered()
    log.tick(1_000)
    for number in range(6):
        log.opened(1, session=f"s{number}")
    return log


def test_a_sound_device_has_none() -> None:
    """A device that is registered and speaks raises nothing."""
    log = Log().registered()
    log.opened(1)
    assert open_alerts(log) == []


def test_a_raised_rule_is_open_with_its_figures() -> None:
    """The alert has the severity of its rule, and the figures of the decision that raised it."""
    log = flapping()
    (alert,) = open_alerts(log)
    figures = {"figure": "6.0", "limit": "5.0"}
    assert alert == Alert(f"device:{DEVICE}", "flapping", "flapping", "warning", log.now, figures)


def test_a_cleared_rule_is_open_no_more() -> None:
    """Two quiet windows clear it."""
    log = flapping()
    for _ in range(4):
        log.tick(POLICY.window_ms)
    assert "flapping" not in [one.rule for one in open_alerts(log)]


def test_an_abandoned_rotation_is_an_alert() -> None:
    """A rotation whose every attempt failed wants a person, and says why it failed."""
    log = Log().registered(days=20)
    for _ in range(POLICY.attempts_max):
        log.opened(1)
        log.tick(1_000)
        while log.state() != "Requested":
            log.tick(60_000)
        command = log.row.rotation.command_id  # type: ignore[union-attr]
        evidence, numbering = log.evidence(1), log.numbering()
        log.add(CommandAnswered(DEVICE, evidence, numbering, command, "refused", "not today"))
    assert log.state() == "Abandoned"
    (alert,) = [one for one in open_alerts(log) if one.rule == alerts.ROTATION_ABANDONED]
    assert (alert.reason, alert.severity) == ("device-refused", "critical")
    assert alert.values["detail"] == "not today"


def test_a_certificate_past_its_end_is_an_alert() -> None:
    """It is open since the end of validity."""
    log = Log().registered(days=1)
    log.tick(2 * 86_400_000)
    (alert,) = [one for one in open_alerts(log) if one.rule == "expired"]
    assert alert.severity == "critical"
    assert alert.since_at < log.now


def test_a_door_that_nobody_serves_is_an_alert() -> None:
    """It is told once by the machine, and open until the share is served again."""
    log = Log().registered()
    log.add(DoorServed("mqtt", 3, 8, 1, log.now), BROADCAST_KEY)
    assert alerts.doors_away(log.partition.row) == []
    log.tick(POLICY.door_away_ms + 1_000)
    found = alerts.with_values(alerts.doors_away(log.partition.row), decisions(log))
    (alert,) = found
    assert (alert.subject, alert.rule, alert.severity) == ("door:mqtt/3", "door-away", "critical")
    assert alert.values["limit"] == str(POLICY.door_away_ms)
    log.add(DoorServed("mqtt", 3, 8, 2, log.now), BROADCAST_KEY)
    assert alerts.doors_away(log.partition.row) == []
