"""The durable outbox: what the device said, kept until it is *recorded*.

Rules of this file: a number (boot, sequence) is given in the same transaction that keeps the
item, so that a number never means two things; an item leaves only when it is recorded or refused
for good. SQLite in WAL mode; with `Durability.POWER` every commit reaches the disk. The boot stands
in a file of its own as well: a database that is damaged is put aside, and were the boots counted
from 1 again, all that the device says would be taken for a repeat.
"""

import contextlib
import enum
import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from device import durable, faults

ITEMS_MAX = 10_000
"""How many items are kept before `put` refuses."""

ONCE_MAX = 64
"""How many names of what is said once are remembered; the oldest gives way."""

REPLIES_RESERVED = 64
"""How many of these places only replies may take: a full outbox still answers commands."""

PAYLOAD_BYTES_MAX = 262_144
"""The longest payload of an item."""

DAMAGED = ".damaged"
"""Behind the name of a database that cannot be read."""

BEGINNING = (0, 0)
"""Before every number: boots and sequences count from 1."""

Number = tuple[int, int]

_log = logging.getLogger("fleetcert.device.outbox")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS boots (boot INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS items (
    boot INTEGER NOT NULL, sequence INTEGER NOT NULL, topic TEXT NOT NULL,
    content_type TEXT NOT NULL, payload BLOB NOT NULL, PRIMARY KEY (boot, sequence)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS said (place INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
"""


class OutboxFull(RuntimeError):
    """The outbox holds `items_max` items, or the disk takes no more; the message says which.

    Wait until the bridge records some, make room on the disk, or report less.
    """


class PayloadTooLong(ValueError):
    """The payload exceeds PAYLOAD_BYTES_MAX: send less in one report."""


class Durability(enum.Enum):
    """What a commit survives: a power cut, or only the end of the process (simulators)."""

    POWER = "FULL"
    PROCESS = "OFF"


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to say, with the number that makes it recognisable when it is said twice."""

    number: Number
    topic: str
    content_type: str
    payload: bytes


class Outbox:
    """The outbox in one file; opening it starts a new boot."""

    def __init__(
        self,
        path: Path,
        *,
        items_max: int = ITEMS_MAX,
        durability: Durability = Durability.POWER,
    ) -> None:
        """Open or make the file, and count the boot."""
        if items_max <= REPLIES_RESERVED:
            raise ValueError(f"items_max must exceed the {REPLIES_RESERVED} reserved for replies")
        self.items_max = items_max
        self._boot_file = path.with_suffix(".boot")
        try:
            self._database, self._count = _opened(path, durability)
        except sqlite3.OperationalError:  # the disk, not what stands on it
            raise
        except sqlite3.DatabaseError as error:
            _put_aside(path, error)
            self._database, self._count = _opened(path, durability)
        self.boot = self._next_boot()
        self._sequence = 0

    def __len__(self) -> int:
        """Return how many items wait to be recorded."""
        return self._count

    @property
    def last(self) -> Number:
        """Return the number that was given last."""
        return (self.boot, self._sequence)

    def room(self) -> int:
        """Return how many more events `put` will take."""
        return max(0, self.items_max - REPLIES_RESERVED - self._count)

    def put(
        self,
        topic: str,
        content_type: str,
        payload: Callable[[int, int], bytes],
        *,
        reply: bool = False,
        once: str = "",
    ) -> Number:
        """Keep an item durably and return its number; `payload` is called with the number.

        With `once`, that name is remembered in the same commit: see `said`.
        Raises OutboxFull and PayloadTooLong; nothing is kept and no number is used then.
        """
        if self._count >= self.items_max - (0 if reply else REPLIES_RESERVED):
            raise OutboxFull(f"{self._count} items wait to be recorded")
        number = (self.boot, self._sequence + 1)
        data = payload(*number)
        if len(data) > PAYLOAD_BYTES_MAX:
            raise PayloadTooLong(f"{len(data)} bytes, the limit is {PAYLOAD_BYTES_MAX}")
        with faults.around("outbox:item"):
            with self._whole():
                self._database.execute(
                    "INSERT INTO items VALUES (?, ?, ?, ?, ?)", (*number, topic, content_type, data)
                )
                if once:
                    self._remember(once)
            self._sequence += 1
            self._count += 1
        return number

    def said(self, name: str) -> bool:
        """Tell whether an item was kept `once` under this name, be it recorded by now or not."""
        found = self._database.execute("SELECT 1 FROM said WHERE name = ?", (name,))
        return found.fetchone() is not None

    def after(self, number: Number, limit: int) -> list[Item]:
        """Return the first `limit` items behind a number, in the order they were kept."""
        rows = self._database.execute(
            "SELECT boot, sequence, topic, content_type, payload FROM items"
            " WHERE (boot, sequence) > (?, ?) ORDER BY boot, sequence LIMIT ?",
            (*number, limit),
        )
        return [Item((boot, sequence), *rest) for boot, sequence, *rest in rows]

    def recorded(self, numbers: Iterable[Number]) -> list[Number]:
        """Let go of these items; return the ones that were still kept. Raises OutboxFull."""
        gone: list[Number] = []
        with faults.around("outbox:recorded"):
            with self._whole():
                for number in numbers:
                    found = self._database.execute(
                        "DELETE FROM items WHERE boot = ? AND sequence = ?", number
                    )
                    gone.extend([number] if found.rowcount else [])
            self._count -= len(gone)
        return gone

    def close(self) -> None:
        """Close the file; everything kept stays kept."""
        self._database.close()

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        """Do all of the block or nothing; a disk that takes no more raises OutboxFull."""
        try:
            with self._database:
                self._database.execute("BEGIN IMMEDIATE")
                yield
        except sqlite3.OperationalError as error:
            raise OutboxFull(f"nothing more can be kept: {error}") from error

    def _remember(self, name: str) -> None:
        self._database.execute("INSERT INTO said (name) VALUES (?)", (name,))
        oldest = "(SELECT place FROM said ORDER BY place DESC LIMIT -1 OFFSET ?)"
        self._database.execute(f"DELETE FROM said WHERE place IN {oldest}", (ONCE_MAX,))  # noqa: S608

    def _next_boot(self) -> int:
        with faults.around("outbox:boot"):
            self._database.execute("BEGIN IMMEDIATE")
            last = self._database.execute("SELECT coalesce(max(boot), 0) FROM boots").fetchone()[0]
            boot = max(int(last), _noted(self._boot_file)) + 1
            durable.write(self._boot_file, str(boot).encode())
            self._database.execute("INSERT INTO boots VALUES (?)", (boot,))
            self._database.execute("DELETE FROM boots WHERE boot < ?", (boot,))
            self._database.execute("COMMIT")
        return boot


def enrolment(directory: Path) -> Outbox:
    """Open the outbox of a newcomer's answers: numbered apart, as the history takes them."""
    return Outbox(directory / "enrolment.sqlite")


def _opened(path: Path, durability: Durability) -> tuple[sqlite3.Connection, int]:
    """Return the database of a file, and how many items it keeps."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute(f"PRAGMA synchronous = {durability.value}")
    database.executescript(_SCHEMA)
    return database, int(database.execute("SELECT count(*) FROM items").fetchone()[0])


def _put_aside(path: Path, error: Exception) -> None:
    """Keep a damaged database under another name, for whoever wants to look."""
    _log.error(
        "the outbox is damaged (%s) and begins anew; what it kept is in %s%s", error, path, DAMAGED
    )
    for tail in ("", "-wal", "-shm"):
        part = path.with_name(path.name + tail)
        if part.exists():
            part.replace(path.with_name(path.name + DAMAGED + tail))


def _noted(boot_file: Path) -> int:
    try:
        return int(boot_file.read_bytes())
    except (FileNotFoundError, ValueError):
        return 0
