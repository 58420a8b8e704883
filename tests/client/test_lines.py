"""One line for every record."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client import lines
from schemas import codec
from schemas.decisions import Decision
from schemas.envelope import Cause, Evidence, Position
from schemas.events import DeviceReported, DeviceTagged, FleetAssigned

KINDS = [kind for kinds in codec.roots().values() for kind in kinds]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_record_has_its_line(kind: type) -> None:
    """Whatever a record holds, it is told on one line that a terminal can print."""

    @settings(max_examples=25, deadline=None)
    @given(st.from_type(kind))
    def holds(record: object) -> None:
        line = lines.line(record)
        assert line
        assert line.isprintable()

    holds()


def test_what_is_no_record_has_no_line() -> None:
    """Undecodable bytes are shown by their kind alone."""
    assert lines.line(None) == ""


def test_a_report_shows_what_the_device_said() -> None:
    """The body is shown, the device's own numbering is not; escape sequences are text."""
    evidence = Evidence(b"\xab" * 32, "10.0.0.1", "s", 1, "mqtt", 0)
    payload = json.dumps({"boot": 1, "sequence": 2, "body": {"note": "\x1b[31mred"}}).encode()
    report = DeviceReported("pump-1", evidence, None, "reading", "application/json", payload)
    assert lines.line(report) == 'reading {"note": "\\u001b[31mred"}'


def test_a_decision_shows_its_figures_and_its_cause() -> None:
    """The alert's figure stands beside its limit."""
    where = Position("device.events", 1, 42)
    values = {"figure": "9.0", "limit": "5.0"}
    decision = Decision(
        "d", "AlertRaised", "flapping", "warning", "device:a", where, 0, "flapping", 1, 0, values
    )
    assert lines.line(decision) == "AlertRaised flapping [warning] 9 above 5 ← 1/42"


def test_fields_without_a_line_of_their_own_are_told_as_people_read_them() -> None:
    """What is empty is left out; a cause is its place, no notation of a language is shown."""
    cause = Cause(Position("fleet.events", 0, 33), 0, 1)
    assert lines.line(FleetAssigned("pump-7", "pumps", "", cause)) == (
        "device_id pump-7, fleet_id pumps, cause fleet.events 0/33"
    )
    tagged = DeviceTagged("pump-7", ("site=berlin", "beta"), ("old",), "operator")
    assert lines.line(tagged) == "+site=berlin +beta -old by operator"
