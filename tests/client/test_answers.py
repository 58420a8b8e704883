"""A refusal, as a person reads it."""

import pytest

from client.answers import refusal
from schemas.decisions import Decision, DecisionName
from schemas.envelope import Position
from schemas.reasons import Reason


def refused(reason: Reason, **values: str) -> str:
    """Return what is said of a refusal about the fleet pumps."""
    name = DecisionName.EVENT_REFUSED
    where = Position("fleet.events", 0, 1)
    return refusal(
        Decision("d", name, reason.value, "info", "fleet:pumps", where, 0, "", 1, 0, values)
    )


def test_a_refusal_says_what_to_do_next() -> None:
    """What was refused, why, the detail and the command that shows more, on one line."""
    said = refused(Reason.UNKNOWN_CAMPAIGN, what="CampaignPaused", detail="fw-2")
    assert said == (
        "CampaignPaused refused: The fleet has no campaign of this id: fw-2; "
        "see `fleetcert campaign list pumps`"
    )


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_can_be_told(reason: Reason) -> None:
    """No reason leaves a brace, an empty hint or a stray full stop behind."""
    said = refused(reason, what="It")
    assert said.startswith("It refused: ")
    assert not said.endswith((".", "; ", ": "))
    assert "{" not in said
