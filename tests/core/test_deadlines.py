"""The deadline index against a plain sorted list."""

from hypothesis import given, settings
from hypothesis import strategies as st

from streams.core.deadlines import Deadlines

KEYS = st.sampled_from([b"a", b"b", b"c", b"d", b"e"])
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, st.integers(0, 20)),
        st.tuples(st.just("due"), st.integers(-1, 25), st.integers(0, 4)),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(ACTIONS)
def test_the_index_gives_what_a_sorted_list_gives(actions: list[tuple[str, object, int]]) -> None:
    """Earliest first, equal instants by key, at most the limit, each key once."""
    index, model = Deadlines(), dict[bytes, int]()
    for name, what, number in actions:
        if name == "put":
            assert isinstance(what, bytes)
            index.put(what, number)
            model[what] = number
            if not number:
                del model[what]
        else:
            assert isinstance(what, int)
            due = sorted((at, key) for key, at in model.items() if at <= what)[:number]
            for _, key in due:
                del model[key]
            assert index.due(what, number) == [key for _, key in due]
        assert len(index) == len(model)


def test_stale_entries_do_not_pile_up() -> None:
    """A key that moves ten thousand times leaves a heap of bounded size."""
    index = Deadlines()
    for at in range(1, 10_001):
        index.put(b"a", at)
        index.put(b"b", 20_000 - at)
    assert len(index) == 2
    assert len(index._heap) < 100
    assert index.due(20_000, 10) == [b"a", b"b"]
    assert index.due(20_000, 10) == []


def test_a_limit_leaves_the_rest_due() -> None:
    """What was not taken is taken next, in the same order."""
    index = Deadlines()
    for number in range(250):
        index.put(f"{number:03}".encode(), 1 + number % 7)
    taken = [index.due(10, 100) for _ in range(4)]
    assert [len(one) for one in taken] == [100, 100, 50, 0]
    together = [key for one in taken for key in one]
    assert together == sorted(together, key=lambda key: (1 + int(key) % 7, key))
