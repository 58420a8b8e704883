"""When a bridge that does not get into its group joins anew."""

from dataclasses import dataclass

import pytest
from confluent_kafka import KafkaError
from hypothesis import given
from hypothesis import strategies as st

from bridges import run
from bridges.membership import ASK_SECONDS, PATIENCE_SECONDS, Membership

SEEN = st.tuples(st.sampled_from(["answers", "away", "joined"]), st.floats(0.1, 20.0))


@given(st.lists(SEEN, max_size=40))
def test_only_an_outsider_whom_kafka_answers_all_the_time_joins_anew(
    seen: list[tuple[str, float]],
) -> None:
    """Kafka away, or an assignment, an empty one too: the patience begins anew."""
    member, now, since = Membership(), 0.0, None
    for what, seconds in seen:
        now += seconds
        member.joined = what == "joined"
        since = None if what != "answers" else now if since is None else since
        expected = since is not None and now - since >= PATIENCE_SECONDS
        assert member.estranged(what != "away", now) == expected


def test_kafka_is_asked_seldom_and_by_outsiders_alone() -> None:
    """Who is in its group need not ask."""
    member = Membership()
    assert [member.may_ask(now) for now in (0.0, ASK_SECONDS / 2, ASK_SECONDS)] == [
        True,
        False,
        True,
    ]
    member.joined = True
    assert not member.may_ask(10 * ASK_SECONDS)


@dataclass
class Consumed:
    """What `consume` gives: a record, or an error in its place."""

    code: int | None

    def error(self) -> KafkaError | None:
        """Return the error."""
        return None if self.code is None else KafkaError(self.code)


@pytest.mark.parametrize(
    "answer", [KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE]
)
def test_a_member_that_was_not_told_where_to_begin_begins_anew(answer: int) -> None:
    """The first was seen when Kafka had stood still; of the second librdkafka's source tells."""
    record, away = Consumed(None), Consumed(KafkaError._TRANSPORT)
    assert run.sound([record, away]) == [record]  # type: ignore[list-item, comparison-overlap]
    with pytest.raises(run.Estranged):
        run.sound([record, Consumed(answer)])  # type: ignore[list-item]
    with pytest.raises(run.Fenced):
        run.sound([record, Consumed(KafkaError._FATAL)])  # type: ignore[list-item]
