"""A turn: what one record's step sees of its surroundings, and where it puts its outputs.

Rules: ids and nonces derive from the record's position (and the last tick's random bytes) alone,
so that a replay gives the same ones. Outputs are bounded.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from schemas.decisions import DeadLetter, Decision, DecisionName, Severity
from schemas.envelope import Position
from schemas.reasons import Reason
from schemas.states import DoorShare, PartitionRow, Policy, Totals
from schemas.topics import DEAD_LETTERS, DECISIONS

OUTPUTS_MAX = 1_000
"""Outputs of one record."""
LETTER_PAYLOAD_MAX = 262_144
LETTER_KEY_MAX = 1_024
"""Bytes of a record that its dead letter repeats."""


Doors = dict[str, dict[int, DoorShare]]
"""Shares by door and number."""
_NO_DOORS: Doors = {}
Tallies = tuple[tuple[str, str, int], ...]
"""Changes of sums: fleet, name, by how much."""
_NO_TALLIES: Tallies = ()


class Output(NamedTuple):
    """One record to publish."""

    topic: str
    key: bytes
    record: Any


def _nobody(_key: bytes) -> None:
    return None


Scan = Callable[[bytes, bytes, int], list[tuple[bytes, Any]]]


def _nothing(_prefix: bytes, _after: bytes, _limit: int) -> list[tuple[bytes, Any]]:
    return []


class TooManyOutputs(RuntimeError):
    """A step passed OUTPUTS_MAX: a bug, for work this long continues by events."""


class Turn:
    """One record's turn in a partition as its row says.

    `doors` and `scan` are given on a tick only: nothing else asks who is silent, or goes through
    rows. `beside` reads other rows of the partition, by key: those that one device's step may look
    at and not change.
    """

    __slots__ = (
        "_ids",
        "_row",
        "beside",
        "doors",
        "now",
        "number",
        "offset",
        "outputs",
        "policy",
        "scan",
        "tallies",
        "topic",
    )

    def __init__(
        self, topic: str, number: int, offset: int, row: PartitionRow, doors: Doors = _NO_DOORS
    ) -> None:
        self.topic = topic
        self.number = number
        self.offset = offset
        self.now = row.now
        self.policy: Policy = row.policy
        self.doors = doors
        self.beside: Callable[[bytes], Any] = _nobody
        self.scan: Scan = _nothing
        self.tallies: Tallies = _NO_TALLIES
        self.outputs: list[Output] = []
        self._row = row
        self._ids = 0

    @property
    def totals(self) -> Totals:
        """The partition's totals before this record."""
        return self._row.totals

    @property
    def position(self) -> Position:
        """The record's place in Kafka."""
        return Position(self.topic, self.number, self.offset)

    def tally(self, fleet_id: str, name: str, by: int) -> None:
        """Note a change of a fleet's sums: the fold adds it up when the step has succeeded."""
        self.tallies = (*self.tallies, (fleet_id, name, by))

    def new_id(self, kind: str) -> str:
        """Return the next id that derives from this record: the same again in a replay.

        The log's family is part of it: both machines decide at the same partitions and offsets.
        """
        self._ids += 1
        family = self.topic.partition(".")[0]
        return f"{kind}-{family}-{self.number}-{self.offset}-{self._ids}"

    def nonce(self, purpose: str) -> bytes:
        """Return 16 bytes that derive from the last tick's random bytes and this record."""
        seed = f"{self.topic}/{self.number}/{self.offset}/{purpose}".encode()
        return hashlib.sha256(self._row.random + seed).digest()[:16]

    def mark(self) -> tuple[int, int]:
        """Return a mark to go `back_to`."""
        return len(self.outputs), self._ids

    def back_to(self, mark: tuple[int, int]) -> None:
        """Forget the outputs and ids since the mark."""
        length, self._ids = mark
        del self.outputs[length:]

    def send(self, topic: str, key: bytes, record: Any) -> None:
        """Publish `record`. Raises TooManyOutputs past OUTPUTS_MAX."""
        if len(self.outputs) >= OUTPUTS_MAX:
            raise TooManyOutputs(str(self.position))
        self.outputs.append(Output(topic, key, record))

    def decide(
        self,
        name: DecisionName,
        reason: Reason,
        subject: str,
        *,
        severity: Severity = Severity.INFO,
        rule: str = "",
        values: Mapping[str, object] | None = None,
    ) -> None:
        """Publish a decision about `subject` (`device:<id>`, `partition:<n>`, `door:<d>/<n>`)."""
        index = len(self.outputs)
        decision = Decision(
            decision_id=self.new_id("d"),
            name=name.value,
            reason=reason.value,
            severity=severity.value,
            subject=subject,
            cause=self.position,
            cause_index=index,
            rule=rule,
            core_version=self._row.core_version,
            decided_at=self.now,
            values={key: str(value) for key, value in (values or {}).items()},
        )
        self.send(DECISIONS, subject.encode(), decision)

    def dead_letter(self, reason: Reason, detail: str, key: bytes, payload: bytes) -> None:
        """Publish what was not understood or was refused, with its bytes.

        Key and payload are cut: a letter larger than Kafka takes would end every worker that
        comes to this record. Its cause says where the whole of it stands.
        """
        if len(payload) > LETTER_PAYLOAD_MAX or len(key) > LETTER_KEY_MAX:
            detail = f"{detail} (cut from {len(payload)} bytes, key {len(key)})"
            key, payload = key[:LETTER_KEY_MAX], payload[:LETTER_PAYLOAD_MAX]
        letter = DeadLetter(
            reason=reason.value,
            detail=detail,
            origin=f"{self.topic.split('.')[0]} machine",
            cause=self.position,
            key=key,
            payload=payload,
            letter_id=self.new_id("x"),
        )
        self.send(DEAD_LETTERS, key, letter)
