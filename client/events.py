"""Events as asynchronous iterators: what a device or a fleet does, by the user's names.

    async for event in device.events("status", "cert-expiring"):
        print(event.name, event.at)

A reading has a consumer and a thread of its own. It joins no group and commits nothing. Records
wait in Kafka, not here: at most POLL_MAX are in hand, and QUEUED_KIB in the consumer. It begins at
`latest` (from now on; a status as it is comes first), `earliest`, or behind an event's bookmark.
Ending the loop, closing the iterator or cancelling its task closes the consumer. The order is that
of each topic.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from client.errors import FleetError
from client.feeds import Bookmark, Event, Feed, Happening
from client.kafka import Timeouts, settings
from client.reader import READING, Found, Reader, found
from configuration.cluster import Cluster
from schemas.envelope import Position
from schemas.partition import partition_of

POLL_MAX = 500
POLL_SECONDS = 0.2
"""How long one poll waits: so long a cancelled reading takes to close at most."""
QUEUED_KIB = 4_096
LATEST, EARLIEST = "latest", "earliest"
Start = str | Bookmark


class Events:
    """What happens to one device or fleet: `async for`, or `async with` to know where it begins."""

    def __init__(
        self,
        cluster: Cluster,
        timeouts: Timeouts,
        subject_id: str,
        feeds: Sequence[Feed],
        start: Start = LATEST,
    ) -> None:
        if isinstance(start, str) and start not in (LATEST, EARLIEST):
            raise FleetError(f"start is {start!r}: {LATEST!r}, {EARLIEST!r} or an event's bookmark")
        self._reading = _Reading(cluster, timeouts, subject_id, feeds, start)
        self._steps = _steps(self._reading)

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> Event:
        """Return the next event; waits for it. Raises FleetError where Kafka does not answer."""
        return await anext(self._steps)

    async def __aenter__(self) -> Self:
        """Begin reading: what happens from here on is not missed."""
        await self._reading.opened()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Close the consumer."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the consumer; the iterator has ended."""
        await self._steps.aclose()
        await self._reading.close()

    @property
    def in_hand(self) -> int:
        """Return how many events were read and not yet given."""
        return self._reading.in_hand

    @property
    def closed(self) -> bool:
        """Tell whether the consumer is closed."""
        return self._reading.closed


async def _steps(reading: "_Reading") -> AsyncGenerator[Event, None]:
    """Yield what is read; knows nothing of the iterator, so that dropping that one ends this."""
    try:
        events = await reading.opened()
        while True:
            for number, event in enumerate(events, 1):
                reading.in_hand = len(events) - number
                yield event
            events = await reading.poll()
    finally:
        await asyncio.shield(reading.close())


class _Reading:
    """One consumer, used by one thread."""

    def __init__(
        self,
        cluster: Cluster,
        timeouts: Timeouts,
        subject_id: str,
        feeds: Sequence[Feed],
        start: Start,
    ) -> None:
        self._reader = Reader(cluster, timeouts)
        self._cluster, self._subject_id, self._start = cluster, subject_id, start
        self._feeds: Mapping[str, list[Feed]] = _by(feeds)
        self._thread = ThreadPoolExecutor(1, "fleetcert-events")
        self._consumer: Consumer | None = None
        self._first: list[Event] | None = None
        self._next: dict[str, Position] = {}
        self._before: dict[str, Happening] = {}
        self.in_hand = 0
        self.closed = False

    async def opened(self) -> list[Event]:
        """Begin, once; return what is told at the beginning."""
        if self.closed:
            raise FleetError("this reading is closed: ask for the events again")
        if self._first is None:
            self._first = await self._run(self._open)
        return self._first

    async def poll(self) -> list[Event]:
        """Return the next events, none where nothing has come for POLL_SECONDS."""
        told: list[Event] = await self._run(self._poll)
        return told

    async def close(self) -> None:
        """Close the consumer, behind what its thread is doing."""
        if not self.closed:
            self.closed = True
            await self._run(self._close)
            self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _open(self) -> list[Event]:
        queued = {"queued.max.messages.kbytes": QUEUED_KIB}
        places = [self._place(topic) for topic in self._feeds]
        self._consumer = Consumer(settings(self._cluster, **READING, **queued))
        self._consumer.assign(
            [
                TopicPartition(self._cluster.named(one.topic), one.partition, one.offset)
                for one in places
            ]
        )
        self._next = {one.topic: one for one in places}
        now = self._as_it_is() if self._start == LATEST else []
        return [event for one in now for event in self._told(one)]

    def _place(self, topic: str) -> Position:
        key = self._key(self._feeds[topic][0])
        number = partition_of(key, len(self._reader.partitions(topic)))
        if isinstance(self._start, tuple):
            for one in self._start:
                if (one.topic, one.partition) == (topic, number):
                    return one
        if self._start == EARLIEST:
            return Position(topic, number, OFFSET_BEGINNING)
        return Position(topic, number, self._reader.ends(topic, [number])[number])

    def _as_it_is(self) -> Iterable[Found]:
        """Return the last record of each feed that tells changes only: that is how it is now."""
        for topic, feeds in self._feeds.items():
            if any(one.changes_only for one in feeds):
                yield from deque(self._reader.read(topic, device_id=self._subject_id), maxlen=1)

    def _poll(self) -> list[Event]:
        assert self._consumer is not None
        told: list[Event] = []
        for message in self._consumer.consume(POLL_MAX, POLL_SECONDS):
            error, topic = message.error(), self._cluster.plain(message.topic())
            if error is not None:
                if error.fatal():
                    raise FleetError(f"reading {topic} stopped: {error.str()}")
                continue
            self._next[topic] = Position(topic, message.partition(), message.offset() + 1)
            if message.key() == self._key(self._feeds[topic][0]):
                told += self._told(found(topic, message))
        return told

    def _told(self, one: Found) -> list[Event]:
        told = []
        for feed in self._feeds[one.topic]:
            what = feed.happened(one.record)
            if what is None or (feed.changes_only and self._before.get(feed.name) == what):
                continue
            self._before[feed.name] = what
            told.append(Event(what, one.at, tuple(self._next.values())))
        return told

    def _key(self, feed: Feed) -> bytes:
        return f"{feed.prefix}{self._subject_id}".encode()

    def _close(self) -> None:
        self._reader.close()
        if self._consumer is not None:
            self._consumer.close()


def _by(feeds: Sequence[Feed]) -> Mapping[str, list[Feed]]:
    found: dict[str, list[Feed]] = {}
    for one in feeds:
        found.setdefault(one.topic, []).append(one)
    return found
