"""The machines as programs of the engine: events decoded, folded, rows encoded."""

import functools
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

import fastavro

from schemas import codec, fleet_states
from schemas.states import DeviceRow
from schemas.topics import DEVICE_STATE, FLEET_STATE
from streams.core import device, fleet, wide
from streams.core.machine import Entry, Folded, Machine, Partition, fold
from streams.core.wide import WideMachine
from streams.engine.program import Input, Program
from streams.figures import FleetView

R = TypeVar("R", bound=Any)
DUE = "next_due_at"


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
    """A machine, the type of its rows and the topic they stand in."""

    name: str
    machine: Machine[R]
    row: type[R]
    table: str

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
        row: type = self.row
        return _due_reader(row)(data)

    def view(self) -> None:
        """Return no figures: the partition row has all that is told of devices."""

    def fold(self, partition: Partition[R], records: Sequence[Input]) -> Folded[R]:
        """Decode the records and fold them with the machine."""
        return fold(self.machine, partition, map(entry, records))


@functools.cache
def _due_reader(row: type) -> Callable[[bytes], int]:
    """Compile the reading of a row's first fields up to its deadline."""
    drawn = codec.avsc(row)
    names = [one.name for one in fields(row)]
    head = {**drawn, "fields": drawn["fields"][: names.index(DUE) + 1]}
    schema = fastavro.parse_schema(head)
    header = codec.HEADER.pack(codec.MAGIC, codec.schema_ids()[row.__name__])

    def due_at(data: bytes) -> int:
        if not data.startswith(header):  # of an older schema
            return int(codec.decode(data).next_due_at)
        plain: Any = fastavro.schemaless_reader(io.BytesIO(data[len(header) :]), schema, None)
        return int(plain[DUE])

    return due_at


@dataclass(frozen=True, slots=True)
class WideProgram:
    """A machine of several rows, the types of its rows and the topic they stand in."""

    name: str
    machine: WideMachine
    rows: tuple[type, ...]
    table: str

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

    def decode(self, data: bytes) -> Any:
        """Return the row. Raises Undecodable."""
        return codec.decode(data)

    def due_at(self, data: bytes) -> int:
        """Return `next_due_at` of an encoded row."""
        reader = _due_readers(self.rows).get(data[: codec.HEADER.size])
        return int(codec.decode(data).next_due_at) if reader is None else reader(data)

    def view(self) -> FleetView:
        """Return the figures of a partition's fleets."""
        return FleetView()

    def fold(self, partition: Partition[Any], records: Sequence[Input]) -> Folded[Any]:
        """Decode the records and fold them with the machine."""
        return wide.fold(self.machine, partition, map(entry, records))


@functools.cache
def _due_readers(rows: tuple[type, ...]) -> dict[bytes, Callable[[bytes], int]]:
    ids = codec.schema_ids()
    headers = {one: codec.HEADER.pack(codec.MAGIC, ids[one.__name__]) for one in rows}
    return {header: _due_reader(one) for one, header in headers.items()}


DEVICES: MachineProgram[DeviceRow] = MachineProgram(
    "devices", device.MACHINE, DeviceRow, DEVICE_STATE
)
"""What runs on `device.events`."""
FLEETS = WideProgram(
    "fleets",
    fleet.MACHINE,
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
)
"""What runs on `fleet.events`."""
PROGRAMS: tuple[Program[Any], ...] = (DEVICES, FLEETS)
"""All that one worker process runs."""
