"""The issuer's process: `certificate.requests` in, `device.events` and the revocation list out.

    read → fold, judge → write device.crl → publish → Kafka has it → commit

Rules of this file: the topic has one partition, so the consumer group makes one process active and
the others stand by. On assignment the topic is read from its start: records below the committed
offset are folded only, the others are answered. A crash anywhere gives the same answers again, byte
for byte; a zombie's answers are equal to its successor's. No secret and no CSR is ever logged.
"""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, Producer, TopicPartition

from pki import issuer, ledger, revocation
from pki.authority import Authority
from pki.meter import Meter
from schemas import codec, topics
from schemas.commands import RevokeCertificate, SignCertificate
from schemas.decisions import DeadLetter
from schemas.envelope import Position
from schemas.events import CertificateIssued, CertificateRevoked, SigningRefused
from schemas.reasons import Reason

BATCH_MAX = 500
"""Records answered per commit."""
POLL_SECONDS = 0.5
DELIVERY_SECONDS = 30.0
"""How long Kafka may take to acknowledge a batch; then the process ends and starts anew."""
SESSION_MS = 10_000
"""After this long a standby takes over from an issuer that died."""
FAULT = "issuer:after-sign"

log = structlog.get_logger("issuer")


class IssuerStopped(RuntimeError):
    """Kafka did not take the answers, or cannot give the history. Start anew once it can."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How the issuer is run."""

    bootstrap: str
    policy: issuer.Policy = field(default_factory=issuer.Policy)
    limits: ledger.Limits = field(default_factory=ledger.Limits)
    kafka: dict[str, Any] = field(default_factory=dict)


class IssuerProcess:
    """One issuer: active while it holds the partition, standing by otherwise."""

    def __init__(self, authority: Authority, settings: Settings, meter: Meter) -> None:
        self._ca = authority.device
        self._folder = authority.directory / "device-ca"
        self._settings = settings
        self._meter = meter
        self._state = ledger.State(settings.limits)
        self._committed = 0
        self._active = False
        self._list_due_at = 0
        self._failures: list[str] = []
        self._producer = Producer(_producing(settings))
        self._consumer = Consumer(_consuming(settings))

    def run(self, stopping: Callable[[], bool]) -> None:
        """Answer until `stopping` says so. Raises IssuerStopped where Kafka does not go along."""
        self._consumer.subscribe(
            [topics.CERTIFICATE_REQUESTS], on_assign=self._assigned, on_revoke=self._lost
        )
        log.info("issuer.started")
        try:
            while not stopping():
                self._turn(self._consumer.consume(BATCH_MAX, POLL_SECONDS))
        finally:
            self._consumer.close()
        log.info("issuer.stopped", next_offset=self._state.next_offset)

    def _assigned(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        """Start from the beginning: the state is a fold of the topic and kept nowhere else."""
        if not partitions:
            return
        self._state = ledger.State(self._settings.limits)
        committed = consumer.committed(partitions, timeout=DELIVERY_SECONDS)[0]
        self._committed = max(0, committed.offset)
        first, _ = consumer.get_watermark_offsets(partitions[0], timeout=DELIVERY_SECONDS)
        if first > 0:
            self._failures.append(
                f"{topics.CERTIFICATE_REQUESTS} begins at {first}: revocations before it are lost; "
                "restore the topic, its retention must be unlimited"
            )
        for one in partitions:
            one.offset = OFFSET_BEGINNING
        consumer.assign(partitions)
        self._active, self._list_due_at = True, 0
        log.info("issuer.active", committed=self._committed)

    def _lost(self, _consumer: Any, _partitions: list[TopicPartition]) -> None:
        self._active = False
        log.info("issuer.standing_by")

    def _turn(self, messages: list[Message]) -> None:
        """Answer one batch, then commit it; renew the list where it is due."""
        if self._failures:
            raise IssuerStopped(self._failures[0])
        read = [one for one in messages if one.error() is None]
        for message in messages:
            if message.error() is not None:
                log.warning("issuer.kafka", error=str(message.error()))
        answered = [(one, self._answer(one)) for one in read]
        kept = [(one, answer) for one, answer in answered if answer is not None]
        revoked = any(isinstance(answer, CertificateRevoked) for _, answer in kept)
        if self._active and self._state.next_offset >= self._committed:
            self._list(_now(), forced=revoked)
        for message, answer in kept:
            self._publish(message, answer)
        if kept:
            self._flush()
            self._consumer.commit(message=kept[-1][0], asynchronous=False)
            self._committed = self._state.next_offset

    def _answer(self, message: Message) -> ledger.Answer | None:
        """Fold the record; answer it where it is not answered yet."""
        offset, at = _offset(message), message.timestamp()[1]
        try:
            record = codec.decode(message.value() or b"")
        except codec.Undecodable as error:
            self._state.next_offset = offset + 1
            unfit = ledger.Unfit(Reason.UNDECODABLE, str(error))
            return unfit if offset >= self._committed else None
        if not isinstance(record, SignCertificate | RevokeCertificate):
            self._state.next_offset = offset + 1
            unfit = ledger.Unfit(Reason.UNKNOWN_TYPE, type(record).__name__)
            return unfit if offset >= self._committed else None
        noted = ledger.note(self._state, record, offset, at)
        if offset < self._committed:
            return None
        started = time.perf_counter()
        answer = ledger.answer(self._state, record, noted, at, self._ca, self._settings.policy)
        _tell(record, answer, offset, time.perf_counter() - started)
        if isinstance(answer, CertificateIssued):
            fault_point(self._folder)
        return answer

    def _list(self, now: int, *, forced: bool) -> None:
        """Write the list where an entry came or the last one is due."""
        if not forced and now < self._list_due_at:
            return
        pem = ledger.crl(self._state, self._ca, now)
        written = revocation.write(self._folder, pem, self._ca.certificate)
        made = revocation.parse(pem, self._ca.certificate)
        self._list_due_at = now + _ms(self._settings.limits.crl_refresh.total_seconds())
        self._meter.listed(len(made.revoked), made.next_update_at)
        log.info("issuer.listed", number=made.number, entries=len(made.revoked), written=written)

    def _publish(self, message: Message, answer: ledger.Answer) -> None:
        if isinstance(answer, ledger.Unfit):
            letter = _letter(message, answer)
            self._produce(topics.DEAD_LETTERS, letter.key, letter)
            self._meter.refused(answer.reason.value)
            return
        self._produce(topics.DEVICE_EVENTS, answer.device_id.encode(), answer)
        if isinstance(answer, CertificateIssued):
            self._meter.signed()
        elif isinstance(answer, SigningRefused):
            self._meter.refused(answer.reason)

    def _produce(self, topic: str, key: bytes, record: Any) -> None:
        self._producer.produce(topic, codec.encode(record), key, on_delivery=self._delivered)
        self._producer.poll(0)

    def _delivered(self, error: Any, _message: Message) -> None:
        if error is not None:
            self._failures.append(f"Kafka refused an answer: {error}")

    def _flush(self) -> None:
        if self._producer.flush(DELIVERY_SECONDS) > 0:
            raise IssuerStopped(f"Kafka did not acknowledge within {DELIVERY_SECONDS:g} s")
        if self._failures:
            raise IssuerStopped(self._failures[0])


def fault_point(folder: Path) -> None:
    """Die here once, where FLEETCERT_FAULT says so: signed, and nobody knows."""
    marker = folder / ".fault-after-sign"
    if os.environ.get("FLEETCERT_FAULT") == FAULT and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def _tell(
    record: SignCertificate | RevokeCertificate,
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


def _letter(message: Message, unfit: ledger.Unfit) -> DeadLetter:
    topic, partition, offset = message.topic() or "", message.partition() or 0, _offset(message)
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
    return {
        **settings.kafka,
        "bootstrap.servers": settings.bootstrap,
        "client.id": "issuer",
        "acks": "all",
        "enable.idempotence": True,
        "partitioner": topics.PARTITIONER,
        "linger.ms": 5,
    }


def _consuming(settings: Settings) -> dict[str, Any]:
    return {
        **settings.kafka,
        "bootstrap.servers": settings.bootstrap,
        "group.id": "issuer",
        "client.id": "issuer",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "isolation.level": "read_committed",
        "auto.offset.reset": "earliest",
        "session.timeout.ms": SESSION_MS,
        "heartbeat.interval.ms": SESSION_MS // 4,
    }


def _now() -> int:
    return time.time_ns() // 1_000_000


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
