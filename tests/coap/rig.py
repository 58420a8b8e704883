"""A CoAP bridge in this process: real sockets, TLS and DTLS, and a Kafka that obeys the test."""

import asyncio
import contextlib
import datetime
import hashlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificatePublicKeyTypes,
    PrivateKeyTypes,
)

from bridges.coap.bridge import CoapBridge
from bridges.coap.listeners import Settings
from bridges.coap.tcp import narrow_buffers
from pki import authority, twins
from pki.profile import issue_device
from schemas import codec
from schemas.commands import Command
from tests.helpers.wait import until_async

NOW = datetime.datetime.now(datetime.UTC)
HOUR = datetime.timedelta(hours=1)


class Kafka:
    """Takes records; acknowledges them at once, or not while it is away."""

    def __init__(self) -> None:
        self.records: list[tuple[str, bytes, Any]] = []
        self.away = False
        self.deliver: Callable[[Command], Awaitable[None]] | None = None
        self._unsaid: list[Callable[[], None]] = []

    def record(self, topic: str, key: bytes, value: bytes, done: Callable[[], None]) -> None:
        """Take a record."""
        self.records.append((topic, key, codec.decode(value)))
        self._unsaid.append(done)

    def poll(self) -> int:
        """Acknowledge."""
        if self.away:
            return 0
        said, self._unsaid = self._unsaid, []
        for one in said:
            one()
        return len(said)

    def of(self, kind: type) -> list[Any]:
        """Return the records of a kind, in order."""
        return [record for _, _, record in self.records if isinstance(record, kind)]


class Count:
    """Counts what the bridge counts."""

    def __init__(self) -> None:
        self.refusals: dict[str, int] = {}

    def refused(self, reason: str) -> None:
        """Count a refusal."""
        self.refusals[reason] = self.refusals.get(reason, 0) + 1

    def received(self, size: int) -> None:
        """Pass over."""

    def sent(self, count: int) -> None:
        """Pass over."""

    def sessions(self, transport: str, count: int) -> None:
        """Pass over."""

    def renewed(self, outcome: str, seconds: float) -> None:
        """Count what became of a renewal."""
        self.refused(f"renewal:{outcome}")

    def enrolled(self, outcome: str) -> None:
        """Count what became of an enrolment."""
        self.refused(f"enrolment:{outcome}")

    def answered(self, operation: str, status: int) -> None:
        """Count an answer over HTTPS."""
        self.refused(f"{operation}:{status}")


@dataclass(frozen=True)
class Identity:
    """A certificate with its key, in files and in memory."""

    certificate_file: Path
    key_file: Path
    certificate: bytes
    key: bytes
    fingerprint: bytes
    serial: int


@dataclass
class Authorities:
    """A PKI in a directory, and certificates of every kind from it."""

    directory: Path
    opened: authority.Authority = field(init=False)

    def __post_init__(self) -> None:
        authority.create(self.directory / "pki", now=NOW - datetime.timedelta(days=200))
        self.opened = authority.load(self.directory / "pki")
        certificate, key = authority.issue_service(
            self.opened,
            "bridge",
            ["localhost", "127.0.0.1"],
            now=NOW,
            server=True,
            client=False,
            registration=True,
        )
        (self.directory / "bridge.pem").write_bytes(certificate)
        (self.directory / "bridge.key").write_bytes(key)

    @property
    def device_ca(self) -> Path:
        """The device CA's certificate."""
        return self.directory / "pki" / "device-ca" / "ca.pem"

    @property
    def service_ca(self) -> Path:
        """What devices verify the bridge with."""
        return self.directory / "pki" / "service-ca" / "ca.pem"

    def device(
        self,
        device_id: str,
        *,
        began: datetime.timedelta = -HOUR,
        lifetime: datetime.timedelta = 2 * HOUR,
        curve: ec.EllipticCurve | None = None,
    ) -> Identity:
        """Issue a device certificate that began so long from now."""
        return self._issue(self.opened, device_id, began, lifetime, curve)

    def twin(self, of: Identity) -> Identity:
        """Make the other certificate that the device CA's signature makes."""
        signer = self.opened.device.certificate.public_key()
        assert isinstance(signer, ec.EllipticCurvePublicKey)
        der = twins.twin(x509.load_der_x509_certificate(of.certificate), signer)
        return self._save(der, serialization.load_der_private_key(of.key, None))

    def expired(self, device_id: str) -> Identity:
        """Issue a certificate whose time is over."""
        return self.device(device_id, began=-2 * HOUR, lifetime=HOUR)

    def stranger(self, device_id: str) -> Identity:
        """Issue a certificate of the same name by somebody else's device CA."""
        return self._issue(self._other("other"), device_id, -HOUR, 2 * HOUR, None)

    def newcomer(self, device_id: str) -> Identity:
        """Issue a certificate of the same name by the provisioning CA."""
        return self._issue(self._other("maker"), device_id, -HOUR, 2 * HOUR, None)

    @property
    def provisioning_ca(self) -> Path:
        """The provisioning CA's certificate."""
        return self._other("maker").directory / "device-ca" / "ca.pem"

    def _other(self, name: str) -> authority.Authority:
        folder = self.directory / name
        if not folder.exists():
            authority.create(folder, now=NOW - datetime.timedelta(days=1))
        return authority.load(folder)

    def certify(self, device_id: str, key: CertificatePublicKeyTypes) -> bytes:
        """Issue a certificate on a device's own key; return it in DER."""
        request = secrets.token_hex(8)
        return issue_device(self.opened, device_id, key, request, NOW - HOUR, 2 * HOUR)

    def _issue(
        self,
        by: authority.Authority,
        device_id: str,
        began: datetime.timedelta,
        lifetime: datetime.timedelta,
        curve: ec.EllipticCurve | None,
    ) -> Identity:
        key = ec.generate_private_key(curve or ec.SECP256R1())
        request = secrets.token_hex(8)
        der = issue_device(by, device_id, key.public_key(), request, NOW + began, lifetime)
        return self._save(der, key)

    def _save(self, der: bytes, key: PrivateKeyTypes) -> Identity:
        folder = self.directory / "devices" / secrets.token_hex(8)
        folder.mkdir(parents=True)
        parsed = x509.load_der_x509_certificate(der)
        (folder / "cert.pem").write_bytes(parsed.public_bytes(serialization.Encoding.PEM))
        (folder / "key.pem").write_bytes(_private(key, serialization.Encoding.PEM))
        return Identity(
            folder / "cert.pem",
            folder / "key.pem",
            der,
            _private(key, serialization.Encoding.DER),
            hashlib.sha256(der).digest(),
            parsed.serial_number,
        )


def _private(key: PrivateKeyTypes, encoding: serialization.Encoding) -> bytes:
    form, open_key = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(encoding, form, open_key)


@dataclass
class Running:
    """A bridge that runs in this loop."""

    bridge: CoapBridge
    kafka: Kafka
    count: Count
    authorities: Authorities

    @property
    def port(self) -> int:
        """The port of coaps and coaps+tcp."""
        assert self.bridge.listeners is not None
        assert self.bridge.listeners.tcp is not None
        return self.bridge.listeners.tcp.port

    @property
    def sessions(self) -> int:
        """How many sessions are open."""
        return len(self.bridge.sessions)


@contextlib.asynccontextmanager
async def running(
    authorities: Authorities, kafka: Kafka | None = None, **settings: Any
) -> AsyncIterator[Running]:
    """Run a bridge on a free port for the time of the block, with the process's own settings."""
    narrow_buffers()
    kafka, count = kafka or Kafka(), Count()
    folder = authorities.directory
    ours: dict[str, Any] = {
        "certificate": folder / "bridge.pem",
        "key": folder / "bridge.key",
        "port": 0,
    }
    wanted = Settings(device_ca=authorities.device_ca, **({"port": 0} | ours | settings))
    bridge = CoapBridge(wanted, kafka, count)  # type: ignore[arg-type] # both stand in
    kafka.deliver = bridge.deliver
    bridge.caught_up.set()
    task = asyncio.create_task(bridge.keep_down())
    try:
        await until_async(
            lambda: task.done() or (bridge.listeners and bridge.listeners.ready),
            describe="the doors are open",
        )
        if task.done():
            task.result()
        yield Running(bridge, kafka, count, authorities)
    finally:
        await bridge.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
