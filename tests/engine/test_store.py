"""The store of one partition: whole batches, positions, deadlines without decoding."""

from pathlib import Path

from streams.engine.store import Position, Store

HERE = Position("topic", 7)


def test_rows_position_and_deadlines_come_back(tmp_path: Path) -> None:
    """What was written and closed is there again, with its deadline beside it."""
    store = Store(tmp_path / "0")
    assert store.position is None
    store.write([(b"a", 5, b"row a"), (b"b", 0, b"row b"), (b"c", 9, b"row c")], HERE)
    store.write([(b"c", 0, None)], Position("topic", 8))
    store.close()
    store = Store(tmp_path / "0")
    assert store.position == Position("topic", 8)
    assert list(store.items()) == [(b"a", b"row a"), (b"b", b"row b")]
    assert list(store.deadlines()) == [(b"a", 5), (b"b", 0)]
    assert (store.get(b"a"), store.get(b"c")) == (b"row a", None)
    store.close()


def test_a_cleared_store_is_empty_and_goes_on(tmp_path: Path) -> None:
    """Nothing of the former rows is left, and it can be written again."""
    store = Store(tmp_path / "0")
    store.write([(b"a", 5, b"row a")], HERE)
    store.clear()
    assert store.position is None
    assert list(store.items()) == []
    store.write([(b"b", 5, b"row b")], HERE)
    assert list(store.items()) == [(b"b", b"row b")]
    store.close()
