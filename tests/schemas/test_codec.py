"""The codec's laws, and the committed drawings."""

import dataclasses
import io
import json

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import codec, reasons
from schemas.converters import to_plain
from schemas.records import changed
from schemas.states import DeviceRow

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


def whole(record: object) -> bytes:
    """Return the bytes of a record as fastavro writes it at one go."""
    kind = type(record)
    header = codec.HEADER.pack(codec.MAGIC, codec.schema_ids()[kind.__name__])
    buffer = io.BytesIO()
    fastavro.schemaless_writer(
        buffer, fastavro.parse_schema(codec.avsc(kind)), to_plain(kind)(record)
    )
    return header + buffer.getvalue()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.from_type(DeviceRow), min_size=2, max_size=3), st.data())
def test_a_row_has_the_same_bytes_whatever_was_written_before(
    rows: list[DeviceRow], data: st.DataObject
) -> None:
    """Written in parts, of which some are remembered, and at one go: the very same bytes."""
    names = [one.name for one in dataclasses.fields(DeviceRow)]
    row = rows[0]
    for other in [*rows, *rows]:
        taken = data.draw(st.sets(st.sampled_from(names)))
        row = changed(row, **{name: getattr(other, name) for name in taken})
        assert codec.encode(row) == whole(row)


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
