"""What waits for a partition: nothing lost, in order, joined and bounded."""

import asyncio
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from streams.engine.program import Input, Record
from streams.engine.waiting import Waiting, joined

RECORDS_MAX, BYTES_MAX = 10, 100
SIZES = st.lists(st.lists(st.integers(0, 150), min_size=1, max_size=15), max_size=12)


def batches(sizes: Sequence[Sequence[int]]) -> list[list[Input]]:
    """Return batches of records with values of these sizes, numbered on."""
    made: list[list[Input]] = []
    for some in sizes:
        first = sum(len(one) for one in made)
        made.append([Record(first + at, 0, b"k", b"v" * size) for at, size in enumerate(some)])
    return made


@given(SIZES)
async def test_everything_comes_in_order_and_no_more_at_once_than_may_wait(
    sizes: list[list[int]],
) -> None:
    """Only a batch that is larger by itself comes as it is."""
    waiting, came = Waiting(RECORDS_MAX, BYTES_MAX), batches(sizes)

    async def bring() -> None:
        for one in came:
            await waiting.put(one)

    bringing, taken = asyncio.create_task(bring()), list[Sequence[Sequence[Input]]]()
    while sum(map(len, taken)) < len(came):
        taken.append(await waiting.take())
    await bringing
    assert [one for some in taken for one in some] == came
    for some in taken:
        records = [one for batch in some for one in batch]
        assert len(some) == 1 or len(records) <= RECORDS_MAX
        assert len(some) == 1 or sum(len(one.value or b"") for one in records) <= BYTES_MAX


@given(
    st.integers(0, 30),
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 10)), max_size=8),
)
def test_every_record_is_applied_once_whatever_a_rebalance_did_to_the_batches(
    expected: int, spans: list[tuple[int, int]]
) -> None:
    """Batches come twice, overlap and leave holes: what is missing between them is read."""
    history = [Record(offset, 0, b"k", b"v") for offset in range(60)]
    came = [history[first : first + count] for first, count in spans]
    read: list[tuple[int, int]] = []

    def missing(start: int, stop: int) -> list[Record]:
        read.append((start, stop))
        return history[start:stop]

    records, in_vain = joined(came, expected, missing)
    end = max((first + count for first, count in spans), default=0)
    assert records == history[expected:end]
    brought = sum(len(one) for one in came) + sum(stop - start for start, stop in read)
    assert in_vain == brought - len(records)


async def test_what_comes_meanwhile_is_one_batch() -> None:
    """A worker that is behind commits less often, not more slowly."""
    waiting, came = Waiting(RECORDS_MAX), batches([[1], [2, 3], [4]])
    for one in came:
        await waiting.put(one)
    assert await waiting.take() == came


async def test_whoever_waits_for_a_partition_that_is_given_up_is_let_go() -> None:
    """Both sides; what waited is forgotten, and comes again to the next owner."""
    waiting, (first, second) = Waiting(1), batches([[1], [2]])
    await waiting.put(first)
    await asyncio.gather(waiting.put(second), waiting.close())
    assert await waiting.take() == []
    await waiting.put(first)
    assert await waiting.take() == []
