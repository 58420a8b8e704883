"""Who may come in: the certificate of a session, judged by our own validator (pki/path.py).

Rules of this file: a transport proves that the peer owns the key, nothing more; the device CA, the
revocation list and the refusals of `device.commands` decide here, for every transport alike. The
list is read again when its file changes; one that cannot be read leaves the last one standing.
"""

import datetime
import time
from collections import OrderedDict
from pathlib import Path

import structlog
from cryptography import x509

from pki import path, revocation
from schemas.reasons import Reason

log = structlog.get_logger()
REFUSED_MAX = 1_000_000
"""Refused fingerprints that are remembered; the oldest are on the revocation list since long."""
LIST_SECONDS = 1.0
"""How often the revocation list's file is looked at."""
FOREVER = datetime.timedelta(days=36_500)


class Door:
    """Judges certificates; holds what may change while the process runs."""

    def __init__(self, device_ca: Path, revocation_list: Path | None = None) -> None:
        self._anchors = x509.load_pem_x509_certificates(device_ca.read_bytes())
        self._list, self._stamp, self._looked_at = revocation_list, (0, 0), float("-inf")
        self._serials: frozenset[int] = frozenset()
        self._refused: OrderedDict[bytes, None] = OrderedDict()

    def judge(self, der: bytes, fingerprint: bytes) -> path.Verdict:
        """Return what becomes of a session under this certificate."""
        self._reread()
        now = datetime.datetime.now(datetime.UTC)
        verdict = path.validate_device(der, self._anchors, now, self._serials)
        if verdict.accepted and fingerprint in self._refused:
            why = "the certificate was replaced"
            return path.Verdict(Reason.CERTIFICATE_RETIRED, why, verdict.device_id)
        return verdict

    def is_ours(self, der: bytes) -> bool:
        """Tell whether a device CA of ours once issued this certificate, whatever became of it.

        The name in any other certificate is worth nothing, not even in a refusal.
        """
        now = datetime.datetime.now(datetime.UTC)
        return path.validate_device(der, self._anchors, now, grace=FOREVER).accepted

    def refuse(self, fingerprint: bytes) -> None:
        """Let no new session in under this certificate."""
        self._refused[fingerprint] = None
        if len(self._refused) > REFUSED_MAX:
            self._refused.popitem(last=False)

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
