"""What a worker's consumer asks for, and which offset its group goes on with."""

from typing import Any

import faust
from faust.types import TP

from streams.engine.transport import OPENING_SECONDS, BatchConsumer, BatchTransport

WHERE = TP("device.events", 0)


def consumer(progress: dict[int, int | None]) -> BatchConsumer:
    """Return a consumer that is not connected, of a worker with this progress."""
    app = faust.App("tests", broker="kafka://127.0.0.1:1", store="memory://")
    transport = BatchTransport([*app.conf.broker], app, loop=app.loop)
    transport.progress[WHERE.topic] = lambda: progress

    async def nothing(*_: object) -> None: ...

    made = transport.create_consumer(
        nothing, on_partitions_revoked=nothing, on_partitions_assigned=nothing
    )
    assert isinstance(made, BatchConsumer)
    return made


def acknowledge(one: BatchConsumer, *offsets: int) -> None:
    """Acknowledge batches as Faust does: their last offsets."""
    one._acked[WHERE].extend(offsets)
    one._acked_index[WHERE].update(offsets)


def test_the_newest_acknowledgement_stands_for_all_that_is_applied() -> None:
    """One offset, once."""
    one = consumer({0: 9})
    assert one._new_offset(WHERE) is None
    acknowledge(one, 4, 9)
    assert one._new_offset(WHERE) == 10
    assert one._new_offset(WHERE) is None


def test_what_was_acknowledged_and_is_in_no_row_is_not_committed() -> None:
    """Faust acknowledges batches that a rebalance overtook: the group would pass them over."""
    progress: dict[int, int | None] = {0: 4}
    one = consumer(progress)
    acknowledge(one, 9)
    assert one._new_offset(WHERE) == 5
    progress[0] = 9
    assert one._new_offset(WHERE) == 10


def test_acknowledgements_are_forgotten_as_the_rows_follow() -> None:
    """There are always some that still wait: those alone are kept."""
    progress: dict[int, int | None] = {0: 4}
    one = consumer(progress)
    acknowledge(one, 4, 9, 12)
    assert one._new_offset(WHERE) == 5
    assert one._acked[WHERE] == [9, 12]
    assert one._acked_index[WHERE] == {9, 12}
    progress[0] = 10
    assert one._new_offset(WHERE) == 11
    assert one._acked[WHERE] == [12]


def test_a_partition_that_is_not_open_commits_nothing() -> None:
    """It is being opened, or was given up; a first owner may never have got to its first row."""
    progress: dict[int, int | None] = {0: None}
    one = consumer(progress)
    acknowledge(one, 143)
    assert one._new_offset(WHERE) is None
    del progress[0]
    assert one._new_offset(WHERE) is None
    progress[0] = -1
    assert one._new_offset(WHERE) == 0


class Fetches:
    """Stands for the consumer's thread: remembers what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[set[TP], float]] = []

    async def getmany(self, active: set[TP], seconds: float) -> dict[TP, Any]:
        """Give nothing."""
        self.asked.append((active, seconds))
        return {}


async def test_a_partition_that_is_being_opened_bars_no_other() -> None:
    """It is asked for as soon as it is open, and meanwhile the others are not waited for long."""
    other = TP(WHERE.topic, 1)
    progress: dict[int, int | None] = {0: None, 1: None}
    one = consumer(progress)
    one._thread = thread = Fetches()
    assert await one._getmany({WHERE, other}, 1.0) == {}
    assert thread.asked == []
    progress[1] = 7
    await one._getmany({WHERE, other}, 1.0)
    progress[0] = -1
    await one._getmany({WHERE, other}, 1.0)
    assert thread.asked == [({other}, OPENING_SECONDS), ({WHERE, other}, 1.0)]
