"""Who may come in: the certificate of a session, judged by our own validator (pki/path.py).

Rules of this file: a transport proves that the peer owns the key, nothing more; the device CA, the
revocation list and the refusals of `device.commands` decide here, for every transport alike. The
list is read again when its file changes; one that cannot be read leaves the last one standing.
Refusals are told to the history where the name in the certificate is to be believed.
"""

import datetime
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import structlog
from cryptography import x509

from pki import path, revocation, twins
from schemas import events
from schemas.envelope import Evidence
from schemas.reasons import Reason

log = structlog.get_logger()
REFUSED_MAX = 1_000_000
"""Refused fingerprints that are remembered; the oldest are on the revocation list since long."""
LIST_SECONDS = 1.0
"""How often the revocation list's file is looked at."""
FOREVER = datetime.timedelta(days=36_500)
REFUSALS_MAX = 10_000
REFUSAL_SECONDS = 60.0
"""One certificate's refusals are recorded at most this often."""


class Recording(Protocol):
    """Where events of sessions go."""

    def __call__(self, device_id: str, event: events.Keyed, /) -> None:
        """Record an event; it need not be acknowledged."""


class Door:
    """Judges certificates; holds what may change while the process runs."""

    def __init__(
        self,
        device_ca: Path,
        revocation_list: Path | None = None,
        grace: datetime.timedelta = path.NO_GRACE,
        provisioning_ca: Path | None = None,
    ) -> None:
        """Read the CAs; `grace` is for how long after its end a certificate is let in.

        Whom a provisioning CA names is let in for enrolment; without any, nobody is.
        """
        self._grace = grace
        self._provisioning = (
            x509.load_pem_x509_certificates(provisioning_ca.read_bytes()) if provisioning_ca else []
        )
        self._anchors = x509.load_pem_x509_certificates(device_ca.read_bytes())
        self._list, self._stamp, self._looked_at = revocation_list, (0, 0), float("-inf")
        self._serials: frozenset[int] = frozenset()
        self._refused: OrderedDict[bytes, None] = OrderedDict()

    def judge(self, der: bytes) -> path.Verdict:
        """Return what becomes of a session under this certificate."""
        self._reread()
        now = datetime.datetime.now(datetime.UTC)
        verdict = path.validate_device(der, self._anchors, now, self._serials, self._grace)
        return self._unless_refused(verdict, der)

    def judge_provisioning(self, der: bytes) -> path.Verdict:
        """Return what becomes of a session for enrolment under this certificate."""
        now = datetime.datetime.now(datetime.UTC)
        verdict = path.validate_device(der, self._provisioning, now)
        return self._unless_refused(verdict, der)

    def fingerprints(self, der: bytes) -> frozenset[bytes]:
        """Return what an accepted certificate may be refused by: its twin's fingerprint as well."""
        return twins.fingerprints(der, (*self._anchors, *self._provisioning))

    def is_ours(self, der: bytes) -> bool:
        """Tell whether a device CA of ours once issued this certificate, whatever became of it.

        The name in any other certificate is worth nothing, not even in a refusal.
        """
        now = datetime.datetime.now(datetime.UTC)
        return path.validate_device(der, self._anchors, now, grace=FOREVER).accepted

    def refuse(self, fingerprint: bytes) -> None:
        """Let no new session in under this certificate, or its twin."""
        self._refused[fingerprint] = None
        if len(self._refused) > REFUSED_MAX:
            self._refused.popitem(last=False)

    def _unless_refused(self, verdict: path.Verdict, der: bytes) -> path.Verdict:
        if verdict.accepted and not self._refused.keys().isdisjoint(self.fingerprints(der)):
            why = "the certificate was replaced"
            return path.Verdict(Reason.CERTIFICATE_RETIRED, why, verdict.device_id)
        return verdict

    def _reread(self) -> None:
        if self._list is None or time.monotonic() - self._looked_at < LIST_SECONDS:
            return
        self._looked_at = time.monotonic()
        try:
            found = self._list.stat()
            if (found.st_mtime_ns, found.st_ino) == self._stamp:
                return
            self._serials = frozenset(self._read(self._list))
        except (OSError, revocation.MalformedList) as error:
            log.warning("revocation-list.unread", error=str(error))
            return
        self._stamp = (found.st_mtime_ns, found.st_ino)

    def _read(self, file: Path) -> set[int]:
        pem, last = file.read_bytes(), revocation.MalformedList("no device CA")
        for issuer in self._anchors:
            try:
                return set(revocation.parse(pem, issuer).revoked)
            except revocation.MalformedList as error:
                last = error
        raise last


class Refusals:
    """Counts what a door refuses, and tells the history of it, seldom."""

    def __init__(self, door: Door, record: Recording, count: Callable[[str], None]) -> None:
        self._door, self._record, self._count = door, record, count
        self._told: OrderedDict[bytes, float] = OrderedDict()

    def note(self, verdict: path.Verdict, der: bytes, evidence: Evidence) -> None:
        """A certificate was refused."""
        self._count(verdict.reason.value)
        fingerprint = evidence.certificate_sha256
        last = self._told.get(fingerprint, float("-inf"))
        if not verdict.device_id or time.monotonic() - last < REFUSAL_SECONDS:
            return
        if not self._door.is_ours(der):
            return
        self._told[fingerprint] = time.monotonic()
        self._told.move_to_end(fingerprint)
        if len(self._told) > REFUSALS_MAX:
            self._told.popitem(last=False)
        refused = events.SessionRefused(
            verdict.device_id, evidence, verdict.reason.value, verdict.detail
        )
        self._record(verdict.device_id, refused)
