"""What the command line shows of a campaign and of its devices."""

from client.campaigns import counts, ended, in_work, taking_part
from client.commands.campaigns import _device
from schemas.progress import Progress
from tests.helpers.fleets import Fleets, orders, update


def shown() -> tuple[Fleets, list[tuple[object, ...]]]:
    """Return a fleet in the middle of an update, and what is told of its devices."""
    fleets = Fleets().created().joined(["a", "b", "c", "d", "e"])
    by_device = {one.device_id: one for one in orders(fleets.order(update(failure_threshold=1)))}
    fleets.progress(by_device["b"], Progress.INSTALLING)
    fleets.progress(by_device["c"], Progress.REBOOTING)
    fleets.end(by_device["c"], "failed", "rolled-back")
    fleets.end(by_device["d"])
    fleets.end(by_device["e"], "failed", "device-failed")
    members = [fleets.member(one) for one in "abcde"]
    return fleets, [
        line for one in taking_part(members, "c") if (line := _device(one, "c")) is not None
    ]


def test_the_line_of_counts_says_how_far_devices_are() -> None:
    """In brackets, where there is something to say."""
    fleets, _ = shown()
    assert counts(fleets.campaign()) == (
        "enrolled 5 queued 0 in-work 2 (installing 1) succeeded 1 failed 2 (rolled-back 1)"
    )
    fleets.end_work()
    assert " in-work 0 succeeded 3 " in counts(fleets.campaign())


def test_devices_in_work_come_first_then_those_that_failed() -> None:
    """With their last word, or how and why they ended; who succeeded is a number."""
    _, told = shown()
    assert [line[:4] for line in told] == [
        ("a", 1, "ordered", ""),
        ("b", 1, "installing", ""),
        ("c", 1, "failed", "rolled-back"),
        ("e", 1, "failed", "device-failed"),
    ]


def test_a_campaign_shows_its_own_devices_alone() -> None:
    """What a device does for another campaign is not this one's."""
    fleets, _ = shown()
    members = [fleets.member(one) for one in "abcde"]
    assert taking_part(members, "another") == []
    assert [one.device_id for one in members if in_work(one, "c")] == ["a", "b"]
    assert [one.device_id for one in members if ended(one, "c")] == ["c", "d", "e"]
