"""What holds of every row after every record, whatever the history: also after absurd ones."""

from dataclasses import fields
from itertools import pairwise
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from schemas import codec, events
from schemas.envelope import BROADCAST_KEY, Evidence, Numbering
from schemas.pending import MODES
from schemas.states import DeviceRow, PartitionRow, Policy
from streams.core import certificate, retirement, rotation
from streams.core.deadlines import Deadlines
from streams.core.device import MACHINE
from streams.core.machine import fold
from streams.core.partition import Entry, Folded, Partition
from tests.helpers.folding import START, facts, fingerprint, scan_of
from tests.properties.test_laws import POLICY, entries, histories, keyed

LONG = st.integers(-(2**63), 2**63 - 1)
SPANS = len(fields(Policy)) - 1
"""All but the last one, which is a word."""
TEXT = st.text(st.characters(codec="utf-8"), max_size=6)
EVIDENCE = st.builds(Evidence, st.just(fingerprint(1)), TEXT, TEXT, LONG, TEXT, LONG)
NUMBERING = st.none() | st.builds(Numbering, LONG, LONG)
CERTIFICATE = st.builds(
    events.CertificateFacts,
    st.just(fingerprint(1)), st.just(b"k"), TEXT, LONG, LONG, st.just(b"der"),
)  # fmt: skip
WORDS = st.sampled_from(MODES)
ABSURD = st.one_of(
    st.builds(
        events.DeviceRegistered,
        st.just("a"), TEXT, st.just(()), CERTIFICATE, TEXT,
    ),
    st.builds(events.SessionOpened, st.just("a"), EVIDENCE),
    st.builds(
        events.DeviceReported, st.just("a"), EVIDENCE, NUMBERING, TEXT, TEXT, st.just(b""),
    ),
    st.builds(events.CommandAnswered, st.just("a"), EVIDENCE, NUMBERING, TEXT, TEXT, TEXT),
    st.builds(events.SessionRefused, st.just("a"), EVIDENCE, TEXT, TEXT),
    st.builds(events.PolicyActivated, LONG, st.builds(Policy, *[LONG] * SPANS, TEXT), TEXT),
    st.builds(
        events.PolicyActivated, LONG, st.builds(Policy, *[st.integers(1, 50)] * SPANS, WORDS), TEXT
    ),
    st.builds(events.DoorServed, TEXT, LONG, LONG, LONG, LONG),
    st.builds(
        events.DoorServed, st.just("mqtt"), st.integers(-1, 3), st.just(3), LONG, st.just(START)
    ),
    st.builds(events.RotationOrdered, st.just("a"), TEXT, TEXT),
    st.builds(events.CertificatePresented, st.just("a"), EVIDENCE, CERTIFICATE),
    st.builds(
        events.RegistrationApproved, st.just("a"), st.just(fingerprint(1)), TEXT,
        st.lists(TEXT, max_size=2).map(tuple), TEXT,
    ),
    st.builds(events.RegistrationRejected, st.just("a"), st.just(fingerprint(1)), TEXT),
    st.builds(events.CertificateRevoked, st.just("a"), st.just(fingerprint(1)), TEXT, LONG),
    st.integers(0, 100_000),
)  # fmt: skip


class Stepped:
    """A partition that is folded one entry at a time."""

    def __init__(self) -> None:
        self.rows: dict[bytes, DeviceRow] = {}
        self.partition: Partition[DeviceRow] = Partition(
            0, PartitionRow(policy=POLICY), self.rows.get, Deadlines(), scan_of(self.rows)
        )

    def fold(self, entry: Entry) -> Folded[DeviceRow]:
        """Fold one entry; no step raises."""
        folded = fold(MACHINE, self.partition, [entry])
        assert folded.set_aside == 0, folded.outputs
        self.rows.update(folded.rows)
        return folded


@settings(max_examples=80, deadline=None)
@given(st.lists(ABSURD, max_size=25))
def test_absurd_figures_never_raise_and_always_encode(history: list[Any]) -> None:
    """Numbers and texts of any size meet every state; rows and outputs fit the schemas."""
    stepped = Stepped()
    registered = events.DeviceRegistered("a", "pump", (), facts(1, 20.0), "tests")
    now = START
    for offset, one in enumerate([registered, *history]):
        now += one if isinstance(one, int) else 0
        event = events.ClockTicked(offset, now, b"") if isinstance(one, int) else one
        key = b"a" if isinstance(event, events.Keyed) else BROADCAST_KEY
        folded = stepped.fold(Entry(offset, now, key, b"", event))
        for output in folded.outputs:
            codec.encode(output.record)
        for row in folded.rows.values():
            assert codec.decode(codec.encode(row)) == row
        codec.encode(stepped.partition.row)


@settings(max_examples=80, deadline=None)
@given(histories)
def test_a_due_row_is_not_due_again_after_its_tick(history: list[Any]) -> None:
    """What a tick woke wants the next tick at the latest, or a time that lies ahead."""
    stepped = Stepped()
    now = START
    for entry in entries(history):
        stepped.fold(entry)
        now = max(now, entry.timestamp_at)
    for number in range(1, 4):
        tick = events.ClockTicked(now + number, now + number, b"r" * 32)
        offset = len(history) + number
        stepped.fold(Entry(offset, now + number, BROADCAST_KEY, b"", tick))
    assert [row for row in stepped.rows.values() if 0 < row.next_due_at <= now] == []


@settings(max_examples=80, deadline=None)
@given(histories)
def test_the_saga_moves_along_its_table_only(history: list[Any]) -> None:
    """One record moves a saga by known moves, and its journey tells them all."""
    stepped = Stepped()
    for entry in entries(history):
        before = dict(stepped.rows)
        for key, row in stepped.fold(entry).rows.items():
            if not isinstance(before.get(key), DeviceRow) or not isinstance(row, DeviceRow):
                continue
            if row.retired_at:  # whatever was in work has ended with the device
                assert rotation.name(row.rotation) == rotation.IDLE
                continue
            walked = [one.state for one in row.journey if one.offset == entry.offset]
            names = [rotation.name(before[key].rotation), *walked]
            for one, following in pairwise(names):
                assert following in rotation.MOVES[one]
            assert names[-1] == rotation.name(row.rotation)


@settings(max_examples=80, deadline=None)
@given(histories, keyed)
def test_the_same_event_twice_changes_nothing_the_second_time(
    history: list[Any], event: Any
) -> None:
    """A second copy leaves every row as it is, to the byte, also one of refused evidence.

    Only a report that has no number, from another session than the open one, is not known again.
    """
    stepped = Stepped()
    made = entries([*history, event, event])
    for entry in made[:-1]:
        stepped.fold(entry)
    before = dict(stepped.rows)
    assume(not counted_anew(event, before.get(event.device_id.encode())))
    assert stepped.fold(made[-1]).rows == {}
    assert stepped.rows == before


def counted_anew(event: Any, row: DeviceRow | None) -> bool:
    """Tell whether nothing about this event tells that it came before."""
    if row is None or not hasattr(event, "evidence") or row.session == event.evidence.session:
        return False
    return getattr(event, "numbering", None) is None


@settings(max_examples=80, deadline=None)
@given(histories)
def test_a_retired_certificate_stays_retired(history: list[Any]) -> None:
    """A status only moves towards retirement, and candidates stay within their bound."""
    order = [certificate.CANDIDATE, certificate.ACTIVE, certificate.UNDER_RETIRED,
             certificate.RETIRED]  # fmt: skip
    stepped = Stepped()
    for entry in entries(history):
        before = {
            key: row.certificates for key, row in stepped.rows.items() if isinstance(row, DeviceRow)
        }
        for key, row in stepped.fold(entry).rows.items():
            if not isinstance(row, DeviceRow):
                continue
            for one in before.get(key, ()):
                now = certificate.find(row, one.fingerprint)
                if now is None:
                    assert one.status in (certificate.UNDER_RETIRED, certificate.RETIRED)
                else:
                    assert order.index(now.status) >= order.index(one.status)
            waiting = [one for one in row.certificates if one.status == certificate.CANDIDATE]
            assert len(waiting) <= retirement.CANDIDATES_MAX
