"""The outbox: nothing is lost, nothing is numbered twice, and it has limits."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from device.outbox import (
    BEGINNING,
    PAYLOAD_BYTES_MAX,
    REPLIES_RESERVED,
    Durability,
    Outbox,
    OutboxFull,
    PayloadTooLong,
)

ITEMS_MAX = REPLIES_RESERVED + 5


def named(boot: int, sequence: int) -> bytes:
    """Return a payload that tells its number."""
    return f"{boot}.{sequence}".encode()


def test_each_opening_is_a_new_boot(tmp_path: Path) -> None:
    """The boot counter grows by one per start; sequences begin at 1 in each."""
    for boot in (1, 2, 3):
        outbox = Outbox(tmp_path / "o")
        assert outbox.put("t", "c", named) == (boot, 1)
        outbox.close()


def test_a_full_outbox_refuses_events_and_takes_replies(tmp_path: Path) -> None:
    """Events are refused by name before the places of replies are touched; then replies too."""
    outbox = Outbox(tmp_path / "o", items_max=ITEMS_MAX)
    for _ in range(5):
        outbox.put("t", "c", named)
    assert outbox.room() == 0
    with pytest.raises(OutboxFull):
        outbox.put("t", "c", named)
    for _ in range(REPLIES_RESERVED):
        outbox.put("t", "c", named, reply=True)
    with pytest.raises(OutboxFull):
        outbox.put("t", "c", named, reply=True)
    assert len(outbox) == ITEMS_MAX


def test_a_refused_item_uses_no_number(tmp_path: Path) -> None:
    """What is too long is refused, and the next item gets its number."""
    outbox = Outbox(tmp_path / "o")
    with pytest.raises(PayloadTooLong):
        outbox.put("t", "c", lambda boot, sequence: bytes(PAYLOAD_BYTES_MAX + 1))
    assert outbox.put("t", "c", named) == (1, 1)


@pytest.mark.parametrize("damage", [b"", b"no database at all", bytes(8_192)])
def test_a_damaged_outbox_begins_anew_and_goes_on_counting(tmp_path: Path, damage: bytes) -> None:
    """Its file is kept; with a boot that has been, the device would never be heard again."""
    path = tmp_path / "o"
    for _ in range(3):
        Outbox(path).close()
    path.write_bytes(damage)
    outbox = Outbox(path)
    assert outbox.put("t", "c", named) == (4, 1)
    assert len(outbox) == 1
    outbox.close()
    if damage:
        assert (tmp_path / "o.damaged").read_bytes().startswith(damage[:9])
    (tmp_path / "o.boot").write_bytes(b"?")
    assert Outbox(path).boot == 5


def test_a_disk_that_takes_no_more_loses_nothing(tmp_path: Path) -> None:
    """Neither is kept nor let go, and the outbox goes on once there is room."""
    outbox = Outbox(tmp_path / "o")
    outbox.put("t", "c", named)
    outbox._database.execute("PRAGMA query_only = ON")  # sqlite refuses as on a full disk
    with pytest.raises(OutboxFull, match="nothing more can be kept"):
        outbox.put("t", "c", named)
    with pytest.raises(OutboxFull):
        outbox.recorded([(1, 1)])
    assert [one.number for one in outbox.after(BEGINNING, 9)] == [(1, 1)]
    outbox._database.execute("PRAGMA query_only = OFF")
    assert outbox.put("t", "c", named) == (1, 2)
    assert outbox.recorded([(1, 1)]) == [(1, 1)]
    assert len(outbox) == 1


class Life(RuleBasedStateMachine):
    """A model: the outbox against a dictionary, over restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.kept: dict[tuple[int, int], bytes] = {}
        self.used: set[tuple[int, int]] = set()
        self.open()

    def open(self) -> None:
        """Open the outbox."""
        self.outbox = Outbox(self.folder / "o", items_max=ITEMS_MAX, durability=Durability.PROCESS)

    @rule(data=st.binary(max_size=8))
    def put(self, data: bytes) -> None:
        """Keep an item, unless it is full."""
        if self.outbox.room() == 0:
            return
        number = self.outbox.put("t", "c", lambda boot, sequence: data)
        assert number not in self.used
        self.used.add(number)
        self.kept[number] = data

    @rule(data=st.data())
    def record(self, data: st.DataObject) -> None:
        """Record some items, known and unknown, some twice."""
        known = sorted(self.used) or [(9, 9)]
        numbers = data.draw(st.lists(st.sampled_from([*known, (99, 1)]), max_size=4))
        gone = self.outbox.recorded(numbers)
        assert set(gone) == {number for number in numbers if number in self.kept}
        for number in gone:
            del self.kept[number]

    @rule()
    def restart(self) -> None:
        """Close and open."""
        self.outbox.close()
        self.open()

    @invariant()
    def agrees(self) -> None:
        """Everything kept and not recorded is there, in order, in pages too."""
        items = self.outbox.after(BEGINNING, 1000)
        assert [(item.number, item.payload) for item in items] == sorted(self.kept.items())
        assert len(self.outbox) == len(self.kept)
        if len(items) > 1:
            assert self.outbox.after(items[0].number, 1) == items[1:2]

    def teardown(self) -> None:
        """Remove the files."""
        self.outbox.close()
        shutil.rmtree(self.folder)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
