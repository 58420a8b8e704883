"""The sessions of devices, whatever transport they came by: admitted, bounded, told, closed.

Rules of this file: a session begins when its certificate is accepted, and everything it says stands
under that certificate; each beginning, end and refusal is an event. A device holds few sessions and
the process holds a bounded number; the one that was silent longest gives way. Newcomers, who come
with a provisioning certificate, are apart: whatever they name themselves, they push no device out,
read no device's commands but those of an enrolment, and answer none of a device's.
"""

import hashlib
import secrets
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import structlog

from bridges import reported
from bridges.door import Door, Recording, Refusals
from bridges.rates import Bucket
from pki.facts import facts, load_certificate
from pki.path import Verdict
from schemas import events
from schemas.commands import ForDevice, InstallCertificate, RotateCertificate
from schemas.envelope import Evidence
from schemas.reasons import Reason

log = structlog.get_logger()
SESSIONS_MAX = 10_000
NEWCOMERS_MAX = 1_000
"""Sessions of provisioning certificates: they take no device's place."""
PER_DEVICE_MAX = 4
"""Sessions of one device: old and new certificate, each once half-open after an address change."""
COMMANDS_MAX = 16
"""Commands that wait in one session; the oldest gives way, and comes again by the machine."""
PROTOCOL = "coap"

ENDED, IDLE, EVICTED, REFUSED, REPLACED, LOST = 0x00, 0x8D, 0x97, 0x98, 0x8E, 0x80
"""Why a session ended, in the numbers of MQTT 5 section 3.14.2.1, as all bridges tell it."""


@dataclass(eq=False, slots=True)
class Session:
    """One authenticated session. `close` ends its connection, with one of the reasons above.

    `certificate` is the DER it was opened under, `valid_until` its end, in seconds since 1970. By
    any of `refused_by` it may be refused. A `provisioning` one is good for enrolment alone.
    """

    device_id: str
    fingerprint: bytes
    address: str
    close: Callable[[int], None]
    valid_until: float = float("inf")
    certificate: bytes = b""
    refused_by: frozenset[bytes] = frozenset()
    protocol: str = PROTOCOL
    provisioning: bool = False
    began: float = field(default_factory=time.monotonic)
    name: str = field(default_factory=lambda: secrets.token_hex(16))
    counter: int = 0
    seen: float = field(default_factory=time.monotonic)
    bucket: Bucket | None = None
    in_flight: int = 0
    commands: OrderedDict[str, ForDevice] = field(default_factory=OrderedDict)
    observers: set[Callable[[], None]] = field(default_factory=set)
    key: bytes = field(init=False)
    reports_begin: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.key = self.device_id.encode()
        self.reports_begin = reported.beginning(
            self.device_id, self.fingerprint, self.address, self.name
        )

    def evidence(self, received_at: int) -> Evidence:
        """Return the evidence of the session as it stands."""
        return Evidence(
            certificate_sha256=self.fingerprint,
            peer_address=self.address,
            session=self.name,
            counter=self.counter,
            protocol=self.protocol,
            received_at=received_at,
        )


Shelf = defaultdict[str, OrderedDict[Session, None]]


class Sessions:
    """All sessions of this process."""

    def __init__(self, door: Door, record: Recording, count: Callable[[str], None]) -> None:
        self._door, self._record, self._count = door, record, count
        self._by_device: Shelf = defaultdict(OrderedDict)
        self._newcomers: Shelf = defaultdict(OrderedDict)
        self._by_arrival: OrderedDict[Session, None] = OrderedDict()
        self._by_seen: OrderedDict[Session, None] = OrderedDict()
        self._refusals = Refusals(door, record, count)
        self.sessions_max, self.newcomers_max = SESSIONS_MAX, NEWCOMERS_MAX

    def __len__(self) -> int:
        """Return how many sessions are open."""
        return len(self._by_seen)

    def admit(self, der: bytes, address: str, close: Callable[[int], None]) -> Session | None:
        """Open a session under a certificate whose key the peer owns; None where it may not."""
        fingerprint = hashlib.sha256(der).digest()
        verdict, provisioning = self._judge(der)
        session = Session(
            verdict.device_id,
            fingerprint,
            address,
            close,
            certificate=der,
            provisioning=provisioning,
        )
        if not verdict.accepted:
            self._refusals.note(verdict, der, session.evidence(_now()))
            return None
        session.refused_by = self._door.fingerprints(der)
        session.valid_until = load_certificate(der).not_valid_after_utc.timestamp()
        own = self._shelf(session)[session.device_id]
        if len(own) >= PER_DEVICE_MAX:
            self._end(next(iter(own)), REPLACED)
        if provisioning and len(self._by_arrival) >= self.newcomers_max:
            self._count(Reason.TOO_MANY_NEWCOMERS.value)
            self._end(next(iter(self._by_arrival)), EVICTED)
        while len(self._by_seen) >= self.sessions_max:
            self._count("sessions")
            self._end(next(iter(self._by_seen)), EVICTED)
        self._shelf(session)[session.device_id][session] = None
        self._by_seen[session] = None
        if provisioning:
            self._by_arrival[session] = None
        self._record(session.device_id, _opened(session))
        return session

    def heard(self, session: Session) -> None:
        """Note that the session is alive."""
        session.seen = time.monotonic()
        if session in self._by_seen:
            self._by_seen.move_to_end(session)

    def leave(self, session: Session, code: int) -> None:
        """Take note that the session is over; a second time changes nothing."""
        if session not in self._by_seen:
            return
        del self._by_seen[session]
        self._by_arrival.pop(session, None)
        shelf = self._shelf(session)
        del shelf[session.device_id][session]
        if not shelf[session.device_id]:
            del shelf[session.device_id]
        session.counter += 1
        closed = events.SessionClosed(session.device_id, session.evidence(_now()), code)
        self._record(session.device_id, closed)

    def of(self, device_id: str) -> Iterable[Session]:
        """Return the sessions of a device, the oldest first."""
        return tuple(self._by_device.get(device_id, ()))

    def awaiting(self, command: ForDevice) -> Iterable[Session]:
        """Return the sessions that a command is for: a newcomer's, where it is an enrolment's."""
        found = self.of(command.device_id)
        if isinstance(command, RotateCertificate | InstallCertificate):
            return (*found, *self._newcomers.get(command.device_id, ()))
        return found

    def beside(self, session: Session) -> Iterable[Session]:
        """Return all sessions of whoever this one is: of a newcomer, those of its certificate."""
        if not session.provisioning:
            return self.of(session.device_id)
        found = self._newcomers.get(session.device_id, ())
        return tuple(one for one in found if one.fingerprint == session.fingerprint)

    def refuse(self, fingerprint: bytes) -> int:
        """Let nobody in under this certificate any more and close who is; return how many."""
        self._door.refuse(fingerprint)
        found = [one for one in self._by_seen if fingerprint in one.refused_by]
        for one in found:
            self._end(one, REFUSED)
        return len(found)

    def sweep(self, idle_seconds: float) -> None:
        """Close the sessions that were silent for so long, and whose certificate has ended."""
        now = time.time()
        for one in [one for one in self._by_seen if one.valid_until < now]:
            self._count(Reason.EXPIRED.value)
            self._end(one, REFUSED)
        limit = time.monotonic() - idle_seconds
        while self._by_seen:
            oldest = next(iter(self._by_seen))
            if oldest.seen > limit:
                return
            self._end(oldest, IDLE)

    def close(self) -> None:
        """Close all."""
        for one in tuple(self._by_seen):
            self._end(one, ENDED)

    def _judge(self, der: bytes) -> tuple[Verdict, bool]:
        """Return what becomes of a certificate, and whether it is a newcomer's."""
        verdict = self._door.judge(der)
        if verdict.reason is Reason.FINGERPRINT_UNKNOWN:
            other = self._door.judge_provisioning(der)
            if other.accepted or other.reason is Reason.CERTIFICATE_RETIRED:
                return other, other.accepted
        return verdict, False

    def _shelf(self, session: Session) -> Shelf:
        return self._newcomers if session.provisioning else self._by_device

    def _end(self, session: Session, code: int) -> None:
        self.leave(session, code)
        session.close(code)


def _opened(session: Session) -> events.SessionOpened | events.CertificatePresented:
    evidence = session.evidence(_now())
    if not session.provisioning:
        return events.SessionOpened(session.device_id, evidence)
    return events.CertificatePresented(session.device_id, evidence, facts(session.certificate))


def _now() -> int:
    return time.time_ns() // 1_000_000
