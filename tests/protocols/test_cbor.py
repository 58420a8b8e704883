"""CBOR of strangers: tags are inert, crafted keys are refused, everything else comes as it is."""

from itertools import islice, product
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import cbor

plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63), st.text(), st.binary()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(0, 99), inner),
    max_leaves=20,
)


@given(plain)
def test_plain_data_comes_as_it_is(value: Any) -> None:
    """Whole numbers may be the keys of a map, as in SenML."""
    assert cbor.loads(cbor2.dumps(value)) == value


@pytest.mark.parametrize("tag", cbor.TAGS)
def test_no_tag_is_interpreted(tag: int) -> None:
    """A decimal fraction of 130 kB took seven seconds to make, a regular expression one."""
    assert cbor.loads(cbor2.dumps({"a": [cbor2.CBORTag(tag, [1, "(a)"])]})) == {"a": [[1, "(a)"]]}


def test_every_tag_of_the_decoder_is_known() -> None:
    """A newer cbor2 that interprets more is noticed here: its own answer would not be a tag."""
    for tag in (one for one in range(65_536) if one not in cbor.TAGS):
        assert cbor2.loads(cbor2.dumps(cbor2.CBORTag(tag, ""))) == cbor2.CBORTag(tag, "")


def test_keys_that_collide_are_refused_where_they_could_cost() -> None:
    """hash(-1) is hash(-2): arrays of both share one hash, and a map of many takes seconds."""
    keys = product((-1, -2), repeat=10)
    short = {one: 0 for one in islice(keys, 200)}
    assert cbor.loads(cbor2.dumps(short)) == short
    with pytest.raises(cbor2.CBORDecodeError):
        cbor.loads(cbor2.dumps(dict.fromkeys(islice(keys, 500), 0)))
