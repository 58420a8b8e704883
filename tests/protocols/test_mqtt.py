"""What is written by hand because it is written for each message."""

from hypothesis import given
from hypothesis import strategies as st
from mqtt5 import PubAckPacket

from protocols.mqtt import PUBACK, PUBACK_HEADER, SUCCESS


@given(st.integers(1, 65_535))
def test_an_acknowledgement_is_the_codec_s(packet_id: int) -> None:
    """Byte for byte."""
    assert (
        PUBACK.pack(PUBACK_HEADER, packet_id, SUCCESS) == PubAckPacket(packet_id=packet_id).write()
    )
