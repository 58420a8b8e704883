"""Membership queries: what they find, and how a wrong one is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.core import query

TAGS = ("site=berlin", "beta", "floor=2")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("site=berlin", True),
        ("site", True),
        ("site=paris", False),
        ("not site=paris", True),
        ("not beta", False),
        ("site=berlin and floor=2", True),
        ("site=berlin and floor=3", False),
        ("site=paris or type=pump", True),
        ("site=paris and beta or floor=3 and beta", False),
        ("type=valve", False),
        ("type", True),
        ("not not-there", True),
        ("site in (paris, berlin)", True),
        ("site in (paris,rome) or floor in(2)", True),
        ("not site in (berlin, paris)", False),
        ("type in (pump) and site in (berlin, paris) and not beta", False),
        ("protocol=mqtt", True),
        ("protocol=coap", False),
    ],
)
def test_a_query_finds(text: str, found: bool) -> None:
    """Terms, `and`, `or`, `not`, and the device's type."""
    assert query.matches(query.parse(text), TAGS, "pump", ("mqtt",)) is found
    assert query.objection(text) == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("site=", "word 1: expected a tag, found 'site='"),
        ("a and", "word 3: expected a tag, found the end"),
        ("a b", "word 2: expected and/or, found 'b'"),
        ("not", "word 2: expected a tag, found the end"),
        ("or a", "word 1: expected a tag, found 'or'"),
        ("=x", "word 1: expected a tag, found '=x'"),
        (" and ".join(["a"] * 33), "more than 32 terms"),
        ("a in b", "word 3: expected (, found 'b'"),
        ("a in (b", "word 5: expected , or ), found the end"),
        ("a in ()", "word 4: expected a value, found ')'"),
        ("a=b in (c)", "word 2: expected and/or, found 'in'"),
        ("a" * 600, "600 characters, at most 512"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, said: str) -> None:
    """The word and what was expected there."""
    assert said in query.objection(text)


def test_no_query_is_no_error() -> None:
    """A fleet need not have one."""
    assert query.objection("") == ""


@given(st.text(max_size=40))
def test_any_text_is_a_query_or_refused_in_words(text: str) -> None:
    """Nothing else is raised."""
    said = query.objection(text)
    assert said or not text or query.parse(text)


@given(st.lists(st.sampled_from((*TAGS, "other")), min_size=1, max_size=4))
def test_not_turns_a_term_round(tags: list[str]) -> None:
    """A device is found by a term or by its negation."""
    for tag in tags:
        whole = query.matches(query.parse(tag), TAGS, "pump")
        assert query.matches(query.parse(f"not {tag}"), TAGS, "pump") is not whole
