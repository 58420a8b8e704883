"""What the engine runs: a fold over batches of one topic, whose rows stand in one table.

The engine knows keys, bytes, offsets, deadlines and versions; a program knows all the rest.
`streams/programs.py` makes one of a machine.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from streams.core.partition import Folded, Partition

R = TypeVar("R", bound=Any)


class Input(Protocol):
    """One record of the history, as a Kafka client hands it over."""

    @property
    def offset(self) -> int:
        """Where it stands."""

    @property
    def timestamp(self) -> int:
        """The broker's time, milliseconds."""

    @property
    def key(self) -> bytes | None:
        """Whom it is about."""

    @property
    def value(self) -> bytes | None:
        """What it says."""


@dataclass(slots=True)
class Record:
    """An Input of our own making."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


class View(Protocol):
    """Figures over one partition's rows, kept by what changes: no part of the state.

    It is filled at the opening with all rows of its prefixes, and dropped with the partition. It is
    read from another thread: what it shows is replaced, not changed.
    """

    rows: tuple[bytes, ...]
    """Begin the keys of rows that are shown as they are."""
    keys: tuple[bytes, ...]
    """Begin the keys of rows of which only the coming and going counts."""

    def row(self, key: bytes, row: Any) -> None:
        """Take a row as it is now, None where it is gone."""

    def key(self, key: bytes, by: int) -> None:
        """Take a key that came (1) or went (-1)."""

    def settle(self, first: Callable[[bytes], bytes | None]) -> None:
        """Take the end of a batch; `first` gives the first key behind a prefix."""


class Program(Protocol[R]):
    """A fold and the bytes of its rows. All of it is pure."""

    @property
    def name(self) -> str:
        """What logs, metrics and the agent are called by."""

    @property
    def events(self) -> str:
        """The topic of the history."""

    @property
    def table(self) -> str:
        """The topic of the rows, co-partitioned with the history."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """The topics that outputs go to."""

    @property
    def version(self) -> int:
        """The version of the core; what a fold gives changes with it and with nothing else."""

    def encode(self, record: Any) -> bytes:
        """Return the bytes of a row or of an output."""

    def decode(self, data: bytes) -> R:
        """Return the row that the bytes are."""

    def due_at(self, data: bytes) -> int:
        """Return the row's deadline without decoding all of it; zero for none."""

    def view(self) -> View | None:
        """Return the figures to keep beside one partition's rows, None for none."""

    def fold(self, partition: Partition[R], records: Sequence[Input]) -> Folded[R]:
        """Fold the records, in the order of their offsets, and return what changed."""
