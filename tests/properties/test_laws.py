"""The laws of the machine, over random histories: repeat, replay, split, total."""

from collections.abc import Sequence
from dataclasses import astuple, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import codec, events
from schemas.envelope import BROADCAST_KEY, Cause, Evidence, Numbering, Position
from schemas.pending import MODES
from schemas.states import DeviceRow, FleetSumsRow, PartitionRow, Policy, Totals
from streams.core import certificate, device
from streams.core.deadlines import Deadlines
from streams.core.machine import fold
from streams.core.partition import Entry, Partition
from streams.core.turn import Output
from tests.helpers.fleets import ARTEFACT
from tests.helpers.folding import START, facts, fingerprint, scan_of

DEVICES = ("a", "b")
POLICY = Policy(
    stagger_ms=5_000, answer_within_ms=20_000, grace_ms=5_000, window_ms=10_000, attempts_max=2
)

small = st.integers(0, 3)
names = st.sampled_from(DEVICES)
numbers = st.one_of(st.none(), st.builds(Numbering, st.integers(1, 2), st.integers(1, 30)))
evidences = st.builds(
    Evidence,
    st.integers(1, 4).map(fingerprint),
    st.sampled_from(["10.0.0.1", "10.0.0.2"]),
    st.sampled_from(["s1", "s2"]),
    st.integers(1, 40),
    st.just("mqtt"),
    st.just(START),
)
fleets = st.sampled_from(["f", "g"])
causes = st.builds(Cause, st.just(Position("fleet.events", 0, 1)), st.just(0), st.integers(1, 8))
command_ids = st.integers(0, 60).flatmap(
    lambda offset: st.sampled_from(
        [
            f"{kind}-0-{offset}-{index}"
            for kind in ("rotate", "sign", "install", "update")
            for index in (1, 2)
        ]
    )
)
tags = st.sampled_from([(), ("site=berlin",), ("beta", "site=paris"), ("a b",)])
keyed = st.one_of(
    st.builds(
        events.DeviceRegistered,
        names,
        st.just("pump"),
        st.just(("mqtt",)),
        st.builds(facts, st.integers(1, 2), st.sampled_from([20.0, 90.0])),
        st.just("tests"),
        tags,
        st.sampled_from([{}, {"room": "7", "floor": "2"}, {"no name": ""}]),
    ),
    st.builds(events.DeviceTagged, names, tags, tags, st.just("tests")),
    st.builds(events.RetirementOrdered, names, st.sampled_from(["", "b", "?"]), st.just("tests")),
    st.builds(events.SessionOpened, names, evidences),
    st.builds(events.SessionClosed, names, evidences, small),
    st.builds(
        lambda device_id, number, evidence, shown: events.CertificatePresented(
            device_id, replace(evidence, certificate_sha256=fingerprint(number)), facts(shown)
        ),
        names, st.integers(1, 3), evidences, st.integers(1, 3),
    ),
    st.builds(
        events.RegistrationApproved, names, st.integers(1, 3).map(fingerprint),
        st.sampled_from(["pump", "no type"]), tags, st.just("tests"),
    ),
    st.builds(
        events.RegistrationRejected, names, st.integers(1, 3).map(fingerprint), st.just("tests")
    ),
    st.builds(
        events.SessionRefused, names, evidences, st.sampled_from(["certificate-retired", "?"]),
        st.just(""),
    ),
    st.builds(
        events.DeviceReported, names, evidences, numbers, st.sampled_from(["error", "reading"]),
        st.just(""), st.binary(max_size=4), st.sampled_from([0, START, START + 10**6]),
    ),
    st.builds(
        events.CommandAnswered, names, evidences, numbers, command_ids,
        st.sampled_from(["done", "failed", "refused", "accepted"]), st.just(""),
        st.sampled_from(["", "downloading", "rebooting", "rolled-back", "?"]),
    ),
    st.builds(
        events.SigningRequested, names, evidences, numbers, command_ids, st.just(b"n"),
        st.just(b"c"), st.just(b"c"), names, st.just("P-256"), st.integers(100, 110).map(
            lambda one: bytes([one]) * 32
        ), st.booleans(), st.booleans(), st.booleans(), st.just("tests"),
    ),
    st.builds(
        events.RotationOrdered, names, st.sampled_from(["o1", "o2"]), st.just("tests"), fleets,
        st.just("c"), causes,
    ),
    st.builds(events.FleetAssigned, names, fleets, fleets, causes),
    st.builds(
        events.FleetUnassigned, names, fleets, causes, st.sampled_from(["", "unmatched"])
    ),
    st.builds(
        events.UpdateOrdered, names, st.sampled_from(["u1", "u2"]), fleets, st.just("c"),
        st.just(ARTEFACT), st.just(START + 60_000), causes,
    ),
    st.builds(events.RotationOrdered, names, st.just("order"), st.just("tests")),
    st.builds(
        events.CertificateIssued, names, command_ids, st.builds(facts, st.integers(1, 5))
    ),
    st.builds(events.SigningRefused, names, command_ids, st.just("weak-key"), st.just("")),
    st.builds(
        events.CertificateRevoked, names, st.integers(1, 4).map(fingerprint), st.just("1"),
        st.integers(1, 9),
    ),
)  # fmt: skip
ticks = st.integers(0, 40_000)
doors = st.builds(
    events.DoorServed, st.just("mqtt"), st.integers(0, 1), st.sampled_from([2, 2, 2, 1]), small,
    st.just(START),
)  # fmt: skip
queries = ["", "site=berlin", "type in (pump, valve) and not beta", "or"]
policies = st.builds(
    events.FleetPolicyChanged, small, fleets, st.sampled_from(queries), st.booleans(),
    st.sampled_from([10, 30, 120]), st.sampled_from([5_000, 300_000]),
    st.sampled_from([10_000, 60_000]), st.just(0.05), st.just(1_000), causes,
)  # fmt: skip
modes = st.builds(
    lambda number, mode: events.PolicyActivated(
        number, replace(POLICY, just_in_time=mode), "tests"
    ),
    st.integers(1, 5), st.sampled_from(MODES),
)  # fmt: skip
misplaced = st.tuples(st.sampled_from([b"a", b"b", b"@fleet:f", b"@sums:f"]), keyed)
histories = st.lists(st.one_of(keyed, keyed, ticks, doors, policies, modes, misplaced), max_size=60)


def entries(history: Sequence[Any]) -> list[Entry]:
    """Return the history as entries; a number lets that many milliseconds pass.

    An event with bytes beside it is written under that key.
    """
    made, now = [], START
    for offset, one in enumerate(history):
        if isinstance(one, int):
            now += one
            tick = events.ClockTicked(now, now, b"r" * 32)
            made.append(Entry(offset, now, BROADCAST_KEY, b"", tick))
        elif isinstance(one, events.DoorServed):
            served = replace(one, at=now, number=now + one.number)
            made.append(Entry(offset, now, BROADCAST_KEY, b"", served))
        elif isinstance(one, tuple):
            made.append(Entry(offset, now, one[0], b"", one[1]))
        else:
            key = getattr(one, "device_id", "").encode() or BROADCAST_KEY
            made.append(Entry(offset, now, key, b"", one))
    return made


def sums_are_whole(rows: dict[bytes, Any]) -> None:
    """The sums of every fleet are those of its members."""
    for one in (each for each in rows.values() if isinstance(each, FleetSumsRow)):
        for name in ("connected", "degraded", "silent", "gone"):
            held = [
                each
                for each in rows.values()
                if isinstance(each, DeviceRow)
                and (each.belongs.fleet_id, each.belongs.health) == (one.fleet_id, name)
            ]
            assert getattr(one.sums, name) == len(held)


def folded(
    parts: Sequence[Sequence[Entry]],
) -> tuple[dict[bytes, DeviceRow], PartitionRow, list[Output]]:
    """Fold part after part; between two, only what is stored survives, as after a restart."""
    rows: dict[bytes, DeviceRow] = {}
    row, outputs = PartitionRow(policy=POLICY), []
    for part in parts:
        deadlines = Deadlines()
        for key, one in rows.items():
            deadlines.put(key, one.next_due_at)
        partition: Partition[DeviceRow] = Partition(0, row, rows.get, deadlines, scan_of(rows))
        result = fold(device.MACHINE, partition, part)
        assert result.set_aside == 0, result.outputs
        rows.update(result.rows)
        outputs.extend(result.outputs)
        row = codec.decode(codec.encode(partition.row))
        rows.update({key: codec.decode(codec.encode(one)) for key, one in result.rows.items()})
    return rows, row, outputs


@settings(max_examples=150, deadline=None)
@given(histories, st.integers(0, 60))
def test_replay_and_split(history: list[Any], at: int) -> None:
    """Folding again, whole or in two parts with a restart between, gives the same in every byte."""
    all_entries = entries(history)
    whole = folded([all_entries])
    assert folded([all_entries]) == whole
    assert folded([all_entries[:at], all_entries[at:]]) == whole
    assert folded([[one] for one in all_entries]) == whole


@settings(max_examples=100, deadline=None)
@given(histories)
def test_records_that_come_again_change_nothing(history: list[Any]) -> None:
    """Offsets at or below the applied one are skipped, with no outputs."""
    all_entries = entries(history)
    rows, row, outputs = folded([all_entries])
    again, row_again, outputs_again = folded([all_entries, all_entries])
    assert (again, row_again, len(outputs_again)) == (rows, row, len(outputs))


@settings(max_examples=150, deadline=None)
@given(histories)
def test_a_device_always_holds_one_active_certificate(history: list[Any]) -> None:
    """Whatever comes, one certificate is active, and every output has an id of its own."""
    rows, row, outputs = folded([entries(history)])
    for one in (each for each in rows.values() if isinstance(each, DeviceRow)):
        active = [held for held in one.certificates if held.status == certificate.ACTIVE]
        assert len(active) == 1
    ids = [one.record.decision_id for one in outputs if hasattr(one.record, "decision_id")]
    assert len(ids) == len(set(ids))
    parts = [astuple(device.count(one)) for one in rows.values()]
    assert astuple(row.totals) == tuple(map(sum, zip(astuple(Totals()), *parts, strict=True)))
    assert row.rows == len(rows)
    sums_are_whole(rows)
