"""What an operator says of a registered device itself: described anew, tagged, retired."""

from typing import assert_never

from schemas import events
from schemas.reasons import Reason
from schemas.states import DeviceRow
from streams.core import certificate, departure, description, rotation
from streams.core.turn import Turn

Said = events.DeviceRegistered | events.DeviceTagged | events.RetirementOrdered


def answer(turn: Turn, row: DeviceRow, event: Said) -> None:
    """Answer it; a registration with another certificate is refused."""
    match event:
        case events.DeviceTagged():
            description.tagged(turn, row, event)
        case events.RetirementOrdered():
            departure.retire(turn, row, event)
        case events.DeviceRegistered():
            if certificate.find(row, event.certificate.fingerprint) is None:
                rotation.refuse(turn, row, Reason.ALREADY_REGISTERED, event.device_type)
            else:
                description.described(turn, row, event)
        case _:
            assert_never(event)
