"""The client for fleets decodes what is asked for, however much stands beside it."""

from collections.abc import Iterator
from typing import Any

from client.fleets import Fleets
from client.kafka import Timeouts
from client.reader import Reader
from schemas import codec
from streams.core import ring
from tests.helpers.fleets import FLEET
from tests.helpers.fleets import Fleets as Machine

OTHERS = 200


class Record:
    """A record of fleet.state, that knows whether its value was looked at."""

    looked: int = 0

    def __init__(self, key: bytes, row: Any) -> None:
        self._key, self._value = key, b"" if row is None else codec.encode(row)

    def key(self) -> bytes:
        """Return the key."""
        return self._key

    def value(self) -> bytes:
        """Return the bytes of the row."""
        Record.looked += 1
        return self._value

    def topic(self) -> str:
        """Return where it stands."""
        return "fleet.state"

    def partition(self) -> int:
        """Return where it stands."""
        return 0

    def offset(self) -> int:
        """Return where it stands."""
        return 0

    def timestamp(self) -> tuple[int, int]:
        """Return when Kafka took it."""
        return (1, 0)


class Held(Reader):
    """A reader of one partition in memory."""

    def __init__(self, records: list[Record]) -> None:
        super().__init__("127.0.0.1:1", Timeouts())
        self._records = records

    def partitions(self, topic: str) -> list[int]:
        """Return the one partition."""
        return [0]

    def _messages(self, topic: str, partition: int, start: int) -> Iterator[Any]:
        yield from self._records


def reading() -> Fleets:
    """Return a client of a partition: one fleet of two members, and many rows of others."""
    machine = Machine().created().joined(["a", "b"])
    member = machine.member("a")
    strange = [
        Record(ring.member_key(f"{FLEET}-{number}", "x"), member) for number in range(OTHERS)
    ]
    own = [Record(*one) for one in machine.stage.rows.items()]
    fleets = Fleets("127.0.0.1:1")
    fleets._answers.reader = Held([*own, *strange])
    Record.looked = 0
    return fleets


def test_a_fleet_costs_its_own_row() -> None:
    """Not its members, and nothing of other fleets."""
    assert reading().fleet(FLEET).members == 2
    assert Record.looked == 1


def test_members_cost_the_members_of_the_fleet() -> None:
    """One row each, in the order of their ids."""
    assert [one.device_id for one in reading().members(FLEET)] == ["a", "b"]
    assert Record.looked == 2


def test_all_fleets_cost_a_row_each() -> None:
    """No member is decoded."""
    assert list(reading().fleets()) == [FLEET]
    assert Record.looked == 1


def test_a_fleets_rows_are_its_own() -> None:
    """What a plan is made of: the fleet, its history, its members and their order of expiry."""
    found = reading().rows(FLEET)
    kinds = sorted(key.partition(b":")[0] for key in found)
    assert kinds == [b"expiry", b"expiry", b"fleet", b"history", b"member", b"member"]
    assert Record.looked == len(found)
