"""The codec's laws, and the committed drawings."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import codec, reasons

KINDS = [kind for kinds in codec.roots().values() for kind in kinds]
LONG = st.integers(-(2**63), 2**63 - 1)
st.register_type_strategy(int, LONG)
st.register_type_strategy(float, st.floats(allow_nan=False))
st.register_type_strategy(str, st.text(st.characters(codec="utf-8"), max_size=8))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_record_survives_its_round_trip(kind: type) -> None:
    """decode(encode(x)) == x, for whatever a record may hold."""

    @settings(max_examples=25, deadline=None)
    @given(st.from_type(kind))
    def holds(record: object) -> None:
        assert codec.decode(codec.encode(record)) == record

    holds()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(sorted(codec.schema_ids().values())))
def test_garbage_is_undecodable_and_nothing_else(data: bytes, schema_id: int) -> None:
    """Random bytes, with and without a good header, decode or raise Undecodable."""
    for candidate in (data, codec.HEADER.pack(codec.MAGIC, schema_id) + data):
        try:
            codec.decode(candidate)
        except codec.Undecodable:
            continue


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_committed_drawing_is_the_dataclass(kind: type) -> None:
    """`make docs` was run after the last change of a record."""
    (path,) = codec.AVRO.glob(f"*/{kind.__name__}.avsc")
    assert json.loads(path.read_text()) == codec.avsc(kind)


def test_schema_ids_are_unique() -> None:
    """No two records share an id."""
    ids = list(codec.schema_ids().values())
    assert len(ids) == len(set(ids))


def test_every_reason_has_its_sentence() -> None:
    """The closed list is explained whole."""
    assert set(reasons.SENTENCES) == set(reasons.Reason)
