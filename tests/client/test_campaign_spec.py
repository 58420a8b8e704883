"""A campaign as a user writes it: every name, and how a wrong one is refused."""

import json
from typing import Any

import pytest

from client import campaign_spec
from client.errors import FleetError
from schemas.artefact import Artefact
from schemas.fleet_states import (
    CampaignGroup,
    CampaignRate,
    CampaignSpec,
    TimeWindow,
)

NOW = 1_800_000_000_000
ARTEFACT = {"version": "2", "uri": "https://x", "sha256": "ab" * 32}


def parsed(**document: Any) -> CampaignSpec:
    """Return the spec of a document."""
    return campaign_spec.parse(json.dumps(document), NOW)


def test_the_least_is_the_kind() -> None:
    """All else is the fleet's own or the default."""
    assert parsed(kind="rotation") == CampaignSpec("rotation")


def test_every_name_is_read() -> None:
    """The user's names, spans in milliseconds, digests in hexadecimal, instants in ISO 8601."""
    spec = parsed(
        kind="update",
        artefact={**ARTEFACT, "name": "pump", "size": 5, "signature": "0102", "keyId": "k"},
        selection="expiring", expiringDays=9, batchSize=7, failureThreshold=0.2, finishedMin=6,
        attemptsMax=3, backoff=1000, backoffMax=9000, orderWithin=60000, stagger=1, priority=2,
        groups=[{"count": 5}, {"percent": 10, "gate": True, "successThreshold": 1}],
        rate={"perMinute": 5, "growthPercent": 150, "growEvery": 10, "perMinuteMax": 50},
        timeWindow={"start": "22:00", "end": "01:30", "days": ["sat", "mon"]},
        continuous=True, startAt="2027-02-01T00:00", endAfter=86400000, anyTime=False,
    )  # fmt: skip
    assert spec == CampaignSpec(
        kind="update",
        artefact=Artefact("firmware", "pump", "2", "https://x", 5, b"\xab" * 32, b"\1\2", "k"),
        selection="expiring",
        expiring_days=9,
        groups=(CampaignGroup(count=5), CampaignGroup(10, 0, 1.0, True)),
        batch_size=7,
        failure_threshold=0.2,
        finished_min=6,
        attempts_max=3,
        backoff_ms=1000,
        backoff_max_ms=9000,
        order_within_ms=60000,
        rate=CampaignRate(5, 150, 10, 50),
        window=TimeWindow(22 * 60, 90, "UTC", (0, 5)),
        stagger_ms=1,
        priority=2,
        continuous=True,
        start_at=1_801_440_000_000,
        end_after_ms=86400000,
    )


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({}, "kind is missing"),
        ({"kind": 5}, "kind is 5: expected a text"),
        ({"kind": "rotation", "batchsize": 5}, "batchsize: no such name; did you mean batchSize?"),
        ({"kind": "rotation", "batchSize": "5"}, 'batchSize is "5": expected a whole number'),
        ({"kind": "rotation", "batchSize": True}, "expected a whole number"),
        ({"kind": "rotation", "anyTime": 1}, "anyTime is 1: expected true or false"),
        ({"kind": "rotation", "groups": {}}, "groups: expected a list"),
        ({"kind": "rotation", "groups": [1]}, "groups[0]: expected an object"),
        ({"kind": "rotation", "groups": [{"size": 1}]}, "groups[0].size: no such name"),
        ({"kind": "rotation", "rate": {"perMinute": 0.5}}, "rate.perMinute is 0.5"),
        ({"kind": "rotation", "startAt": 5}, "startAt: expected an instant"),
        ({"kind": "rotation", "startAt": "soon"}, "'soon' is no instant"),
        ({"kind": "rotation", "timeWindow": {"start": "1"}}, "timeWindow.start"),
        ({"kind": "rotation", "timeWindow": {"end": "02:00"}}, "start and end are both"),
        ({"kind": "update", "artefact": {"version": "1"}}, "artefact: uri, sha256 are missing"),
        ({"kind": "update", "artefact": {**ARTEFACT, "sha256": "xy"}}, "hexadecimal"),
        ({"kind": "update", "artefact": {**ARTEFACT, "sha256": 5}}, "hexadecimal"),
        ({"kind": "update", "artefact": 5}, "artefact: expected an object"),
    ],
)
def test_what_is_wrong_is_said_with_its_path(document: dict[str, Any], said: str) -> None:
    """The path, the value, what was expected; the nearest known name."""
    with pytest.raises(FleetError) as refusal:
        parsed(**document)
    assert said in str(refusal.value)


@pytest.mark.parametrize("text", ["{", "[]", "5"])
def test_what_is_no_object_is_refused(text: str) -> None:
    """In words."""
    with pytest.raises(FleetError, match=r"no JSON|expected an object"):
        campaign_spec.parse(text, NOW)


def test_the_machines_rules_are_asked_beforehand() -> None:
    """What the machine would refuse is refused here, with its words."""
    with pytest.raises(FleetError, match="attempts_max is 0"):
        campaign_spec.checked("c", parsed(kind="rotation", attemptsMax=0), None)
    with pytest.raises(FleetError, match="campaign id"):
        campaign_spec.checked("a/b", parsed(kind="rotation"), None)
