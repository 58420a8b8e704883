"""What a bridge takes at once, and what it gives to Kafka at once."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mqtt5 import PublishPacket, QoS

from bridges.kafka import OVERSHOOT, RECORD_OVERHEAD, Full, Recorder
from bridges.mqtt.bucket import TURN_BYTES, TURN_MESSAGES, turns
from configuration.cluster import Cluster

NOWHERE = Cluster("127.0.0.1:1")
ROOM = 10_000


@dataclass
class Kept:
    """A record."""

    key: bytes
    value: bytes | None
    done: bool = False


@given(st.lists(st.sampled_from([0, 10, 1_000, TURN_BYTES // 3, TURN_BYTES + 1]), max_size=700))
def test_a_turn_is_bounded_in_messages_and_bytes_and_all_have_theirs(sizes: list[int]) -> None:
    """In their order; one message alone may be larger."""
    payload = bytes(TURN_BYTES + 1)
    batch = [
        PublishPacket(topic=str(number), payload=payload[:size], qos=QoS.AT_MOST_ONCE)
        for number, size in enumerate(sizes)
    ]
    cut = list(turns(batch))
    assert [one for turn in cut for one in turn] == batch
    for turn in cut:
        assert 0 < len(turn) <= TURN_MESSAGES
        assert len(turn) == 1 or sum(len(one.payload or b"") for one in turn) <= TURN_BYTES


def test_many_records_have_room_together_or_none_is_taken() -> None:
    """What was taken is kept: half a batch in the queue would be ahead of what comes again."""
    recorder = Recorder(NOWHERE, waiting_bytes_max=ROOM)
    size = ROOM - RECORD_OVERHEAD
    some = [Kept(b"key", bytes(size)) for _ in range(OVERSHOOT)]
    with pytest.raises(Full):
        recorder.record_all({"one": some, "two": [Kept(b"key", b"")]})
    assert recorder.waiting_bytes == 0
    recorder.record_all({"one": some})
    assert recorder.waiting_bytes == OVERSHOOT * ROOM
    with pytest.raises(Full):
        recorder.record_all({"one": [Kept(b"key", None)]})
    assert not any(one.done for one in some)
