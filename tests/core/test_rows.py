"""Rows in the order of their keys: in memory, and with one step's changes laid over."""

from hypothesis import given, settings
from hypothesis import strategies as st

from streams.core.rows import Ordered, Overlay, SortedKeys

keys = st.text("ab/", max_size=5).map(str.encode)
changes = st.lists(st.tuples(keys, st.none() | st.integers(0, 9)), max_size=40)


def expected(
    rows: dict[bytes, int], prefix: bytes, after: bytes, limit: int
) -> list[tuple[bytes, int]]:
    """Return what a scan of a plain dictionary gives."""
    found = [one for one in sorted(rows.items()) if one[0].startswith(prefix) and one[0] > after]
    return found[:limit]


def apply(target: Ordered | Overlay, model: dict[bytes, int], some: list) -> None:
    """Make the same changes to rows and to a dictionary."""
    for key, value in some:
        if value is None:
            target.delete(key)
            model.pop(key, None)
        else:
            target.put(key, value)
            model[key] = value


@settings(max_examples=300, deadline=None)
@given(changes, changes, keys, keys.filter(bool), st.integers(0, 6))
def test_scans_give_what_a_sorted_dictionary_gives(
    under: list, over: list, prefix: bytes, after: bytes, limit: int
) -> None:
    """Also with changes and deletions laid over, and the rows beneath stay as they are."""
    ordered, model = Ordered(), {}
    apply(ordered, model, under)
    assert ordered.scan(prefix, after, limit) == expected(model, prefix, after, limit)
    overlay, merged = Overlay(ordered), dict(model)
    apply(overlay, merged, over)
    assert overlay.scan(prefix, after, limit) == expected(merged, prefix, after, limit)
    assert all(overlay.get(key) == merged.get(key) for key in {*model, *merged})
    assert dict(ordered.items()) == model


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 200).map(lambda one: f"{one:03d}".encode())))
def test_chunks_split_and_vanish(some: list[bytes]) -> None:
    """Keys stay in their order when a chunk is full or empty."""
    held, model = SortedKeys(chunk_max=4), set()
    for key in some:
        if key in model:
            held.discard(key)
            model.discard(key)
        else:
            held.add(key)
            model.add(key)
        assert list(held.since(b"")) == sorted(model)
    held.discard(b"absent")
    assert list(held.since(b"100")) == sorted(one for one in model if one >= b"100")
