"""What a fold works on: the records of a batch, one partition as it stands, and what changed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from schemas.states import PartitionRow
from streams.core.deadlines import Deadlines
from streams.core.turn import Output


class Row(Protocol):
    """What the machine needs of a row."""

    @property
    def applied_offset(self) -> int:
        """The offset of the last record that changed the row."""

    @property
    def next_due_at(self) -> int:
        """When the row wants to be woken, zero for never."""


R = TypeVar("R", bound=Any)


class Entry(NamedTuple):
    """One record of the log. `event` is None where `undecodable` says why."""

    offset: int
    timestamp_at: int
    key: bytes
    value: bytes
    event: Any
    undecodable: str = ""


@dataclass(slots=True)
class Partition(Generic[R]):
    """One partition while it is folded: its row, ways to read rows, and its deadlines.

    `scan` gives rows by prefix, behind a key, at most so many: machines of several rows need it.
    """

    number: int
    row: PartitionRow
    read: Callable[[bytes], R | None]
    deadlines: Deadlines
    scan: Callable[[bytes, bytes, int], list[tuple[bytes, R]]] | None = None


@dataclass(slots=True)
class Folded(Generic[R]):
    """What a batch changed: rows by key, outputs in order, and what was counted.

    `seconds` is how long the fold took, set by whoever has a clock.
    """

    rows: dict[bytes, R] = field(default_factory=dict)
    outputs: list[Output] = field(default_factory=list)
    stepped: int = 0
    skipped: int = 0
    set_aside: int = 0
    seconds: float = 0.0
