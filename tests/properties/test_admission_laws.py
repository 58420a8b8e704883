"""The laws of just-in-time registration, over random histories of doors, operators and policies."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import event as noted
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import events
from schemas.envelope import BROADCAST_KEY, Evidence
from schemas.pending import APPROVAL, AUTOMATIC, MODES, PendingRow
from schemas.states import DeviceRow, PartitionRow, Policy
from streams.core import admission, certificate, device, rotation
from streams.core.deadlines import Deadlines
from streams.core.machine import fold
from streams.core.partition import Entry, Partition
from tests.helpers.folding import POLICY, START, facts, fingerprint, scan_of

DEVICES = ("a", "b", "c", "d", "e")
ROOM = 2
"""How many may still wait where the bound is tried."""

names = st.sampled_from(DEVICES)
numbers = st.integers(1, 3)
presentations = st.builds(
    lambda device_id, number, shown, session: events.CertificatePresented(
        device_id,
        Evidence(fingerprint(number), "10.0.0.1", session, 1, "coap", START),
        facts(shown or number),
    ),
    names,
    numbers,
    st.sampled_from([0, 0, 0, 1]),
    st.sampled_from(["s1", "s2", "s3"]),
)
closings = st.builds(
    lambda device_id, number, session: events.SessionClosed(
        device_id, Evidence(fingerprint(number), "10.0.0.1", session, 2, "coap", START), 0
    ),
    names,
    numbers,
    st.sampled_from(["s1", "s2", "s3"]),
)
approvals = st.builds(
    events.RegistrationApproved,
    names,
    numbers.map(fingerprint),
    st.just("pump"),
    st.just(()),
    st.just("ops"),
)
rejections = st.builds(events.RegistrationRejected, names, numbers.map(fingerprint), st.just("ops"))
modes = st.sampled_from(MODES)
DAY = 86_400_000
TERM, ENDS = 10 * DAY, 90 * DAY
"""How long somebody may wait here, and how long the certificates are valid."""
ticks = st.sampled_from([0, 1, DAY, TERM - DAY, TERM, ENDS])
histories = st.lists(
    st.one_of(presentations, presentations, closings, approvals, rejections, modes), max_size=40
)
lasting = st.lists(
    st.one_of(presentations, presentations, closings, approvals, rejections, modes, ticks),
    max_size=40,
)
"""Histories in which time passes, by so many milliseconds."""


class Machine:
    """A partition that is folded event by event."""

    def __init__(self, mode: str = MODES[0], waiting: int = 0) -> None:
        self.rows: dict[bytes, Any] = {}
        self.mode, self._numbers = mode, 0
        self.now, self._ticks = START, 0
        row = PartitionRow(now=START, policy=_policy(mode))
        row = replace(row, totals=replace(row.totals, pending=waiting))
        self.partition: Partition[Any] = Partition(
            0, row, self.rows.get, Deadlines(), scan_of(self.rows)
        )

    def add(self, event: Any) -> None:
        """Fold one event; a word is a change of the policy, a figure the time that passes."""
        key = BROADCAST_KEY
        if isinstance(event, str):
            self.mode, self._numbers = event, self._numbers + 1
            event = events.PolicyActivated(self._numbers, _policy(event), "tests")
        elif isinstance(event, int):
            self.now, self._ticks = self.now + event, self._ticks + 1
            event = events.ClockTicked(self._ticks, self.now, b"r" * 32)
        else:
            key = event.device_id.encode()
        offset = self.partition.row.applied_offset + 1
        folded = fold(device.MACHINE, self.partition, [Entry(offset, self.now, key, b"", event)])
        assert folded.set_aside == 0, folded.outputs
        self.rows.update(folded.rows)

    def standings(self) -> dict[bytes, tuple[object, ...]]:
        """Return how each row stands, without the offsets that its ids are made of."""
        return {key: _standing(row) for key, row in self.rows.items()}


def _policy(mode: str) -> Policy:
    return replace(POLICY, just_in_time=mode, pending_ms=TERM)


def _standing(row: Any) -> tuple[object, ...]:
    if isinstance(row, PendingRow):
        ends = row.rejected_at, row.lapsed_at, row.next_due_at
        return row.certificate.fingerprint, *ends, row.session, row.session_counter
    assert isinstance(row, DeviceRow)
    held = certificate.active(row)
    return held.fingerprint, held.provisioning, rotation.name(row.rotation), row.connected


def _may_enter(before: Any, event: Any, mode: str) -> bool:
    """Tell whether the event lets its device in, as the documents say it: the model."""
    match event:
        case events.CertificatePresented():
            mine = event.evidence.certificate_sha256 == event.certificate.fingerprint
            said_no = (
                isinstance(before, PendingRow)
                and bool(before.rejected_at)
                and before.certificate.fingerprint == event.certificate.fingerprint
            )
            return mine and mode == AUTOMATIC and not said_no
        case events.RegistrationApproved():
            seen = isinstance(before, PendingRow) and before.certificate.fingerprint
            return seen == event.fingerprint
    return False


@settings(max_examples=300, deadline=None)
@given(histories)
def test_nobody_is_registered_but_by_policy_or_by_approval_of_what_was_seen(
    history: Sequence[Any],
) -> None:
    """A device comes in by the policy alone, or by a word for the certificate that waits."""
    machine = Machine()
    for one in history:
        key = b"" if isinstance(one, str) else one.device_id.encode()
        before, mode = machine.rows.get(key), machine.mode
        machine.add(one)
        after = machine.rows.get(key)
        if isinstance(before, DeviceRow):
            assert certificate.active(after).fingerprint == certificate.active(before).fingerprint
        else:
            entered = isinstance(after, DeviceRow)
            again = (
                isinstance(one, events.CertificatePresented)
                and isinstance(before, PendingRow)
                and before.certificate.fingerprint == one.certificate.fingerprint
                and before.session == one.evidence.session
            )
            assert entered <= _may_enter(before, one, mode)
            assert entered or again or not _may_enter(before, one, mode)
            if entered:
                noted(type(one).__name__)
                assert certificate.active(after).provisioning


@settings(max_examples=200, deadline=None)
@given(modes, lasting)
def test_what_is_told_twice_changes_nothing_the_second_time(
    mode: str, history: Sequence[Any]
) -> None:
    """Each record twice in a row: every row stands as if it had come once."""
    once, twice = Machine(mode), Machine(mode)
    for one in history:
        once.add(one)
        twice.add(one)
        if not isinstance(one, str | int):
            twice.add(one)
        assert twice.standings() == once.standings()


@settings(max_examples=200, deadline=None)
@given(lasting)
def test_the_bound_of_those_who_wait_holds(history: Sequence[Any]) -> None:
    """Never more than PENDING_MAX wait, and the totals count them all."""
    others = admission.PENDING_MAX - ROOM
    machine = Machine(APPROVAL, others)
    for one in history:
        machine.add(one)
        rows = machine.rows.values()
        waiting = sum(isinstance(row, PendingRow) and _waits(row) for row in rows)
        assert waiting <= ROOM
        assert machine.partition.row.totals.pending == others + waiting


def _waits(row: PendingRow) -> bool:
    return not (row.rejected_at or row.lapsed_at)


@settings(max_examples=300, deadline=None)
@given(lasting)
def test_a_wait_ends_at_its_term_and_not_before(history: Sequence[Any]) -> None:
    """Nobody waits longer than the term or its certificate; who lapsed had waited so long."""
    machine = Machine(APPROVAL)
    for one in history:
        before = dict(machine.rows)
        machine.add(one)
        for key, row in machine.rows.items():
            if not isinstance(row, PendingRow):
                continue
            end = min(row.first_seen_at + TERM, row.certificate.not_after_at)
            known = before.get(key)
            if _waits(row):
                assert row.next_due_at == end
                assert not isinstance(one, int) or machine.now < end
            else:
                assert row.next_due_at == 0
            if row.lapsed_at and isinstance(known, PendingRow) and not known.lapsed_at:
                noted("lapsed")
                assert isinstance(one, int)
                assert row.lapsed_at == machine.now >= end
                assert row.first_seen_at == known.first_seen_at
