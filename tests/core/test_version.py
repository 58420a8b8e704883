"""What a core does with the record that activates another one, and how the rows are counted."""

from schemas.decisions import DeadLetter
from schemas.envelope import BROADCAST_KEY
from schemas.events import CoreVersionActivated, DeviceReported
from streams.core.device import MACHINE
from streams.core.machine import fold
from streams.core.partition import Entry
from tests.helpers.folding import DEVICE, Log

NEWER = MACHINE.version + 1


def test_the_fold_ends_behind_the_activation_of_a_newer_core() -> None:
    """What follows in the same batch belongs to the newer core: this one leaves it alone."""
    log = Log().registered()
    report = DeviceReported(DEVICE, log.evidence(1), log.numbering(), "reading", "", b"{}")
    offset = len(log.entries)
    batch = [
        Entry(offset, log.now, BROADCAST_KEY, b"", CoreVersionActivated(1, NEWER)),
        Entry(offset + 1, log.now, DEVICE.encode(), b"", report),
    ]
    folded = fold(MACHINE, log.partition, batch)
    assert folded.rows == {}
    row = log.partition.row
    assert (row.core_version, row.core_since, row.applied_offset) == (NEWER, offset, offset)


def test_an_older_core_cannot_be_activated() -> None:
    """It is a dead letter, and the version stays."""
    log = Log().registered()
    version = log.partition.row.core_version
    (letter,) = log.add(CoreVersionActivated(1, version - 1), BROADCAST_KEY)
    assert isinstance(letter.record, DeadLetter)
    assert log.partition.row.core_version == version


def test_the_partition_row_counts_the_rows() -> None:
    """A row that is new adds one; a row that changes does not."""
    log = Log()
    assert log.partition.row.rows == 0
    log.registered().opened(1)
    log.reported(1)
    assert log.partition.row.rows == 1 == len(log.rows)
