"""The demo's proofs can fail: each with the one thing missing that it stands for."""

from dataclasses import replace
from typing import Any

import pytest

from client.demo import proofs, report
from client.demo.fleet import Member
from client.fleet import Found
from schemas.decisions import Decision
from schemas.events import CertificateRevoked, Keyed
from streams.replay import Verdict
from tests.core.test_rotation import proven
from tests.helpers.folding import DEVICE, Log, fingerprint

MEMBER = Member(DEVICE, "honest", True, fingerprint(1))
VERDICT = Verdict(0, 10, 2, 9, "aa", "aa", "")


def rotated() -> Log:
    """Return a log whose device has rotated whole."""
    log = proven()
    log.add(CertificateRevoked(DEVICE, fingerprint(1), "1", 7))
    log.tick(log.partition.row.policy.grace_ms + 1_000)
    return log


def evidence(log: Log, **changes: Any) -> proofs.Evidence:
    """Return what the demo would gather of the log, but for the changes."""
    found = [
        Found("device.events", 0, one.offset, one.timestamp_at, one.key, one.event)
        for one in log.entries
        if isinstance(one.event, Keyed)
    ]
    gathered = proofs.Evidence(
        rows={DEVICE: log.row},
        events={DEVICE: found},
        decisions=[one.record for one in log.outputs if isinstance(one.record, Decision)],
        verdicts=[VERDICT],
        serials={"1"},
        ended_at=log.now,
        partitions=1,
        crl_signed=True,
    )
    return replace(gathered, **changes)


def test_a_whole_rotation_is_proven() -> None:
    """First use, then closing, the revocation list, an identical replay: all proofs hold."""
    judged = report.judge(evidence(rotated()), [MEMBER])
    assert judged.holds
    told = report.report(judged)
    assert told["rotated"] == told["proven"] == told["retired"] == 1


def test_an_event_accepted_after_the_closing_breaks_the_proof() -> None:
    """Something said under the old certificate after it was closed must have been refused."""
    log = rotated()
    log.reported(1)
    late = replace(MEMBER, behaviour="uses-old-certificate")
    assert report.judge(evidence(log), [late]).holds
    deaf = [
        one
        for one in evidence(log).decisions
        if one.cause.offset != len(log.entries) - 1 or one.name != "EventRefused"
    ]
    judged = report.judge(evidence(log, decisions=deaf), [late])
    assert judged.proofs[0].accepted_after == 1
    assert not judged.holds


@pytest.mark.parametrize(
    "changes",
    [
        {"serials": set()},
        {"crl_signed": False},
        {"verdicts": []},
        {"verdicts": [replace(VERDICT, difference="pump-1: rotations is 1, replayed 0")]},
        {"recorded": {(DEVICE, 9, 9)}},
    ],
    ids=["not-on-the-list", "list-unsigned", "no-replay", "replay-differs", "event-lost"],
)
def test_anything_missing_breaks_it(changes: dict[str, Any]) -> None:
    """One absent piece, and the demo does not hold."""
    assert not report.judge(evidence(rotated(), **changes), [MEMBER]).holds


def test_a_doubled_effect_breaks_it() -> None:
    """The same decision published twice is counted."""
    gathered = evidence(rotated())
    twice = [*gathered.decisions, gathered.decisions[-1]]
    judged = report.judge(evidence(rotated(), decisions=twice), [MEMBER])
    assert judged.duplicates == 1
    assert not judged.holds


def test_an_honest_device_that_is_refused_breaks_it() -> None:
    """Whatever the reason: an answer to what was never asked, say."""
    log = rotated()
    log.requested(2, command_id="rotate-never-asked")
    judged = report.judge(evidence(log), [MEMBER])
    assert judged.wronged == [f"{DEVICE}: refused, no-rotation"]
    assert not judged.holds


def test_misbehaviour_that_nothing_names_breaks_it() -> None:
    """A flapping device must have raised its alert."""
    member = replace(MEMBER, behaviour="flaps")
    judged = report.judge(evidence(rotated()), [member])
    assert judged.missing == [f"{DEVICE} (flaps): no alert flapping"]
    assert not judged.holds
