"""The machines as programs of the engine: events decoded, folded, rows encoded."""

import functools
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

import fastavro

from schemas import codec, fleet_states
from schemas.pending import PendingRow
from schemas.states import DeviceRow
from schemas.topics import (
    CERTIFICATE_REQUESTS,
    DEAD_LETTERS,
    DECISIONS,
    DEVICE_COMMANDS,
    DEVICE_EVENTS,
    DEVICE_STATE,
    FLEET_EVENTS,
    FLEET_STATE,
)
from streams.core import device, fleet, machine, wide
from streams.core.machine import Machine
from streams.core.partition import Entry, Folded, Partition
from streams.core.wide import WideMachine
from streams.engine.program import Input, Program, View
from streams.figures import FleetView

R = TypeVar("R", bound=Any)
DUE = "next_due_at"
TOLD = (DEVICE_EVENTS, FLEET_EVENTS, DECISIONS, DEAD_LETTERS)
"""Where either machine tells the other and everybody."""


def entry(record: Input) -> Entry:
    """Decode a record for the fold; bytes that are none say why instead."""
    key, value = record.key or b"", record.value or b""
    try:
        event, why = codec.decode(value), ""
    except codec.Undecodable as error:
        event, why = None, str(error)
    return Entry(record.offset, record.timestamp, key, value, event, why)


@dataclass(frozen=True, slots=True)
class MachineProgram(Generic[R]):
    """A machine and its fold, its rows' types and topic, its outputs' topics, its figures."""

    name: str
    machine: Machine[Any] | WideMachine
    run: Callable[[Any, Partition[R], Iterable[Entry]], Folded[R]]
    rows: tuple[type, ...]
    table: str
    outputs: tuple[str, ...]
    view: Callable[[], View | None]

    @property
    def events(self) -> str:
        """The machine's log."""
        return self.machine.topic

    @property
    def version(self) -> int:
        """The machine's version."""
        return self.machine.version

    def encode(self, record: Any) -> bytes:
        """Return the record in the language's wire format."""
        return codec.encode(record)

    def decode(self, data: bytes) -> R:
        """Return the row. Raises Undecodable."""
        row: R = codec.decode(data)
        return row

    def due_at(self, data: bytes) -> int:
        """Return `next_due_at` of an encoded row: an eighth of the time of decoding the row."""
        read = _due_readers(self.rows).get(data[: codec.HEADER.size])
        return int(codec.decode(data).next_due_at) if read is None else read(data)

    def fold(self, partition: Partition[R], records: Sequence[Input]) -> Folded[R]:
        """Decode the records and fold them with the machine."""
        return self.run(self.machine, partition, map(entry, records))


@functools.cache
def _due_readers(rows: tuple[type, ...]) -> dict[bytes, Callable[[bytes], int]]:
    """Return the reader of each row's deadline, by the header of its newest schema."""
    ids = codec.schema_ids()
    return {codec.HEADER.pack(codec.MAGIC, ids[one.__name__]): _due_reader(one) for one in rows}


def _due_reader(row: type) -> Callable[[bytes], int]:
    """Compile the reading of a row's first fields up to its deadline."""
    drawn = codec.avsc(row)
    names = [one.name for one in fields(row)]
    head = {**drawn, "fields": drawn["fields"][: names.index(DUE) + 1]}
    schema = fastavro.parse_schema(head)

    def due_at(data: bytes) -> int:
        row = io.BytesIO(data[codec.HEADER.size :])
        plain: Any = fastavro.schemaless_reader(row, schema, None)
        return int(plain[DUE])

    return due_at


DEVICES: MachineProgram[Any] = MachineProgram(
    "devices",
    device.MACHINE,
    machine.fold,
    (DeviceRow, PendingRow),
    DEVICE_STATE,
    (*TOLD, DEVICE_COMMANDS, CERTIFICATE_REQUESTS),
    lambda: None,
)
"""What runs on `device.events`."""
FLEETS: MachineProgram[Any] = MachineProgram(
    "fleets",
    fleet.MACHINE,
    wide.fold,
    (
        fleet_states.FleetRow,
        fleet_states.FleetHistoryRow,
        fleet_states.FleetDefaultsRow,
        fleet_states.MemberRow,
        fleet_states.ExpiryRow,
        fleet_states.QueueRow,
        fleet_states.CampaignRow,
    ),
    FLEET_STATE,
    TOLD,
    FleetView,
)
"""What runs on `fleet.events`."""
PROGRAMS: tuple[Program[Any], ...] = (DEVICES, FLEETS)
"""All that one worker process runs."""
