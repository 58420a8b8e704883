"""Which offset a worker's group goes on with: only what stands in the rows."""

import faust
from faust.types import TP

from streams.engine.transport import BatchConsumer, BatchTransport

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
