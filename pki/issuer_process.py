"""The issuer's process: `certificate.requests` in, `device.events` and the revocation list out.

    read → fold, judge → write device.crl → publish → Kafka has it → commit

What it answers to invited devices goes to `device.invitations` as well, where doors of EST read it.

Rules of this file: the topic has one partition, so the consumer group makes one process active and
the others stand by. On assignment the topic is read from its start: records below the committed
offset are folded only, the others are answered. A crash anywhere gives the same answers again, byte
for byte; a zombie's answers are equal to its successor's. Kafka away means waiting, whatever its
length. No secret and no CSR is ever logged.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from configuration.cluster import Cluster
from pki import faults, issuer, ledger, revocation
from pki.authority import Authority
from pki.meter import Meter
from schemas import codec, topics
from schemas.commands import AnswerInvited, ForIssuer
from schemas.decisions import DeadLetter
from schemas.envelope import Position
from schemas.events import (
    CertificateIssued,
    CertificateRevoked,
    DeviceRegistered,
    SigningRefused,
)
from schemas.reasons import Reason

BATCH_MAX = 500
"""Records answered per commit."""
POLL_SECONDS = 0.5
REQUEST_SECONDS = 5.0
TOLD_SECONDS = 10.0
"""While Kafka is away the log says so this often."""

ANSWER = "answer:"
"""What stands before the device id in the key of an answer on `device.invitations`."""

log = structlog.get_logger("issuer")


class IssuerStopped(RuntimeError):
    """The issuer cannot go on; the message says what to mend before it is started anew."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How the issuer is run.

    `issuer_id` is a static member's name (KIP-345): an issuer that is started anew under the name
    of one that died has its place at once. After `session_timeout_seconds` a standby takes over.
    """

    cluster: Cluster
    policy: issuer.Policy = field(default_factory=issuer.Policy)
    limits: ledger.Limits = field(default_factory=ledger.Limits)
    issuer_id: str = "issuer-0"
    session_timeout_seconds: float = 6.0
    kafka: dict[str, Any] = field(default_factory=dict)


class IssuerProcess:
    """One issuer: active while it holds the partition, standing by otherwise."""

    def __init__(self, authority: Authority, settings: Settings, meter: Meter) -> None:
        self._ca = authority.device
        self._folder = authority.directory / "device-ca"
        self._settings = settings
        self._requests = settings.cluster.named(topics.CERTIFICATE_REQUESTS)
        self._meter = meter
        self._state = ledger.State(settings.limits)
        self._committed = 0
        self._assigned: list[TopicPartition] = []
        self._active = False
        self._list_due_at = 0
        self._listed: revocation.Mark | None = None
        self._failures: list[str] = []
        self._words: list[AnswerInvited] = []
        self._producer = Producer(_producing(settings))
        self._consumer = Consumer(_consuming(settings))

    def run(self, stopping: Callable[[], bool]) -> None:
        """Answer until `stopping` says so. Raises IssuerStopped where it cannot go on."""
        self._consumer.subscribe(
            [self._requests], on_assign=self._on_assign, on_revoke=self._on_revoke
        )
        log.info("issuer.started", issuer_id=self._settings.issuer_id)
        try:
            while not stopping():
                messages = _sound(self._consumer.consume(BATCH_MAX, POLL_SECONDS))
                if self._assigned:
                    self._begin()  # what came so far came from the committed offset
                elif self._active:
                    self._turn(messages, stopping)
        finally:
            self._consumer.close()
        log.info("issuer.stopped", next_offset=self._state.next_offset)

    def _on_assign(self, _consumer: Any, partitions: list[TopicPartition]) -> None:
        """Note it only: a consumer called within its own callback may abort the process.

        confluent-kafka-python #2313, seen when Kafka was killed.
        """
        self._assigned = list(partitions)

    def _on_revoke(self, _consumer: Any, _partitions: list[TopicPartition]) -> None:
        self._assigned, self._active = [], False
        self._meter.active(False)
        log.info("issuer.standing_by")

    def _begin(self) -> None:
        """Start from the beginning: the state is a fold of the topic and kept nowhere else."""
        where = self._assigned
        try:
            committed = self._consumer.committed(where, timeout=REQUEST_SECONDS)[0]
            # a consumer remembers that a partition had no leader until it is told to look
            self._consumer.list_topics(where[0].topic, timeout=REQUEST_SECONDS)
            first, _ = self._consumer.get_watermark_offsets(where[0], timeout=REQUEST_SECONDS)
        except KafkaException as error:
            log.warning("issuer.kafka_away", error=str(error))
            return
        if first > 0:
            raise IssuerStopped(
                f"{topics.CERTIFICATE_REQUESTS} begins at {first}: revocations before it are lost; "
                "restore the topic, its retention must be unlimited"
            )
        self._state = ledger.State(self._settings.limits)
        self._committed = max(0, committed.offset)
        self._consumer.assign(
            [TopicPartition(one.topic, one.partition, OFFSET_BEGINNING) for one in where]
        )
        self._assigned, self._active, self._list_due_at = [], True, 0
        self._meter.active(True)
        log.info("issuer.active", committed=self._committed)

    def _turn(self, messages: list[Message], stopping: Callable[[], bool]) -> None:
        """Answer one batch, then commit it; renew the list where it is due."""
        answered = [(one, self._answer(one)) for one in messages]
        kept = [(one, answer) for one, answer in answered if answer is not None]
        revoked = any(isinstance(answer, CertificateRevoked) for _, answer in kept)
        if self._state.next_offset >= self._committed:
            self._list(_now(), forced=revoked)
        if revoked:
            faults.point("issuer:after-list")
        for message, answer in kept:
            self._publish(message, answer)
        for word in self._words:
            key = f"{ANSWER}{word.device_id}".encode()
            self._produce(topics.DEVICE_INVITATIONS, key, word)
        self._words.clear()
        if kept and self._flushed(stopping):
            faults.point("issuer:after-publish")
            self._commit(kept[-1][0])
            for message, _ in kept:
                self._meter.answered((_now() - message.timestamp()[1]) / 1000)
            faults.point("issuer:after-commit")
        self._show_queue()

    def _commit(self, last: Message) -> None:
        self._committed = self._state.next_offset
        try:
            self._consumer.commit(message=last, asynchronous=False)
        except KafkaException as error:  # a rebalance came between: the next one answers alike
            log.warning("issuer.commit_failed", error=str(error))

    def _show_queue(self) -> None:
        """Show how many requests wait, by what the consumer has heard of the topic's end."""
        where = TopicPartition(self._requests, 0)
        _, end = self._consumer.get_watermark_offsets(where, cached=True)
        self._meter.waiting(max(0, end - self._state.next_offset))

    def _answer(self, message: Message) -> ledger.Answer | None:
        """Fold the record; answer it where it is not answered yet."""
        offset, at = _offset(message), message.timestamp()[1]
        try:
            record = codec.decode(message.value() or b"")
        except codec.Undecodable as error:
            self._state.next_offset = offset + 1
            unfit = ledger.Unfit(Reason.UNDECODABLE, str(error))
            return unfit if offset >= self._committed else None
        if not isinstance(record, ForIssuer):
            self._state.next_offset = offset + 1
            unfit = ledger.Unfit(Reason.UNKNOWN_TYPE, type(record).__name__)
            return unfit if offset >= self._committed else None
        noted = ledger.note(self._state, record, offset, at)
        if offset < self._committed:
            return None
        started = time.perf_counter()
        answer = ledger.answer(self._state, record, noted, at, self._ca, self._settings.policy)
        seconds = time.perf_counter() - started
        self._meter.judged(seconds)
        word = ledger.told(record, answer)
        if word is not None:
            self._words.append(word)
        _tell(record, answer, offset, seconds)
        if isinstance(answer, CertificateIssued | DeviceRegistered):
            faults.point("issuer:after-sign")
        return answer

    def _list(self, now: int, *, forced: bool) -> None:
        """Write the list where an entry came, the last one is due, or the file is not ours.

        A zombie that was stopped in the middle of writing may put its older list over ours.
        """
        there = self._listed is not None and revocation.mark(self._folder) == self._listed
        if there and not forced and now < self._list_due_at:
            return
        pem = ledger.crl(self._state, self._ca, now)
        written = revocation.write(self._folder, pem, self._ca.certificate)
        self._listed = revocation.mark(self._folder)
        made = revocation.parse(pem, self._ca.certificate)
        self._list_due_at = now + _ms(self._settings.limits.crl_refresh.total_seconds())
        self._meter.listed(len(made.revoked), made.next_update_at)
        log.info("issuer.listed", number=made.number, entries=len(made.revoked), written=written)

    def _publish(self, message: Message, answer: ledger.Answer) -> None:
        if isinstance(answer, ledger.Unfit):
            letter = _letter(self._settings.cluster.plain(message.topic()), message, answer)
            self._produce(topics.DEAD_LETTERS, letter.key, letter)
            self._meter.refused(answer.reason.value)
            return
        self._produce(topics.DEVICE_EVENTS, answer.device_id.encode(), answer)
        if isinstance(answer, CertificateIssued | DeviceRegistered):
            self._meter.signed()
        elif isinstance(answer, SigningRefused):
            self._meter.refused(answer.reason)

    def _produce(self, topic: str, key: bytes, record: Any) -> None:
        name = self._settings.cluster.named(topic)
        self._producer.produce(name, codec.encode(record), key, on_delivery=self._delivered)
        self._producer.poll(0)

    def _delivered(self, error: Any, _message: Message) -> None:
        if error is not None:
            self._failures.append(f"Kafka refused an answer: {error}")

    def _flushed(self, stopping: Callable[[], bool]) -> bool:
        """Wait until Kafka has the answers, for as long as it takes; False where asked to stop.

        Raises IssuerStopped where Kafka refused one for good.
        """
        told = time.monotonic()
        while self._producer.flush(POLL_SECONDS) > 0:
            if stopping():
                return False
            if time.monotonic() - told > TOLD_SECONDS:
                told = time.monotonic()
                log.warning("issuer.kafka_away", unpublished=len(self._producer))
        if self._failures:
            raise IssuerStopped(self._failures[0])
        return True


def _sound(messages: list[Message]) -> list[Message]:
    """Return the records among what was consumed. Raises IssuerStopped on an error for good."""
    for one in messages:
        error = one.error()
        if error is not None and (error.fatal() or error.code() == KafkaError._FATAL):
            # another issuer has this id, or a join was answered while Kafka went away
            raise IssuerStopped(f"Kafka ended this consumer: {error}; start anew")
        if error is not None:
            log.warning("issuer.kafka", error=str(error))
    return [one for one in messages if one.error() is None]


def _tell(
    record: ForIssuer,
    answer: ledger.Answer,
    offset: int,
    seconds: float,
) -> None:
    reason = answer.reason if isinstance(answer, SigningRefused | ledger.Unfit) else Reason.NONE
    log.info(
        "issuer.answered",
        device_id=record.device_id,
        request_id=record.request_id,
        answer=type(answer).__name__,
        reason=str(reason),
        offset=offset,
        seconds=round(seconds, 6),
    )


def _letter(topic: str, message: Message, unfit: ledger.Unfit) -> DeadLetter:
    partition, offset = message.partition() or 0, _offset(message)
    return DeadLetter(
        reason=unfit.reason.value,
        detail=unfit.detail,
        origin="issuer",
        cause=Position(topic, partition, offset),
        key=message.key() or b"",
        payload=message.value() or b"",
        letter_id=f"issuer/{topic}/{partition}/{offset}",
    )


def _offset(message: Message) -> int:
    offset = message.offset()
    assert offset is not None, "a consumed message has an offset"
    return int(offset)


def _producing(settings: Settings) -> dict[str, Any]:
    return settings.cluster.settings(
        {
            **settings.kafka,
            "client.id": "issuer",
            "acks": "all",
            "enable.idempotence": True,
            "partitioner": topics.PARTITIONER,
            "linger.ms": 5,
            "message.timeout.ms": 0,
            "reconnect.backoff.max.ms": 1_000,
        }
    )


def _consuming(settings: Settings) -> dict[str, Any]:
    session = _ms(settings.session_timeout_seconds)
    return settings.cluster.settings(
        {
            **settings.kafka,
            "group.id": "issuer",
            "client.id": "issuer",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "group.instance.id": settings.issuer_id,
            "session.timeout.ms": session,
            "heartbeat.interval.ms": session // 4,
            "fetch.wait.max.ms": 100,
            "reconnect.backoff.max.ms": 1_000,
        }
    )


def _now() -> int:
    return time.time_ns() // 1_000_000


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
