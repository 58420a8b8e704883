"""The door's heartbeat: what is told of, when, and what is not."""

from collections.abc import Callable
from dataclasses import dataclass, field

from bridges.bridge import Bridge
from bridges.heartbeat import Heartbeat, Rhythm
from schemas import codec
from schemas.envelope import BROADCAST_KEY
from schemas.events import DoorServed


@dataclass
class Serving:
    """A bridge, as far as its heart goes."""

    door: str = "mqtt"
    shares: list[int] = field(default_factory=lambda: [2, 5])

    def served(self) -> list[int]:
        """Return what it was told to."""
        return self.shares


@dataclass
class Recording:
    """A recorder that keeps what it is given, and delivers when asked."""

    written: list[tuple[int | None, DoorServed]] = field(default_factory=list)
    waiting: list[Callable[[], None]] = field(default_factory=list)

    def record(
        self, _topic: str, key: bytes, value: bytes, done: Callable[[], None], partition: int
    ) -> None:
        """Keep a record."""
        assert key == BROADCAST_KEY
        self.written.append((partition, codec.decode(value)))
        self.waiting.append(done)

    def deliver(self) -> list[tuple[int | None, DoorServed]]:
        """Say that Kafka has all of it; return it."""
        for done in self.waiting:
            done()
        written, self.written, self.waiting = self.written, [], []
        return written


def beating() -> tuple[Heartbeat, Serving, Recording]:
    """Return a heart that beats every 10 s for a door of eight shares, and what it beats for."""
    bridge, recorder = Serving(), Recording()
    one: Bridge = bridge  # type: ignore[assignment]
    return Heartbeat(Rhythm(8, 10.0), one, recorder), bridge, recorder  # type: ignore[arg-type]


def test_each_served_share_is_told_of_in_every_partition() -> None:
    """One word per share and partition, with the same number and instant."""
    heart, _, recorder = beating()
    heart.once(3, 1_000)
    assert recorder.deliver() == [
        (partition, DoorServed("mqtt", share, 8, 1_000, 1_000))
        for share in (2, 5)
        for partition in range(3)
    ]


def test_a_share_is_told_of_once_in_an_interval() -> None:
    """Looks in between say nothing; the next word has a higher number."""
    heart, _, recorder = beating()
    for now in (1_000, 2_000, 10_999, 11_000):
        heart.once(1, now)
        recorder.waiting, waiting = [], recorder.waiting
        for done in waiting:
            done()
    assert [(one.share, one.number) for _, one in recorder.written] == [
        (2, 1_000),
        (5, 1_000),
        (2, 11_000),
        (5, 11_000),
    ]


def test_a_share_that_is_down_is_not_told_of_and_told_of_at_once_when_it_is_back() -> None:
    """Its interval does not go on while its session is down."""
    heart, bridge, recorder = beating()
    heart.once(1, 1_000)
    recorder.deliver()
    bridge.shares = [2]
    heart.once(1, 11_000)
    assert [one.share for _, one in recorder.deliver()] == [2]
    bridge.shares = [2, 5]
    heart.once(1, 12_000)
    assert [one.share for _, one in recorder.deliver()] == [5]


def test_nothing_is_added_while_kafka_has_not_taken_the_last_word() -> None:
    """Words do not pile up behind a Kafka that is away."""
    heart, _, recorder = beating()
    heart.once(1, 1_000)
    heart.once(1, 60_000)
    assert len(recorder.deliver()) == 2
    heart.once(1, 61_000)
    assert len(recorder.deliver()) == 2
