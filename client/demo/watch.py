"""What the demo sees of its fleet while it runs: the topics, followed from their beginning.

Nothing here asks the simulator but for the number of events that devices were told are recorded.
"""

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass

from client import alerts
from client.alerts import Alert
from client.demo import proofs
from client.demo.fleet import Member
from client.fleet import Fleet, Found
from schemas import events
from schemas.decisions import Decision, DecisionName
from schemas.states import PARTITION_KEY, DeviceRow
from schemas.topics import DECISIONS, DEVICE_EVENTS, DEVICE_STATE
from streams.core import rotation

TOLD_MAX = 40
RATES_MAX = 60
TOLD = frozenset(
    {
        DecisionName.CERTIFICATE_NEARED_EXPIRY,
        DecisionName.CERTIFICATE_PROVEN,
        DecisionName.CERTIFICATE_RETIRED,
        DecisionName.ROTATION_FAILED,
        DecisionName.ROTATION_ABANDONED,
        DecisionName.EVENT_REFUSED,
        DecisionName.ALERT_RAISED,
        DecisionName.ALERT_CLEARED,
    }
)
"""The decisions that are shown; the others are steps between them."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The fleet at one moment of the demo."""

    seconds: float
    rows: dict[str, DeviceRow]
    told: list[Decision]
    alerts: list[Alert]
    kinds: Counter[str]
    recorded: int
    rates: list[int]
    processes: dict[str, str]
    done: int
    expected: int

    @property
    def states(self) -> Counter[str]:
        """How many devices are in each state of the saga."""
        return Counter(rotation.name(row.rotation) for row in self.rows.values())

    @property
    def richness(self) -> int:
        """How much there is to see: the picture of the README is the richest of a run."""
        return 3 * len(self.states) + min(3, len(self.alerts)) + 2 * bool(self.done)


class Watch:
    """Follows the topics in a thread of its own, from `start` to `stop`."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._follow, name="watch", daemon=True)
        self._began = time.monotonic()
        self._rows: dict[bytes, DeviceRow] = {}
        self._told: deque[Decision] = deque(maxlen=TOLD_MAX)
        self._kinds: Counter[str] = Counter()
        self._rates: deque[int] = deque(maxlen=RATES_MAX)
        self._counted_at, self._counted = self._began, 0
        self._decisions: list[Decision] = []

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """Follow no more."""
        self._stopping.set()
        self._thread.join()

    def row(self, device_id: str) -> DeviceRow | None:
        """Return the newest row of a device."""
        return self._rows.get(device_id.encode())

    def unanswered(self, members: list[Member]) -> list[str]:
        """Return the misbehaviour that the decisions do not name yet."""
        with self._lock:
            decisions = list(self._decisions)
        return proofs.unanswered(proofs.raised(decisions), proofs.abandoned(decisions), members)

    def snapshot(
        self, recorded: int, processes: dict[str, str], expected: int, done: int
    ) -> Snapshot:
        """Return what is known now; `recorded` is what devices were told so far."""
        now = time.monotonic()
        if now - self._counted_at >= 1.0:
            self._rates.append(round((recorded - self._counted) / (now - self._counted_at)))
            self._counted_at, self._counted = now, recorded
        with self._lock:
            rows = {row.device_id: row for row in self._rows.values()}
            told, kinds = list(self._told), Counter(self._kinds)
        raised = [one for row in rows.values() for one in alerts.raised(row)]
        return Snapshot(
            now - self._began,
            rows,
            told,
            sorted(raised, key=lambda one: one.since_at),
            kinds,
            recorded,
            list(self._rates),
            dict(processes),
            done,
            expected,
        )

    def _follow(self) -> None:
        topics = (DEVICE_STATE, DECISIONS, DEVICE_EVENTS)
        for found in self._fleet.follow(*topics, since=0, stopping=self._stopping.is_set):
            with self._lock:
                self._take(found)

    def _take(self, found: Found) -> None:
        if found.topic == DEVICE_STATE and found.key != PARTITION_KEY:
            self._rows[found.key] = found.record
        elif isinstance(found.record, Decision):
            self._decisions.append(found.record)
            if found.record.name in TOLD and not self._is_repeat(found.record):
                self._told.append(found.record)
        elif isinstance(found.record, events.DeviceEvent):
            self._kinds[found.kind] += 1

    def _is_repeat(self, decision: Decision) -> bool:
        same = (decision.subject, decision.name, decision.reason)
        return any((one.subject, one.name, one.reason) == same for one in self._told)
