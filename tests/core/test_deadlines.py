"""The deadline index against a plain sorted list."""

from hypothesis import given, settings
from hypothesis import strategies as st

from streams.core.deadlines import Deadlines

KEYS = st.sampled_from([b"a", b"b", b"c", b"d", b"e"])
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, st.integers(0, 20)),
        st.tuples(st.just("take"), st.integers(-1, 25), st.integers(0, 4)),
        st.tuples(st.just("rebuild"), st.none(), st.none()),
    ),
    max_size=60,
)


def taken(index: Deadlines, now: int, most: int = 9) -> list[bytes]:
    """Take at most `most` keys."""
    keys: list[bytes] = []
    while len(keys) < most and (key := index.take(now)) is not None:
        keys.append(key)
    return keys


@settings(max_examples=300, deadline=None)
@given(ACTIONS)
def test_the_index_gives_what_a_sorted_list_gives(
    actions: list[tuple[str, object, object]],
) -> None:
    """Earliest first, equal instants by key, each key once; rebuilt at any time, just the same."""
    index, model = Deadlines(), dict[bytes, int]()
    for name, what, number in actions:
        if name == "put":
            assert isinstance(what, bytes)
            assert isinstance(number, int)
            index.put(what, number)
            model[what] = number
            if not number:
                del model[what]
        elif name == "take":
            assert isinstance(what, int)
            assert isinstance(number, int)
            due = sorted((at, key) for key, at in model.items() if at <= what)[:number]
            for _, key in due:
                del model[key]
            assert taken(index, what, number) == [key for _, key in due]
        else:
            index = Deadlines()
            for key, at in model.items():
                index.put(key, at)
        assert len(index) == len(model)


def test_a_deadline_that_moves_later_costs_no_heap() -> None:
    """Ten thousand moves of one key leave one entry, and the key is due at the last of them."""
    index = Deadlines()
    for at in range(1, 10_001):
        index.put(b"a", at)
    assert len(index._heap) == 1
    assert index.take(9_999) is None
    assert taken(index, 10_000) == [b"a"]


def test_stale_entries_do_not_pile_up() -> None:
    """A key that moves earlier ten thousand times leaves a heap of bounded size."""
    index = Deadlines()
    for at in range(1, 10_001):
        index.put(b"a", 1)
        index.put(b"b", 20_000 - at)
    assert len(index) == 2
    assert len(index._heap) < 100
    assert taken(index, 20_000) == [b"a", b"b"]
    assert taken(index, 20_000) == []
