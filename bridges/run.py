"""The life of a bridge process: join the group, hold what it owns, deliver commands, drain."""

import asyncio
import contextlib
import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, get_args

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from bridges.bridge import Bridge
from bridges.heartbeat import Heartbeat, Rhythm
from bridges.kafka import EXIT_FATAL, Recorder
from bridges.membership import Membership
from configuration.cluster import Cluster
from schemas import codec
from schemas.commands import Command
from schemas.decisions import DeadLetter
from schemas.envelope import Position
from schemas.reasons import Reason
from schemas.topics import DEAD_LETTERS, DEVICE_COMMANDS

log = structlog.get_logger()
B = TypeVar("B", bound=Bridge)
DRAIN_SECONDS = 5.0
"""For each of: commands on their way, records on their way."""
METADATA_SECONDS = 2.0
CLOSE_SECONDS = 10.0
BATCH_MAX = 500
DELIVERIES_MAX = 100
"""Commands on their way to the broker at once."""
FENCED_AGAIN_SECONDS = 60.0
NOT_TOLD = frozenset((KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE))
"""Told so when it asks where to begin, librdkafka seeks its coordinator, and asks no more."""
COMMANDS = get_args(Command)


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """How the bridge takes part in its consumer group.

    `instance` is a static member's name (KIP-345): a bridge that is started anew under the name of
    one that died has its buckets at once; others take them over after the session time-out.
    """

    cluster: Cluster
    group: str = "mqtt-bridges"
    buckets: int = 8
    session_timeout_seconds: float = 6.0
    instance: str = ""
    heartbeat_seconds: float = 10.0


class Fenced(Exception):
    """Kafka knows another member by this bridge's name; the consumer is of no more use."""


class Estranged(Exception):
    """Kafka answers, and this member is outside its group, or deaf in it: it needs another."""


class Owner:
    """Commands and bucket ownership, through one consumer group."""

    def __init__(self, settings: GroupSettings, bridge: Bridge, recorder: Recorder) -> None:
        self._settings, self._bridge, self._recorder = settings, bridge, recorder
        self._loop = asyncio.get_running_loop()
        self._owned: set[int] = set()
        self._partitions = 0
        self._commands = settings.cluster.named(DEVICE_COMMANDS)
        self._consumer, self._membership = _member(settings), Membership()

    async def run(self, stopping: asyncio.Event) -> None:
        """Deliver commands until `stopping`, then leave the group.

        A member that Kafka takes for a stranger under its own name joins once more: so it is when
        Kafka was killed after it had answered a join and before it had written it down. Told so
        again within FENCED_AGAIN_SECONDS, another bridge has this name: raises SystemExit. A member
        that has long been outside its group, though Kafka answers, joins anew as well.
        """
        fenced = -math.inf
        while not stopping.is_set():
            try:
                await self._take_part(stopping)
            except Fenced as error:
                before, fenced = fenced, time.monotonic()
                log.warning("bridge.fenced", error=str(error))
                if fenced - before < FENCED_AGAIN_SECONDS:
                    log.error("bridge.name_taken", bridge=self._settings.instance)
                    raise SystemExit(EXIT_FATAL) from error
                await self._begin_anew()
            except Estranged:
                log.warning("bridge.estranged", advice="it joins its group anew")
                await self._begin_anew()
        await asyncio.to_thread(self._consumer.close)

    async def _begin_anew(self) -> None:
        """Let the consumer go, whatever becomes of it, and take another."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(self._consumer.close), CLOSE_SECONDS)
        self._consumer, self._membership = _member(self._settings), Membership()

    async def _take_part(self, stopping: asyncio.Event) -> None:
        """Be a member of the group until `stopping`. Raises Fenced, Estranged."""
        await self._await_topic(stopping)
        self._consumer.subscribe(
            [self._commands], on_assign=self._assigned, on_revoke=self._revoked
        )
        while not stopping.is_set():
            taken = sound(await asyncio.to_thread(self._consumer.consume, BATCH_MAX, 0.2))
            for start in range(0, len(taken), DELIVERIES_MAX):
                part = taken[start : start + DELIVERIES_MAX]
                await asyncio.gather(*(self._deliver(one) for one in part))
            if taken:
                await asyncio.to_thread(self._commit, taken)
            if self._membership.may_ask(time.monotonic()):
                answers = await asyncio.to_thread(self._count_partitions) > 0
                if self._membership.estranged(answers, time.monotonic()):
                    raise Estranged

    async def _await_topic(self, stopping: asyncio.Event) -> None:
        """Learn the partition count, fixed at creation, once Kafka and the topic are there.

        Not in the rebalance callback: a call of the consumer from within its own callback leaves
        confluent-kafka 2.16.1 without its thread state, and the next callback of the same
        `consume` aborts the process (seen when Kafka was killed; confluent-kafka-python #2313).
        """
        while not stopping.is_set():
            self._partitions = await asyncio.to_thread(self._count_partitions)
            if self._partitions:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), METADATA_SECONDS)

    def _count_partitions(self) -> int:
        """Return the partition count of the topic, 0 where Kafka or the topic is away."""
        try:
            listed = self._consumer.list_topics(self._commands, timeout=METADATA_SECONDS)
        except KafkaException as error:
            log.warning("kafka.away", error=str(error))
            return 0
        found = listed.topics[self._commands]
        if found.error is not None:
            log.warning("topic.away", topic=DEVICE_COMMANDS, error=str(found.error))
        return len(found.partitions)

    def _commit(self, taken: list[Message]) -> None:
        last = {(one.topic(), one.partition()): one.offset() + 1 for one in taken}
        offsets = [TopicPartition(*where, offset) for where, offset in last.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:  # a rebalance came between: the next owner sends again
            log.warning("commit.failed", error=str(error))

    async def _deliver(self, message: Message) -> None:
        try:
            command = codec.decode(message.value() or b"")
            if not isinstance(command, COMMANDS):
                raise codec.Undecodable(f"{type(command).__name__} is no command for a device")
        except codec.Undecodable as error:
            await self._dead_letter(message, str(error))
            return
        await self._bridge.deliver(command)

    async def _dead_letter(self, message: Message, detail: str) -> None:
        """Set a record aside; return when Kafka has it, so that no commit goes before it."""
        kept = asyncio.Event()
        topic = self._settings.cluster.plain(message.topic())
        where = Position(topic, message.partition(), message.offset())
        letter = DeadLetter(
            reason=Reason.UNDECODABLE.value,
            detail=detail,
            origin="mqtt bridge",
            cause=where,
            key=message.key() or b"",
            payload=message.value() or b"",
            letter_id=f"x-{where.topic}-{where.partition}-{where.offset}",
        )
        self._recorder.record(DEAD_LETTERS, letter.key, codec.encode(letter), kept.set)
        await kept.wait()

    def _assigned(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._membership.joined = True
        self._owned |= {one.partition for one in partitions}
        self._own()

    def _revoked(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._membership.joined = False
        self._owned -= {one.partition for one in partitions}
        self._own()

    def _own(self) -> None:
        """Hold the buckets of the owned partitions. Called in the consumer's thread."""
        buckets = {
            one for one in range(self._settings.buckets) if one % self._partitions in self._owned
        }
        asyncio.run_coroutine_threadsafe(self._bridge.own(buckets), self._loop).result()


class Source(Protocol):
    """Where a bridge's commands come from."""

    async def run(self, stopping: asyncio.Event) -> None:
        """Deliver commands until `stopping`."""


async def run(
    settings: GroupSettings, recorder: Recorder, make: Callable[[Recorder], Bridge]
) -> None:
    """Run one bridge of a consumer group until SIGTERM or SIGINT, then drain."""
    beats = settings.heartbeat_seconds > 0
    rhythm = Rhythm(settings.buckets, settings.heartbeat_seconds) if beats else None
    await live(recorder, make, lambda bridge: Owner(settings, bridge, recorder), rhythm)


async def live(
    recorder: Recorder,
    make: Callable[[Recorder], B],
    source: Callable[[B], Source],
    rhythm: Rhythm | None = None,
) -> None:
    """Run one bridge, whatever its commands come from, until SIGTERM or SIGINT, then drain.

    With a rhythm, the door tells which of its shares this bridge serves.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, stopping.set)
    bridge = make(recorder)
    owning = asyncio.create_task(source(bridge).run(stopping))
    tasks: list[asyncio.Task[Any]] = [
        asyncio.create_task(bridge.keep_down()),
        asyncio.create_task(recorder.keep_polling(bridge.progressed)),
        asyncio.create_task(stopping.wait()),
        owning,
    ]
    if rhythm is not None:
        tasks.append(asyncio.create_task(Heartbeat(rhythm, bridge, recorder).beat()))
    log.info("bridge.started", bridge=type(bridge).__name__)
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    stopping.set()
    await asyncio.wait([owning], timeout=DRAIN_SECONDS)  # a command may wait for a broker away
    await bridge.close()
    left = await asyncio.to_thread(recorder.flush, DRAIN_SECONDS)
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    log.info("bridge.stopped", unsent=left)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
            raise result


def _member(settings: GroupSettings) -> Consumer:
    """Return a consumer of the commands that is to join the bridges' group."""
    milliseconds = int(settings.session_timeout_seconds * 1000)
    return Consumer(
        settings.cluster.settings(
            {
                "group.id": settings.group,
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "session.timeout.ms": milliseconds,
                "heartbeat.interval.ms": milliseconds // 4,
                "fetch.wait.max.ms": 50,
                "reconnect.backoff.max.ms": 1_000,
                **({"group.instance.id": settings.instance} if settings.instance else {}),
            }
        )
    )


def sound(messages: list[Message]) -> list[Message]:
    """Return the records among what was consumed. Raises Fenced, Estranged.

    After Kafka stood still, a member that had its partitions back was answered `not coordinator`
    when it asked where to begin. librdkafka did not ask again: the bridge held its buckets, and
    read no command for as long as it lived. It does the same with both answers of NOT_TOLD.
    """
    for one in messages:
        error = one.error()
        if error is None:
            continue
        log.warning("kafka.error", error=str(error))
        if error.fatal() or error.code() == KafkaError._FATAL:
            raise Fenced(str(error))
        if error.code() in NOT_TOLD:
            raise Estranged
    return [one for one in messages if one.error() is None]
