"""Issuer processes for tests, and the requests that are put to them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.error import URLError

from confluent_kafka import Producer
from cryptography.hazmat.primitives.asymmetric import ec

from client.local.ports import free_ports
from pki import authority, faults, profile, requests
from schemas import codec
from schemas.commands import SignCertificate
from schemas.topics import CERTIFICATE_REQUESTS, PARTITIONER

LIFETIME = timedelta(days=90)
SESSION_SECONDS = 2.0


def now_ms() -> int:
    """Return the time in milliseconds."""
    return time.time_ns() // 1_000_000


@dataclass
class IssuerRun:
    """One issuer process and what it left: its log and its metrics."""

    process: subprocess.Popen[bytes]
    log: Path
    metrics_port: int

    def said(self, event: str) -> bool:
        """Tell whether the log has an event."""
        return f'"event": "{event}"' in self.log.read_text()

    def metric(self, name: str) -> float:
        """Return a sample by its whole name with labels; zero where it, or the process, is not."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics") as answer:
                lines = answer.read().decode().splitlines()
        except URLError:
            return 0.0
        return next((float(one.split()[-1]) for one in lines if one.startswith(f"{name} ")), 0.0)


@contextlib.contextmanager
def issuer(
    bootstrap: str, pki: Path, name: str = "a", fault: str = "", **options: object
) -> Iterator[IssuerRun]:
    """Run an issuer; end it with SIGKILL. `options` are those of the program."""
    (port,) = free_ports(1)
    words = {"--bootstrap": bootstrap, "--pki": pki, "--issuer-id": f"issuer-{name}"}
    words |= {"--metrics-port": port, "--session-timeout-seconds": SESSION_SECONDS}
    words |= {f"--{key.replace('_', '-')}": value for key, value in options.items()}
    command = [sys.executable, "-m", "pki", "issuer"]
    command += [str(one) for pair in words.items() for one in pair]
    log = pki.parent / f"issuer-{name}-{port}.log"
    with log.open("ab") as sink:
        process = subprocess.Popen(
            command, stdout=sink, stderr=sink, env=os.environ | {faults.VARIABLE: fault}
        )
    try:
        yield IssuerRun(process, log, port)
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


@dataclass(frozen=True)
class Applicant:
    """A device that asks for a new certificate, honestly unless told otherwise."""

    device_id: str
    made: authority.Authority
    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )

    @property
    def certificate(self) -> bytes:
        """The certificate it holds, DER."""
        start = datetime.now(UTC).replace(hour=0, minute=0, second=0) - timedelta(days=60)
        return profile.issue_device(
            self.made, self.device_id, self.key.public_key(), "first", start, LIFETIME
        )

    def asks(self, request_id: str = "", **signed: Any) -> SignCertificate:
        """Return its request; `signed` changes what goes into the signed part."""
        current = signed.get("current", self.certificate)
        nonce = b"n" * 32
        request = requests.make_signing_request(
            signed.get("device_id", self.device_id),
            signed.get("new_key") or ec.generate_private_key(ec.SECP256R1()),
            signed.get("current_key", self.key),
            current,
            nonce,
        )
        csr, at = requests.examine(request, None).csr, now_ms()
        return SignCertificate(
            request_id or f"sign-{self.device_id}",
            self.device_id,
            request,
            csr,
            nonce,
            current,
            at - 300_000,
            at,
        )

    def asks_with(self, request_id: str, **changes: Any) -> SignCertificate:
        """Return its request with fields of the record changed afterwards."""
        return replace(self.asks(request_id), **changes)


def put(bootstrap: str, *records: Any) -> None:
    """Write to `certificate.requests`, as anybody could who may write to Kafka."""
    producer = Producer({"bootstrap.servers": bootstrap, "partitioner": PARTITIONER})
    for one in records:
        value = one if isinstance(one, bytes) else codec.encode(one)
        producer.produce(CERTIFICATE_REQUESTS, value, getattr(one, "device_id", "x").encode())
    assert producer.flush(10) == 0
