"""The words for how far an update is: closed, ordered, each beside its own outcome."""

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import progress
from schemas.progress import IN_WORK, OUTCOMES, SENTENCES, Progress, ProgressCounts, is_further

words = st.sampled_from(["", *Progress, "?"])


def known_after(said: list[str]) -> str:
    """Return the furthest word of those that were said."""
    known = ""
    for one in said:
        known = one if is_further(one, known) else known
    return known


def test_every_word_has_a_sentence_and_an_outcome() -> None:
    """The words of an update in work, in their order, are what a campaign counts."""
    assert list(SENTENCES) == list(OUTCOMES) == list(Progress)
    assert [one.name for one in fields(ProgressCounts)] == list(IN_WORK)


@given(
    st.lists(words, max_size=8).flatmap(lambda one: st.tuples(st.just(one), st.permutations(one)))
)
def test_order_and_repeats_do_not_matter(both: tuple[list[str], list[str]]) -> None:
    """However words come, late or twice, what is known is the furthest; garbage changes nothing."""
    said, otherwise = both
    assert known_after(said) == known_after(otherwise) == known_after(said + otherwise)
    in_work = [one for one in said if one in IN_WORK]
    assert known_after(said) == max(in_work, key=list(IN_WORK).index, default="")


@pytest.mark.parametrize("outcome", ["accepted", "done", "failed", "refused"])
def test_a_word_stands_beside_its_outcome_alone(outcome: str) -> None:
    """Else the objection says which; no word is good beside any, another word beside none."""
    assert progress.objection(outcome, "") == ""
    assert "one of downloading" in progress.objection(outcome, "flying")
    for one in Progress:
        wrong = progress.objection(outcome, one)
        assert bool(wrong) is (OUTCOMES[one] != outcome)
        assert not wrong or wrong.endswith(OUTCOMES[one])
