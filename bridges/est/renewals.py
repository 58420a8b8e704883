"""Renewals over EST, whatever the transport: a CSR goes into the history, a certificate comes back.

    door → SigningRequested → Kafka → device machine → issuer → device machine → `device.commands`

Rules of this file: the door judges nothing but whether it can read the CSR; it vouches that the
session owns the key of its certificate, and waits for the machine's word: InstallCertificate for
this key, or RefuseRenewal. Whoever waits longer than the door is patient asks again with the same
CSR, and gets the same certificate.
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from bridges.inbound import Refused, signing_requested
from pki import facts, path, requests
from schemas import events
from schemas.commands import Command, InstallCertificate, RefuseRenewal
from schemas.envelope import Evidence
from schemas.reasons import SENTENCES, Reason
from schemas.topics import DEVICE_EVENTS

WAITING_MAX = 2_000
"""Devices that wait for a certificate at this door; beyond, they are sent away to come again."""
RETRY_SECONDS = 5
"""When who was sent away comes again with the same CSR."""
PATIENCE_SECONDS = 10.0
BAD = frozenset(
    {
        Reason.MALFORMED,
        Reason.OVERSIZE,
        Reason.WRONG_SUBJECT,
        Reason.WRONG_SIGNATURE,
        Reason.WEAK_KEY,
        Reason.KEY_REUSED,
    }
)
"""The request is to be mended."""
LATER = {
    Reason.RENEWAL_IN_WORK: 60,
    Reason.ISSUER_AWAY: 60,
    Reason.MESSAGE_RATE: 60,
    Reason.APPROVAL_AWAITED: 60,
    Reason.RENEWED_OFTEN: 3_600,
}
"""The request may be good later: after so many seconds."""


class Unmarked(ValueError):
    """Our certificate is not that of a registration authority: the issuer would refuse our word."""


class Pending(Exception):
    """The certificate is on its way: ask again with the same CSR after `seconds`."""

    def __init__(self, seconds: int = RETRY_SECONDS) -> None:
        super().__init__(f"ask again in {seconds} s")
        self.seconds = seconds


class Renewed(Protocol):
    """Counts what became of renewals."""

    def renewed(self, outcome: str, seconds: float) -> None:
        """Count one: `issued`, `pending`, or the value of a Reason."""


@dataclass(frozen=True, slots=True)
class Registrar:
    """The door's own certificate and key, with which it vouches for devices."""

    leaf: bytes
    key: PrivateKeyTypes = field(repr=False)

    @classmethod
    def load(cls, certificate: Path, key: Path) -> "Registrar":
        """Read both from PEM. Raises Unmarked where the certificate is not marked for it."""
        leaf = x509.load_pem_x509_certificates(certificate.read_bytes())[0]
        try:
            usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except x509.ExtensionNotFound:
            usages = x509.ExtendedKeyUsage([])
        if path.REGISTRATION_AUTHORITY not in usages:
            raise Unmarked(
                f"{certificate} lacks the usage id-kp-cmcRA: issue it with "
                "`python -m pki service --registration`; EST is not offered"
            )
        private = serialization.load_pem_private_key(key.read_bytes(), None)
        return cls(leaf.public_bytes(serialization.Encoding.DER), private)

    def request(
        self, device_id: str, evidence: Evidence, current: bytes, csr: bytes
    ) -> events.SigningRequested:
        """Return what the history is told of a CSR (DER) under a certificate. Raises Refused."""
        nonce = hashlib.sha256(csr).digest()
        signed = requests.vouch(csr, nonce, current, self.leaf, self.key)
        try:
            found = requests.examine_vouched(signed, evidence.certificate_sha256, lambda _: True)
        except requests.MalformedRequest as error:
            raise Refused(Reason.MALFORMED, str(error)) from error
        return signing_requested(device_id, evidence, None, "", signed, found)


@dataclass(slots=True)
class _Waiting:
    told: asyncio.Future[bytes | Refused]
    count: int = 0


class Renewals:
    """Those who wait for a certificate at this door."""

    def __init__(
        self,
        registrar: Registrar,
        record: Callable[[str, bytes, Any], Awaitable[None]],
        meter: Renewed,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        """Record by `record`, which returns once Kafka has it or raises Away."""
        self._registrar, self._record, self._meter = registrar, record, meter
        self._patience_seconds = patience_seconds
        self._waiting: dict[str, dict[bytes, _Waiting]] = {}
        self._count = 0

    async def renew(
        self, device_id: str, evidence: Evidence, current: bytes, csr: bytes
    ) -> x509.Certificate:
        """Return the certificate for a CSR (DER) of the session under `current`.

        Raises Refused, Pending, or what `record` raises.
        """
        started = time.monotonic()
        try:
            der = await self._renew(device_id, evidence, current, csr)
        except Refused as error:
            self._meter.renewed(error.reason.value, time.monotonic() - started)
            raise
        except Pending:
            self._meter.renewed("pending", time.monotonic() - started)
            raise
        self._meter.renewed("issued", time.monotonic() - started)
        return x509.load_der_x509_certificate(der)

    def deliver(self, command: Command) -> None:
        """Take the machine's word: who waits for it here is told."""
        waiting = self._waiting.get(command.device_id)
        if not waiting:
            return
        if isinstance(command, RefuseRenewal):
            found = waiting.get(command.spki_sha256)
            _tell(found, Refused(_reason(command.reason), command.detail))
        elif isinstance(command, InstallCertificate):
            try:
                spki = facts.facts(command.certificate).spki_sha256
            except facts.MalformedCertificate:  # nobody's answer
                return
            _tell(waiting.get(spki), command.certificate)

    async def _renew(self, device_id: str, evidence: Evidence, current: bytes, csr: bytes) -> bytes:
        event = self._registrar.request(device_id, evidence, current, csr)
        if self._count >= WAITING_MAX:
            raise Pending
        own = self._waiting.setdefault(device_id, {})
        waiting = own.get(event.spki_sha256)
        if waiting is None or waiting.told.done():
            waiting = _Waiting(asyncio.get_running_loop().create_future())
            own[event.spki_sha256] = waiting
        waiting.count += 1
        self._count += 1
        try:
            await self._record(DEVICE_EVENTS, device_id.encode(), event)
            await asyncio.wait({waiting.told}, timeout=self._patience_seconds)
        finally:
            self._leave(device_id, event.spki_sha256, waiting)
        if not waiting.told.done():
            raise Pending
        told = waiting.told.result()
        if isinstance(told, Refused):
            raise told
        return told

    def _leave(self, device_id: str, spki: bytes, waiting: _Waiting) -> None:
        waiting.count -= 1
        self._count -= 1
        own = self._waiting.get(device_id, {})
        if not waiting.count and own.get(spki) is waiting:
            del own[spki]
        if not own:
            self._waiting.pop(device_id, None)


def sentence(error: Refused) -> str:
    """Return what a device is told of a refusal."""
    said = SENTENCES[error.reason]
    return f"{error.reason.value}: {said} {error.detail}".strip()


def now_ms() -> int:
    """Return the door's clock."""
    return time.time_ns() // 1_000_000


def _tell(waiting: _Waiting | None, told: bytes | Refused) -> None:
    if waiting is not None and not waiting.told.done():
        waiting.told.set_result(told)


def _reason(text: str) -> Reason:
    try:
        return Reason(text)
    except ValueError:
        return Reason.ISSUER_REFUSED
