"""Renewing at a renewal door (EST) when a certificate nears its end and nobody has ordered it.

    due ─► key, CSR ─► door ─► install beside the old one ─► the next session tries it first
            ▲  away, being made: wait as told, or ever longer │

Rules of this file: it begins later than the fleet orders a rotation (two thirds of the lifetime),
so that it is the exception, and each certificate begins at a place of its own; one key is made for
each certificate that ends, so whatever is lost is asked for again and is the same. The certificate
in use is never touched: the new one proves itself as in any rotation.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cryptography import x509

from device.store import Identity, InstallRefused, Store
from pki.requests import make_csr

_log = logging.getLogger("fleetcert.device.renewal")


@dataclass(frozen=True, slots=True)
class Pace:
    """When a renewal begins, and how often it is tried.

    It begins when `share` of the lifetime has passed, and up to `spread` of it later. Spans are
    seconds; the clock is looked at each `look_seconds`, for it may be set.
    """

    share: float = 0.85
    spread: float = 0.05
    again_seconds: float = 30.0
    again_seconds_max: float = 3_600.0
    look_seconds: float = 3_600.0


class Later(Exception):
    """The door is away or makes the certificate still; `seconds` where it said when to come."""

    def __init__(self, why: str, seconds: float | None = None) -> None:
        super().__init__(why)
        self.seconds = seconds


class Denied(Exception):
    """The door gives no certificate; the message is its own."""


class Door(Protocol):
    """A renewal door, over whatever protocol."""

    async def renew(self, identity: Identity, csr: bytes) -> bytes:
        """Return the certificate (DER) for a CSR (DER). Raises Later or Denied."""


def due_at(certificate: x509.Certificate, pace: Pace) -> float:
    """Return when the renewal of a certificate begins, in seconds since 1970.

    Where in the spread is derived from its serial: a fleet made in one day does not come at once.
    """
    began, ends = (
        one.timestamp()
        for one in (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
    )
    place = certificate.serial_number % 65_536 / 65_536
    return began + (ends - began) * (pace.share + pace.spread * place)


class Renewal:
    """Keeps one device's certificate from ending."""

    def __init__(
        self,
        device_id: str,
        store: Store,
        door: Door,
        installed: Callable[[Identity], None],
        pace: Pace = Pace(),
    ) -> None:
        """`installed` is told of each new identity, once it is in the store."""
        self._device_id, self._store, self._door = device_id, store, door
        self._installed, self._pace = installed, pace
        self._failures = 0

    async def run(self) -> None:
        """Renew whenever it is time, until cancelled."""
        while True:
            last = max(self._store.identities(), key=_end)
            left = due_at(last.certificate(), self._pace) - time.time()
            if left > 0:
                await asyncio.sleep(min(left, self._pace.look_seconds))
                continue
            await asyncio.sleep(await self._attempt(last))

    async def _attempt(self, ending: Identity) -> float:
        """Ask once; return how many seconds to wait before the next look."""
        try:
            key = self._store.pending_key(f"renewal-{ending.fingerprint}")
            der = await self._door.renew(self._store.current(), make_csr(self._device_id, key))
            identity = self._store.install(der, self._device_id)
        except Later as later:
            _log.info("not renewed yet device=%s: %s", self._device_id, later)
            return self._again(later.seconds)
        except OSError as error:  # the disk: what is there stays as it is
            _log.error(
                "not renewed device=%s: %s: %s", self._device_id, type(error).__name__, error
            )
            return self._again(None)
        except (Denied, InstallRefused) as error:
            _log.error(
                "the renewal door refuses device=%s: %s; the certificate ends at %s, an operator "
                "should look (fleetcert device show)",
                self._device_id,
                error,
                ending.certificate().not_valid_after_utc.isoformat(),
            )
            return self._again(self._pace.again_seconds_max)
        self._failures = 0
        _log.info("renewed device=%s fingerprint=%s", self._device_id, identity.fingerprint)
        self._installed(identity)
        return 0.0

    def _again(self, told: float | None) -> float:
        self._failures += 1
        wait = self._pace.again_seconds * 2.0 ** min(self._failures - 1, 16)
        ceiling = self._pace.again_seconds_max
        seconds = min(wait, ceiling) if told is None else min(max(told, 0.0), ceiling)
        return seconds * random.SystemRandom().uniform(1.0, 1.25)


def _end(identity: Identity) -> float:
    return identity.certificate().not_valid_after_utc.timestamp()
