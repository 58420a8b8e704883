"""Workers as a group under load: they come, go, hang and die; all is applied, nothing twice."""

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from client.fleet import Fleet
from streams.app import Settings
from streams.engine.failure import EXIT_FAILED
from tests.helpers.engine import SESSION_SECONDS, WITHIN, Rig, is_stopped, rig
from tests.helpers.kafka import KafkaBroker, kafka_broker
from tests.helpers.wait import until

CHAOS = bool(os.environ.get("FLEETCERT_CHAOS"))
STORMS = 60 if CHAOS else 5
ROWS = 100_000 if CHAOS else 20_000
RESUMED_SECONDS = 15.0
LATE_MS = 3_000
COMMITTED_SECONDS = 3.0
USUAL_SESSION_SECONDS = Settings().session_timeout_seconds
"""What a user has: another worker takes over no sooner."""
STALL_SECONDS = 3.0
FEED_SECONDS = 0.1


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """One Kafka for this file; it may be hurt."""
    with kafka_broker(tmp_path_factory.mktemp("kafka")) as running:
        yield running


@pytest.fixture
def engine(broker: KafkaBroker, tmp_path: Path) -> Rig:
    """Empty topics of four partitions, a group of its own."""
    return rig(broker.bootstrap, tmp_path, partitions=4)


class Feed:
    """Reports of all devices, again and again, in a thread."""

    def __init__(self, engine: Rig, first: int = 1) -> None:
        self._engine, self.sequence = engine, first - 1
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stopped.wait(FEED_SECONDS):
            self._engine.report(self.sequence + 1, self.sequence + 1)
            self.sequence += 1

    @contextmanager
    def running(self) -> Iterator["Feed"]:
        """Feed until the end of the block."""
        self._thread.start()
        try:
            yield self
        finally:
            self._stopped.set()
            self._thread.join()


def slowest(engine: Rig) -> int:
    """Return the smallest sequence of all rows, zero while one is absent."""
    rows = Fleet(engine.bootstrap).devices()
    return min(row.sequence for row in rows.values()) if len(rows) == engine.devices else 0


class Storm:
    """Three workers, and what befalls them."""

    def __init__(self, engine: Rig, ended: ExitStack) -> None:
        self._engine, self._ended = engine, ended
        self.workers: dict[str, subprocess.Popen[bytes]] = {}

    def begin(self, name: str) -> None:
        """Start a worker on its disk."""
        self.workers[name] = self._ended.enter_context(self._engine.worker(name))

    def kill(self, name: str) -> None:
        """It dies, and comes back at once."""
        self.workers[name].kill()
        self.workers[name].wait()
        self.begin(name)

    def leave(self, name: str) -> None:
        """It ends in order, and comes back."""
        self.workers[name].send_signal(signal.SIGTERM)
        self._engine.until_ended(self.workers[name])
        self.begin(name)

    def sleep(self, name: str) -> None:
        """It is stopped until the group has given its partitions away, then it wakes."""
        worker, since = self.workers[name], time.monotonic()
        worker.send_signal(signal.SIGSTOP)
        until(lambda: is_stopped(worker.pid), describe="it sleeps")
        until(lambda: time.monotonic() - since > SESSION_SECONDS + 1, describe="its session ended")
        worker.send_signal(signal.SIGCONT)

    def revive(self) -> None:
        """Start what ended by itself, as a supervisor does."""
        for name, worker in list(self.workers.items()):
            if worker.poll() is not None:
                assert worker.returncode == EXIT_FAILED, self._engine.log(name).read_text()[-2000:]
                self.begin(name)


def test_a_storm_of_rebalances_under_load(engine: Rig) -> None:
    """Workers die, leave and sleep while devices report: rows as replayed, no decision twice."""
    seed = random.SystemRandom().randrange(1_000_000)
    chance = random.Random(seed)
    with Feed(engine).running() as feed, ExitStack() as ended:
        storm = Storm(engine, ended)
        for name in ("one", "two", "three"):
            storm.begin(name)
        until(lambda: slowest(engine) > 0, within=WITHIN, describe="all devices have rows")
        for round_ in range(STORMS):
            happens = (storm.kill, storm.leave, storm.sleep)[round_ % 3]
            happens(chance.choice(("one", "two", "three")))
            reached = feed.sequence

            def resumed(reached: int = reached) -> bool:
                storm.revive()
                return slowest(engine) >= reached

            until(resumed, within=WITHIN, describe=f"{happens.__name__} passed (seed {seed})")
        feed._stopped.set()
        feed._thread.join()
        last = feed.sequence
        until(lambda: storm.revive() or engine.applied(last), within=WITHIN, describe="all applied")
        engine.assert_undisturbed()


def test_offsets_are_committed_every_few_seconds_under_load(engine: Rig) -> None:
    """What a kill would make a worker read again is bounded by time."""
    gaps, since, seen = [0.0], time.monotonic(), 0
    with Feed(engine).running(), engine.worker():
        until(lambda: engine.committed() > 0, within=WITHIN, describe="the first commit")
        began = since = time.monotonic()

        def watched() -> bool:
            nonlocal since, seen
            now, offset = time.monotonic(), engine.committed()
            if offset > seen:
                gaps.append(now - since)
                since, seen = now, offset
            return now - began > 2 * COMMITTED_SECONDS

        until(watched, within=WITHIN)
    assert len(gaps) > 3
    assert max(gaps) < COMMITTED_SECONDS


def test_a_worker_that_hangs_is_ended(engine: Rig) -> None:
    """Its heartbeats go on, its lag does not fall: the watchdog ends it and says where it stood."""
    engine.report(1, 3)
    with engine.worker(fault="engine:after-step:3:hang", stall_seconds=STALL_SECONDS) as stuck:
        assert engine.until_ended(stuck) == EXIT_FAILED
    assert "while Kafka answers" in engine.log().read_text()
    with engine.worker():
        engine.until_applied(3)


def test_a_worker_does_not_end_while_kafka_is_away(broker: KafkaBroker, engine: Rig) -> None:
    """Kafka is silent for longer than a stall: the same worker goes on when it is back."""
    engine.report(1, 3)
    with engine.worker(stall_seconds=STALL_SECONDS, session_timeout_seconds=30) as worker:
        engine.until_applied(3)
        broker.signal(signal.SIGSTOP)
        try:
            until(
                lambda: engine.log().read_text().count("watchdog.kafka_away") > 3,
                within=WITHIN,
                describe="it sees that Kafka is away",
            )
        finally:
            broker.signal(signal.SIGCONT)
        engine.report(4, 4)
        engine.until_applied(4)
        assert worker.poll() is None


@pytest.mark.parametrize("disk", ["kept", "empty"])
def test_work_resumes_soon_after_a_kill_with_many_rows(
    broker: KafkaBroker, tmp_path: Path, disk: str
) -> None:
    """From the kill to the first new offset, on the disk it had and by another on an empty one."""
    engine = rig(broker.bootstrap, tmp_path, partitions=1, devices=ROWS)
    engine.report(1, 0)
    with engine.worker("kept", session_timeout_seconds=USUAL_SESSION_SECONDS) as first:
        until(
            lambda: Fleet(engine.bootstrap).partition_row(0).rows == ROWS,
            within=4 * WITHIN,
            describe="all rows are there",
        )
        until(
            lambda: time.time() * 1000 - Fleet(engine.bootstrap).partition_row(0).now < LATE_MS,
            within=4 * WITHIN,
            describe="no deadline of theirs is left for the successor",
        )
        first.kill()
        killed = time.monotonic()
        first.wait()
    before = engine.committed()
    with engine.worker(disk, session_timeout_seconds=USUAL_SESSION_SECONDS):
        until(lambda: engine.committed() > before, within=4 * WITHIN, describe="a new commit")
        seconds = time.monotonic() - killed
        engine.report(2, 2, only=1)
        until(
            lambda: Fleet(engine.bootstrap).device("device-0").sequence == 2,
            within=WITHIN,
            describe="the new report is applied",
        )
    print(f"{ROWS} rows, {disk} disk: {seconds:.1f} s")
    assert seconds < RESUMED_SECONDS, f"{ROWS} rows, {disk} disk: {seconds:.1f} s"
