"""Damaged bytes: cut short, changed, lengthened."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from schemas import codec

KINDS = tuple(kind for kinds in codec.roots().values() for kind in kinds)
TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
LONG = st.integers(-(2**63), 2**63 - 1)
for one, strategy in ((int, LONG), (str, TEXT), (float, st.floats(allow_nan=False))):
    st.register_type_strategy(one, strategy)
RECORDS = st.sampled_from(KINDS).flatmap(st.from_type)


@settings(max_examples=150, deadline=None)
@given(RECORDS, st.data())
def test_a_record_cut_short_is_undecodable(record: object, data: st.DataObject) -> None:
    """No prefix of a record is a record."""
    whole = codec.encode(record)
    end = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(codec.Undecodable):
        codec.decode(whole[:end])


@settings(max_examples=300, deadline=None)
@given(RECORDS, st.data())
def test_a_changed_byte_gives_a_record_or_undecodable(record: object, data: st.DataObject) -> None:
    """Wherever the byte lies; what decodes all the same is a record of the language."""
    damaged = bytearray(codec.encode(record))
    at = data.draw(st.integers(0, len(damaged) - 1))
    damaged[at] ^= data.draw(st.integers(1, 255))
    try:
        decoded = codec.decode(bytes(damaged))
    except codec.Undecodable:
        return
    assert isinstance(decoded, KINDS)


@settings(max_examples=50, deadline=None)
@given(RECORDS, st.binary(min_size=1, max_size=4))
def test_bytes_after_a_record_are_undecodable(record: object, rest: bytes) -> None:
    """One record is one value, and nothing follows it."""
    with pytest.raises(codec.Undecodable, match="bytes after"):
        codec.decode(codec.encode(record) + rest)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(-128, 127))
def test_foreign_headers_are_named(schema_id: int, magic: int) -> None:
    """An unknown id and a wrong magic byte say so."""
    assume(all(schema_id not in versions for versions in codec.catalogue().values()))
    with pytest.raises(codec.Undecodable, match="magic byte" if magic else "unknown schema id"):
        codec.decode(codec.HEADER.pack(magic, schema_id) + b"rest")


@pytest.mark.parametrize("length", range(codec.HEADER.size))
def test_what_is_shorter_than_the_header_is_undecodable(length: int) -> None:
    """Also the empty value of a tombstone."""
    with pytest.raises(codec.Undecodable, match="shorter"):
        codec.decode(bytes(length))
