"""Asking a machine and waiting for its answer: a refusal is an error, in the machine's words.

A record that Kafka has taken is not yet accepted: the machine may refuse it. Its answer is known
when the partition's row has passed the record's offset: what was decided about it then stands in
`decisions`, with the record as its cause.
"""

import time
from dataclasses import dataclass
from typing import Any

from client.errors import FleetError
from client.kafka import Timeouts
from client.reader import Reader
from client.writer import Writer
from configuration.cluster import Cluster
from schemas.decisions import Decision, DecisionName
from schemas.partition import partition_of
from schemas.reasons import SENTENCES, Reason
from schemas.states import PartitionRow
from schemas.topics import DECISIONS, DEVICE_EVENTS, DEVICE_STATE, FLEET_EVENTS, FLEET_STATE

LOOK_BACK_MS = 60_000
"""Decisions are looked for from this long before the question: clocks differ."""

_NEXT = {
    Reason.FLEET_EXISTS: "see `fleetcert fleet show {}`",
    Reason.UNKNOWN_FLEET: "see `fleetcert fleet list`",
    Reason.FLEET_FULL: "see maxDevices in `fleetcert fleet config {}`",
    Reason.IN_ANOTHER_FLEET: "see `fleetcert fleet move --help`",
    Reason.NOT_A_MEMBER: "see `fleetcert fleet show {}`",
    Reason.REPEATED: "nothing has changed",
    Reason.CAMPAIGN_EXISTS: "see `fleetcert campaign list {}`",
    Reason.UNKNOWN_CAMPAIGN: "see `fleetcert campaign list {}`",
    Reason.TOO_MANY_CAMPAIGNS: "see `fleetcert campaign list {}`",
    Reason.WRONG_STATE: "see `fleetcert campaign list {}`",
}
"""What to do next about a refusal, with the subject's id for the braces."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A machine: the topics of its log and its rows, and how its decisions name their subjects."""

    events: str
    state: str
    subject: str


DEVICES = Asked(DEVICE_EVENTS, DEVICE_STATE, "device")
FLEETS = Asked(FLEET_EVENTS, FLEET_STATE, "fleet")


class Answers:
    """A machine, asked through its log."""

    def __init__(self, cluster: Cluster, timeouts: Timeouts, asked: Asked = FLEETS) -> None:
        self._asked = asked
        self.reader = Reader(cluster, timeouts)
        self._writer = Writer(cluster, timeouts)
        self._timeouts = timeouts

    def close(self) -> None:
        """Close the connections."""
        self.reader.close()

    def partition(self, subject_id: str) -> int:
        """Return the partition of a device or fleet."""
        count = len(self.reader.partitions(self._asked.state))
        return partition_of(subject_id.encode(), count)

    def tell(self, subject_id: str, event: Any) -> None:
        """Hand an event over; `flush` waits until Kafka has all of them."""
        self._writer.send(self._asked.events, subject_id.encode(), event)

    def flush(self) -> None:
        """Wait until Kafka has everything. Raises FleetError when it does not take it."""
        self._writer.flush()

    def ask(self, subject_id: str, event: Any) -> list[Decision]:
        """Write an event and return what the machine decided about it.

        Raises FleetError where it was refused, or where no worker answers.
        """
        asked_at = time.time_ns() // 1_000_000
        until = time.monotonic() + self._timeouts.send_seconds
        rows = self.reader.follow(self._asked.state, stopping=lambda: time.monotonic() > until)
        self.tell(subject_id, event)
        self.flush()
        place = self._writer.last
        assert place is not None
        for found in rows:
            row = found.record
            if found.partition != place.partition or not isinstance(row, PartitionRow):
                continue
            if row.applied_offset >= place.offset:
                rows.close()  # type: ignore[attr-defined]
                break
        else:
            raise FleetError(
                f"recorded in {place.topic}[{place.partition}] at offset {place.offset}, but no "
                "worker has answered; see `fleetcert status`"
            )
        decided = [one for one in self._decided(subject_id, asked_at) if one.cause == place]
        for one in decided:
            if one.name == DecisionName.EVENT_REFUSED:
                raise FleetError(refusal(one))
        return decided

    def _decided(self, subject_id: str, since: int) -> list[Decision]:
        key = f"{self._asked.subject}:{subject_id}".encode()
        number = partition_of(key, len(self.reader.partitions(DECISIONS)))
        found = self.reader.read(
            DECISIONS, partition=number, key=key, since=max(0, since - LOOK_BACK_MS)
        )
        return [one.record for one in found if isinstance(one.record, Decision)]


def refusal(decision: Decision) -> str:
    """Return a refusal as a line: what was refused, why, the detail, and what to do next."""
    detail, reason = decision.values.get("detail", ""), Reason(decision.reason)
    why = SENTENCES[reason].rstrip(".") + (f": {detail}" if detail else "")
    subject = decision.subject.partition(":")[2]
    hint = _NEXT.get(reason, "").format(subject)
    told = f"{decision.values.get('what', decision.name)} refused: {why}"
    return f"{told}; {hint}" if hint else told
