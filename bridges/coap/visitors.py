"""The renewal door of CoAP: who comes with a certificate that has ended, for one renewal.

Rules of this file: a listener of its own, where EST is served and nothing else; a certificate
counts for some days after its end, never a revoked or replaced one. A visitor is no session: the
history knows of the renewal and of refusals, not of its coming and going, and it soon has to leave.
"""

import datetime
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from bridges.coap.sessions import ENDED, EVICTED, IDLE, REFUSED, Session
from bridges.door import Door, Recording, Refusals
from schemas.envelope import RENEWAL

VISITORS_MAX = 500
VISIT_SECONDS = 60.0


class Visitors:
    """Those who are at the renewal door of this process."""

    def __init__(
        self,
        device_ca: Path,
        revocation_list: Path | None,
        grace: datetime.timedelta,
        record: Recording,
        count: Callable[[str], None],
    ) -> None:
        self._door = Door(device_ca, revocation_list, grace)
        self._refusals, self._count = Refusals(self._door, record, count), count
        self._here: OrderedDict[Session, None] = OrderedDict()

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._here)

    def admit(self, der: bytes, address: str, close: Callable[[int], None]) -> Session | None:
        """Let somebody in for a renewal; None where its certificate does not count."""
        fingerprint = hashlib.sha256(der).digest()
        verdict = self._door.judge(der)
        visitor = Session(
            verdict.device_id, fingerprint, address, close, certificate=der, protocol=RENEWAL
        )
        if not verdict.accepted:
            now = time.time_ns() // 1_000_000
            self._refusals.note(verdict, der, visitor.evidence(now))
            return None
        visitor.refused_by = self._door.fingerprints(der)
        self._here[visitor] = None
        if len(self._here) > VISITORS_MAX:
            self._count("visitors")
            self._end(next(iter(self._here)), EVICTED)
        return visitor

    def leave(self, visitor: Session) -> None:
        """Take note that somebody has gone."""
        self._here.pop(visitor, None)

    def refuse(self, fingerprint: bytes) -> None:
        """Let nobody in under this certificate any more."""
        self._door.refuse(fingerprint)
        for one in [one for one in self._here if fingerprint in one.refused_by]:
            self._end(one, REFUSED)

    def sweep(self) -> None:
        """Send those away who have been here for long, whatever they do."""
        limit = time.monotonic() - VISIT_SECONDS
        for one in [one for one in self._here if one.began < limit]:
            self._end(one, IDLE)

    def close(self) -> None:
        """Send all away."""
        for one in tuple(self._here):
            self._end(one, ENDED)

    def _end(self, visitor: Session, code: int) -> None:
        self.leave(visitor)
        visitor.close(code)
