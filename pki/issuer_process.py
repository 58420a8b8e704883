"""The issuer's process: reads `certificate.requests`, answers into `device.events`.

The order is: judge, publish, wait for Kafka, write the revocation list, commit. A crash anywhere
does the same work again and gives the same bytes. The topic has one partition: the consumer group
makes one process active and the others stand by.
"""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaException, Message, Producer
from prometheus_client import Counter, Gauge, start_http_server

from pki import authority, files, revocation
from pki.issuer import Terms, judge
from schemas import codec, topics
from schemas.commands import RevokeCertificate, SignCertificate
from schemas.decisions import DeadLetter
from schemas.envelope import Position
from schemas.events import CertificateIssued, CertificateRevoked, SigningRefused
from schemas.reasons import Reason
from streams.engine.log import read_to_end

log = structlog.get_logger()
BATCH_MAX = 200
DELIVERY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Settings:
    """How the issuer is started."""

    bootstrap: str
    directory: Path
    metrics_port: int = 0
    lifetime_days: float = 90.0
    session_timeout_seconds: float = 6.0


class Issuer:
    """The one holder of the device CA's key."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._signer = authority.load(settings.directory).device
        self._terms = Terms(timedelta(days=settings.lifetime_days))
        self._crl_path = settings.directory / "device-ca" / "device.crl"
        self._revoked: dict[str, revocation.Revoked] = {}
        self._stopping = False
        self._answered = Counter("issuer_answers", "Requests answered.", ["outcome"])
        self._entries = Gauge("issuer_crl_entries", "Entries of the revocation list.")
        self._producer = Producer(
            {
                "bootstrap.servers": settings.bootstrap,
                "partitioner": topics.PARTITIONER,
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 1,
            }
        )
        self._consumer = Consumer(
            {
                "bootstrap.servers": settings.bootstrap,
                "group.id": "issuer",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "session.timeout.ms": int(settings.session_timeout_seconds * 1000),
                "heartbeat.interval.ms": int(settings.session_timeout_seconds * 250),
                "fetch.wait.max.ms": 50,
            }
        )

    def run(self) -> None:
        """Answer requests until SIGTERM or SIGINT."""
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, self._stop)
        if self._settings.metrics_port:
            start_http_server(self._settings.metrics_port, "127.0.0.1")
        self._consumer.subscribe(
            [topics.CERTIFICATE_REQUESTS], on_assign=lambda *_: self._remember_revocations()
        )
        log.info("issuer.started")
        while not self._stopping:
            messages = self._consumer.consume(BATCH_MAX, 0.2)
            taken = [one for one in messages if one.error() is None]
            if taken:
                self._answer(taken)
        self._consumer.close()
        log.info("issuer.stopped")

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _answer(self, messages: Sequence[Message]) -> None:
        revoked = False
        for message in messages:
            record = self._decoded(message)
            if isinstance(record, SignCertificate):
                self._sign(record)
            elif isinstance(record, RevokeCertificate):
                self._take(record)
                revoked = True
        if revoked:
            number = self._write_list()
            for message in messages:
                record = self._decoded(message, tell=False)
                if isinstance(record, RevokeCertificate):
                    self._publish(
                        CertificateRevoked(
                            record.device_id, record.fingerprint, record.serial, number
                        )
                    )
        if self._producer.flush(DELIVERY_SECONDS):
            raise SystemExit("the issuer's answers did not reach Kafka; it will start anew")
        self._consumer.commit(message=messages[-1], asynchronous=False)

    def _sign(self, request: SignCertificate) -> None:
        started = time.perf_counter()
        answer = judge(request, self._signer, self._revoked, self._terms)
        if os.environ.get("FLEETCERT_FAULT") == "issuer:after-sign":
            os.kill(os.getpid(), signal.SIGKILL)
        self._publish(answer)
        outcome = "signed" if isinstance(answer, CertificateIssued) else answer.reason
        self._answered.labels(outcome).inc()
        log.info(
            "request.answered",
            device=request.device_id,
            request=request.request_id,
            outcome=outcome,
            milliseconds=round((time.perf_counter() - started) * 1000, 2),
        )

    def _take(self, request: RevokeCertificate) -> None:
        self._revoked[request.serial] = revocation.Revoked(
            request.serial, request.revoked_at, request.not_after_at
        )

    def _write_list(self) -> int:
        """Write the list under the next number; return the number."""
        number = (
            revocation.number(self._crl_path.read_bytes()) + 1 if self._crl_path.exists() else 1
        )
        crl = revocation.build(self._signer, self._revoked.values(), number, datetime.now(UTC))
        files.write(self._crl_path, crl)
        self._entries.set(len(self._revoked))
        return number

    def _remember_revocations(self) -> None:
        """Read all revocations of the topic: the list is a fold of it, kept nowhere else."""
        chunks = read_to_end(
            self._settings.bootstrap, topics.CERTIFICATE_REQUESTS, 0, 0, within=600.0
        )
        for message in (one for chunk in chunks for one in chunk.messages):
            record = self._decoded(message, tell=False)
            if isinstance(record, RevokeCertificate):
                self._take(record)
        self._entries.set(len(self._revoked))

    def _publish(self, event: CertificateIssued | SigningRefused | CertificateRevoked) -> None:
        self._producer.produce(topics.DEVICE_EVENTS, codec.encode(event), event.device_id.encode())
        self._producer.poll(0)

    def _decoded(self, message: Message, *, tell: bool = True) -> Any:
        try:
            return codec.decode(message.value() or b"")
        except codec.Undecodable as error:
            if tell:
                self._dead_letter(message, str(error))
            return None

    def _dead_letter(self, message: Message, detail: str) -> None:
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        letter = DeadLetter(
            reason=Reason.UNDECODABLE.value,
            detail=detail,
            origin="issuer",
            cause=Position(topic, partition, offset),
            key=message.key() or b"",
            payload=message.value() or b"",
            letter_id=f"x-{topic}-{partition}-{offset}",
        )
        self._producer.produce(topics.DEAD_LETTERS, codec.encode(letter), letter.key)
        self._answered.labels(Reason.UNDECODABLE.value).inc()


def run(settings: Settings) -> None:
    """Start, with patience for a Kafka that is not there yet."""
    try:
        Issuer(settings).run()
    except KafkaException as error:
        raise SystemExit(
            f"the issuer lost Kafka: {error}; the supervisor starts it anew"
        ) from error
