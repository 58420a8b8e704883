"""Avro's longs, against fastavro."""

import io

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.longs import long


@given(st.integers(-(2**63), 2**63 - 1) | st.integers(-300, 300))
def test_a_long_has_the_bytes_that_fastavro_gives(value: int) -> None:
    """Small and large, on both sides of zero."""
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, "long", value)
    assert long(value) == buffer.getvalue()


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1])
def test_a_number_that_is_no_long_is_refused(value: int) -> None:
    """Rather than written as another one."""
    with pytest.raises(OverflowError, match="does not fit"):
        long(value)
