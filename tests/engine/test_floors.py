"""Floors of prefixes: never above a row that is there, and no deleted key is stepped over twice."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from streams.engine.floors import PREFIXES_MAX, Floors
from streams.engine.store import Position, Store

HERE = Position("topic", 7)
KEYS = [f"{one}:{two}/{three}".encode() for one in "ab" for two in "xy" for three in ("1/p", "2")]
PREFIXES = [b"a:x/", b"a:y/", b"b:x/", b"a:x/1/", b"", b"a"]
ACTS = st.one_of(
    st.tuples(st.sampled_from(["put", "delete"]), st.sampled_from(KEYS)),
    st.tuples(st.just("look"), st.sampled_from(PREFIXES)),
)


@given(st.lists(ACTS, max_size=40))
def test_a_scan_from_the_floor_finds_what_a_whole_scan_finds(acts: list[tuple[str, bytes]]) -> None:
    """Whatever was put, deleted and looked for before, in whatever order."""
    floors, there = Floors(), set[bytes]()
    for act, one in acts:
        if act == "put":
            there.add(one)
            floors.put(one)
        elif act == "delete":
            there.discard(one)
        else:
            first = min((key for key in there if key.startswith(one)), default=None)
            begin = floors.begin(one)
            assert begin.startswith(one)
            assert first is None or begin <= first
            floors.found(one, first)


def test_no_deleted_key_is_stepped_over_twice() -> None:
    """A thousand rows go at their front, a look after each: a thousand steps, no half million."""
    floors, prefix = Floors(), b"expiry:pumps/"
    keys = [prefix + b"%04d" % number for number in range(1_000)]
    for key in keys:
        floors.put(key)
    steps = 0
    for number in range(len(keys)):
        first = keys[number + 1] if number + 1 < len(keys) else None
        begin = floors.begin(prefix)
        steps += sum(begin <= gone for gone in keys[: number + 1])
        floors.found(prefix, first)
    assert steps <= len(keys)


def test_what_is_remembered_is_bounded() -> None:
    """Past the limit all floors are forgotten, which costs a scan each and finds the same."""
    floors = Floors()
    for number in range(PREFIXES_MAX + 1):
        floors.found(b"lane:%d/" % number, b"lane:%d/9" % number)
    assert floors.begin(b"lane:0/") == b"lane:0/"
    assert floors.begin(b"lane:%d/" % PREFIXES_MAX) == b"lane:%d/9" % PREFIXES_MAX


def test_a_store_scans_from_its_floors(tmp_path: Path) -> None:
    """Rows that come back before the floor are found again, also behind a deletion of all."""
    store = Store(tmp_path / "0")

    def scan(limit: int = 9) -> list[bytes]:
        return [key for key, _ in store.scan(b"e:x/", b"", limit)]

    store.write([(b"e:x/%d" % one, 0, b"row") for one in range(4)], HERE)
    assert scan(1) == [b"e:x/0"]
    store.write([(b"e:x/0", 0, None), (b"e:x/1", 0, None)], HERE)
    assert scan() == [b"e:x/2", b"e:x/3"]
    assert store.scan(b"e:x/", b"e:x/2", 9) == [(b"e:x/3", b"row")]
    store.write([(b"e:x/1", 0, b"row")], HERE)
    assert scan(1) == [b"e:x/1"]
    store.write([(b"e:x/%d" % one, 0, None) for one in range(4)], HERE)
    assert scan() == []
    store.write([(b"e:x/0", 0, b"row")], HERE)
    assert scan() == [b"e:x/0"]
    store.close()
