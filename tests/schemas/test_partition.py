"""Where a key belongs: the figures that Apache Kafka's own tests hold its producer to."""

import pytest
from aiokafka.partitioner import murmur2 as reference
from hypothesis import given
from hypothesis import strategies as st

from schemas.partition import murmur2, partition_of

KAFKA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize("key", KAFKA)
def test_the_hash_is_kafkas(key: bytes) -> None:
    """The values stand in Kafka's UtilsTest."""
    assert murmur2(key) == KAFKA[key] & 0xFFFFFFFF


@given(st.binary(max_size=64))
def test_the_hash_is_the_drivers(key: bytes) -> None:
    """Faust's driver hashes every key alike."""
    assert murmur2(key) & 0x7FFFFFFF == reference(key) & 0x7FFFFFFF


@given(st.binary(max_size=64), st.integers(1, 64))
def test_a_key_is_in_one_of_the_partitions(key: bytes, count: int) -> None:
    """The partition exists."""
    assert 0 <= partition_of(key, count) < count
