"""The engine's write order: killed or stopped between every two steps, the replay still agrees."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from configuration.cluster import Cluster
from schemas.topics import DEVICE_STATE
from streams.engine.changelog import Changelog
from streams.engine.failure import EXIT_FAILED
from streams.engine.faults import BEFORE_FENCE, OFFSET_COMMIT, POINTS
from streams.engine.table import APPLICATION
from tests.helpers.engine import WITHIN, Rig, is_stopped, rig
from tests.helpers.kafka import KafkaBroker, kafka_broker
from tests.helpers.wait import until

COMMITTED = ("engine:after-commit", "engine:after-store")
"""Points behind the transaction: what the sleeper had in work is in Kafka, and stays."""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """One Kafka for this file; it may be hurt."""
    with kafka_broker(tmp_path_factory.mktemp("kafka")) as running:
        yield running


@pytest.fixture
def engine(broker: KafkaBroker, tmp_path: Path) -> Rig:
    """Empty topics, a group of its own."""
    return rig(broker.bootstrap, tmp_path)


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_between_two_steps_leaves_no_trace(engine: Rig, point: str) -> None:
    """Killed at the point: the next worker ends with the rows and decisions of the replay."""
    engine.report(1, 3)
    with engine.worker(fault=f"{point}:1:kill") as first:
        assert engine.until_ended(first) == -signal.SIGKILL
    engine.report(4, 6)
    with engine.worker():
        engine.until_applied(6)
        engine.assert_undisturbed()


@pytest.mark.parametrize("point", POINTS)
def test_a_stopped_worker_that_wakes_does_no_harm(engine: Rig, point: str) -> None:
    """SIGSTOP at the point, another worker takes over, SIGCONT: the sleeper changes nothing.

    Where its transaction was not committed, it is fenced and ends. It writes no ticks, so that it
    stops in the batch of reports, and with all that it owns open: see below for the other case.
    """
    with engine.worker("sleeper", f"{point}:1:stop", clock="recorded") as sleeper:
        engine.until_opened("sleeper")
        engine.report(1, 3)
        until(lambda: is_stopped(sleeper.pid), within=WITHIN, describe="the sleeper sleeps")
        with engine.worker("second") as second:
            engine.report(4, 6)
            engine.until_applied(6)
            sleeper.send_signal(signal.SIGCONT)
            if point not in COMMITTED:
                assert engine.until_ended(sleeper) == EXIT_FAILED
            engine.report(7, 8)
            engine.until_applied(8)
            assert sleeper.poll() in (None, EXIT_FAILED)
            assert second.poll() is None
            engine.assert_undisturbed()


def test_a_worker_that_wakes_while_it_opens_does_no_harm(engine: Rig) -> None:
    """Its fence comes late: the owner ends by it, unless it gave the partition up before."""
    engine.report(1, 3)
    with engine.worker("sleeper", f"{BEFORE_FENCE}:1:stop") as sleeper:
        until(lambda: is_stopped(sleeper.pid), within=WITHIN, describe="the sleeper sleeps")
        with engine.worker("second") as second:
            engine.until_applied(3)
            sleeper.send_signal(signal.SIGCONT)
            engine.report(4, 6)
            with engine.worker("third"):  # in the place of the one that is started anew
                engine.until_applied(6)
                assert {sleeper.poll(), second.poll()} <= {None, EXIT_FAILED}
                engine.assert_undisturbed()


def test_a_fenced_producer_ends_its_worker(engine: Rig) -> None:
    """Somebody else opens the partition's transactions: the owner ends, the next goes on."""
    engine.report(1, 3)
    with engine.worker() as owner:
        engine.until_applied(3)
        Changelog(Cluster(engine.bootstrap), DEVICE_STATE, 0, APPLICATION).fence()
        assert engine.until_ended(owner) == EXIT_FAILED
    assert "fenced" in engine.log().read_text()
    engine.report(4, 6)
    with engine.worker():
        engine.until_applied(6)
        engine.assert_undisturbed()


def test_a_failed_offset_commit_loses_nothing(engine: Rig) -> None:
    """Faust takes a failed commit for done: killed then, the events come again, in vain."""
    engine.report(1, 3)
    with engine.worker(fault=f"{OFFSET_COMMIT}:1:fail", commit_seconds=2) as first:
        engine.until_applied(3)
        first.kill()
        first.wait()
    engine.report(4, 6)
    with engine.worker():
        engine.until_applied(6)
        until(lambda: engine.committed() > 0, describe="the offsets are committed")
        engine.assert_undisturbed()
