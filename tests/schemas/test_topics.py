"""The catalogue of topics: what is wrong with the topics that are there."""

import pytest

from schemas import topics

GOOD = {one.name: one.partitions(4) for one in topics.TOPICS}


def test_the_catalogue_itself_is_right() -> None:
    """Topics that share their keys have as many partitions as the history, the others one."""
    assert topics.objections(GOOD | {"__consumer_offsets": 50, "somebody.elses": 3}) == []


def test_missing_topics_are_named() -> None:
    """All of them, at once."""
    found = {name: count for name, count in GOOD.items() if name.startswith("device")}
    (objection,) = topics.objections(found)
    assert objection.startswith("missing topics: ")
    assert all((one.name in objection) == (one.name not in found) for one in topics.TOPICS)
    assert topics.objections({}) == [f"missing topics: {', '.join(GOOD)}"]


@pytest.mark.parametrize("name", [one.name for one in topics.TOPICS])
def test_another_partition_count_is_named(name: str) -> None:
    """Of any topic; where the history itself differs, those that should be like it are named."""
    found = topics.objections(GOOD | {name: 7})
    assert found
    if name != topics.DEVICE_EVENTS:
        assert found == [f"topic {name} has 7 partitions, not {GOOD[name]}"]
