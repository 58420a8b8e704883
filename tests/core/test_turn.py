"""Ids of one record's turn: derived, and nobody else's."""

from itertools import product

from schemas.states import PartitionRow
from schemas.topics import DEVICE_EVENTS, FLEET_EVENTS
from streams.core.turn import Turn


def test_no_two_records_give_the_same_id() -> None:
    """Two machines decide at the same partitions and offsets: each id is made once."""
    made = [
        Turn(topic, partition, offset, PartitionRow()).new_id("d")
        for topic, partition, offset in product((DEVICE_EVENTS, FLEET_EVENTS), range(12), range(12))
    ]
    assert len(set(made)) == len(made)
