"""The cache of decoded rows keeps what is used and stays bounded."""

from streams.engine.cache import Cache


def test_what_is_used_stays_and_the_rest_goes() -> None:
    """A row that is read again and again outlives a thousand others; the number stays bounded."""
    cache: Cache[int] = Cache(10)
    cache.update({b"hot": 1})
    for number in range(1_000):
        cache.update({f"cold-{number}".encode(): number})
        assert cache.get(b"hot") == 1
        assert len(cache) <= 12
    assert cache.get(b"cold-0") is None


def test_a_newer_row_takes_the_place_of_the_older() -> None:
    """Also where the older one is in the other generation."""
    cache: Cache[int] = Cache(4)
    cache.update({b"a": 1})
    cache.update({b"b": 1, b"c": 1, b"d": 1})
    cache.update({b"a": 2})
    assert cache.get(b"a") == 2
