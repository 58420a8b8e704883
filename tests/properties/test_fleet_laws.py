"""The laws of the fleet machine, over random histories: repeat, replay, split, total, set aside."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import codec, events
from schemas import fleet_events as fleets
from schemas.decisions import DeadLetter
from schemas.envelope import BROADCAST_KEY, Cause, Position
from schemas.fleet_states import CampaignGroup, FleetSums, MemberRow
from schemas.states import PartitionRow
from streams.core import fleet, ring
from streams.core.deadlines import Deadlines
from streams.core.partition import Entry, Partition
from streams.core.rows import Ordered, Rows
from streams.core.turn import Output, Turn
from streams.core.wide import WideMachine, fold
from tests.helpers.fleets import DAY, HOUR, NOON, rotation, update
from tests.properties.test_campaign_model import rotations, specs

NAMES = ("f", "g")
DEVICES = ("a", "b", "c")
names, devices = st.sampled_from(NAMES), st.sampled_from(DEVICES)
ids = st.sampled_from(["c1", "c2", "rotation-1"])
sources = st.builds(
    lambda number, offset, index, hops: Cause(
        Position("device.events", number, offset), index, hops
    ),
    st.integers(0, 1),
    st.integers(0, 400),
    st.integers(0, 3),
    st.integers(1, 8),
)
patches = st.sampled_from(
    [
        "{}",
        '{"maxDevices":2}',
        '{"updatePolicy":{"batchSize":1,"timeWindow":{"start":"00:00","end":"24:00"}}}',
        '{"updatePolicy":null,"certRotation":{"staggered":false}}',
        '{"certRotation":{"enabled":false}}',
        '{"no":1}',
        "[",
    ]
)
order_ids = st.builds(
    lambda offset, number: f"order-0-{offset}-{number}", st.integers(0, 60), st.integers(1, 12)
)
instants = st.integers(-2, 40).map(lambda days: NOON + days * DAY)
keyed = st.one_of(
    st.builds(
        fleets.FleetCreated, names, st.just("F"), st.just(()),
        st.lists(devices, max_size=3).map(tuple), patches, st.sampled_from(["", "a", "and"]),
        st.none(), st.just("t"),
    ),
    st.builds(
        fleets.FleetConfigChanged, names, patches, st.integers(0, 2), st.none(), st.just("t")
    ),
    st.builds(fleets.FleetConfigRolledBack, names, st.integers(0, 3), st.none(), st.just("t")),
    st.builds(fleets.MembershipChanged, names, st.sampled_from(["x", "or"]), st.just("t")),
    st.builds(
        fleets.DeviceAdded, names, devices, st.sampled_from(["operator", "query"]), st.just("t")
    ),
    st.builds(fleets.DeviceMoved, names, devices, names, st.just("t")),
    st.builds(
        fleets.DeviceRemoved, names, devices,
        st.sampled_from(["moved", "ordered", "unmatched", "replaced"]), st.just("t"),
    ),
    st.builds(fleets.CampaignOrdered, names, ids, specs | rotations, st.none(), st.just("t")),
    st.builds(fleets.CampaignPaused, names, ids, st.just("t")),
    st.builds(fleets.CampaignResumed, names, ids, st.just("t")),
    st.builds(fleets.CampaignAborted, names, ids, st.just("t")),
    st.builds(fleets.GateOpened, names, ids, st.integers(-1, 3), st.just("t")),
    st.builds(
        fleets.MemberReported, names, devices, st.booleans(), st.sampled_from(["none", "?"]),
        instants, instants, sources,
    ),
    st.builds(
        fleets.HealthReported, names, devices, st.sampled_from(["connected", "gone", "?"]),
        st.just("silent"), sources,
    ),
    st.builds(fleets.CertificateNeared, names, devices, instants, instants, sources),
    st.builds(
        fleets.OrderEnded, names, devices, ids, order_ids,
        st.sampled_from(["succeeded", "failed", "?"]), st.sampled_from(["none", "rolled-back"]),
        sources,
    ),
    st.builds(
        fleets.OrderProgressed, names, devices, ids, order_ids,
        st.sampled_from(["downloading", "rebooting", "done", "?"]), sources,
    ),
    st.builds(
        fleets.FleetTotalsReported, names,
        st.builds(
            FleetSums, st.integers(0, 2), finished=st.integers(0, 99), failed=st.integers(0, 9)
        ),
        sources,
    ),
    st.builds(fleets.CampaignContinued, names, ids, sources),
    st.builds(fleets.FleetDefaultsActivated, st.integers(0, 3), patches, st.none(), st.just("t")),
    st.builds(events.RotationOrdered, names, st.just("o"), st.just("t")),
)  # fmt: skip
ticks = st.sampled_from([1_000, 600_000, HOUR, 13 * HOUR, 3 * DAY])
START = [
    fleets.FleetCreated(
        "f", "F", (), (), '{"updatePolicy":{"timeWindow":{"start":"00:00","end":"24:00"}}}',
        "", None, "t",
    ),
    *[fleets.DeviceAdded("f", one, "operator", "t") for one in DEVICES],
    *[
        fleets.MemberReported(
            "f", one, True, "none", NOON, NOON + 40 * DAY, Cause(Position("x", 0, number), 0, 1)
        )
        for number, one in enumerate(DEVICES)
    ],
    fleets.CampaignOrdered("f", "c1", update(attempts_max=2), None, "t"),
]  # fmt: skip
histories = st.lists(st.one_of(keyed, keyed, ticks), max_size=50).map(lambda tail: START + tail)


def entries(history: Sequence[Any]) -> list[Entry]:
    """Return the history as entries; a number lets that many milliseconds pass."""
    made, now = [], NOON
    for offset, one in enumerate([0, *history]):
        if isinstance(one, int):
            now += one
            tick = events.ClockTicked(now, now, b"r" * 32)
            made.append(Entry(offset, now, BROADCAST_KEY, b"", tick))
            continue
        named = getattr(one, "fleet_id", "") or getattr(one, "device_id", "")
        key = named.encode() if named else BROADCAST_KEY
        made.append(Entry(offset, now, key, b"", one))
    return made


def folded(
    parts: Sequence[Sequence[Entry]], machine: WideMachine = fleet.MACHINE, aside: int = 0
) -> tuple[dict[bytes, Any], PartitionRow, list[Output]]:
    """Fold part after part; between two only the encoded rows survive, as after a restart."""
    rows, row, outputs, raised = Ordered(), PartitionRow(), [], 0
    for part in parts:
        deadlines = Deadlines()
        for key, one in rows.items():
            deadlines.put(key, one.next_due_at)
        partition: Partition[Any] = Partition(0, row, rows.get, deadlines, rows.scan)
        result = fold(machine, partition, part)
        raised += result.set_aside
        outputs += result.outputs
        for key, one in result.rows.items():
            if one is None:
                rows.delete(key)
            else:
                rows.put(key, codec.decode(codec.encode(one)))
        row = codec.decode(codec.encode(partition.row))
        assert row.rows == len(rows)
    assert raised == aside, [one for one in outputs if isinstance(one.record, DeadLetter)]
    return dict(rows.items()), row, outputs


@settings(max_examples=150, deadline=None)
@given(histories, st.integers(0, 60))
def test_replay_and_split(history: list[Any], at: int) -> None:
    """Folding again, whole, in two parts or one by one, gives the same in every byte."""
    all_entries = entries(history)
    whole = folded([all_entries])
    assert folded([all_entries]) == whole
    assert folded([all_entries[:at], all_entries[at:]]) == whole
    assert folded([[one] for one in all_entries]) == whole


@settings(max_examples=60, deadline=None)
@given(histories)
def test_records_that_come_again_change_nothing(history: list[Any]) -> None:
    """Offsets at or below the applied one are skipped, with no outputs."""
    all_entries = entries(history)
    rows, row, outputs = folded([all_entries])
    assert folded([all_entries, all_entries]) == (rows, row, outputs)


@settings(max_examples=60, deadline=None)
@given(histories)
def test_what_a_machine_said_twice_counts_once(history: list[Any]) -> None:
    """A record whose cause was heard, at another offset: nothing changes and nothing is said."""
    doubled = [
        one
        for each in history
        for one in ([each, each] if getattr(each, "cause", None) else [each])
    ]
    once, twice = folded([entries(history)]), folded([entries(doubled)])
    assert kinds(once[2]) == kinds(twice[2])
    assert {key: bare(row) for key, row in once[0].items()}.keys() == twice[0].keys()


def kinds(outputs: list[Output]) -> list[str]:
    """Return the outputs' names and reasons, without what derives from offsets."""
    return [f"{type(one.record).__name__} {getattr(one.record, 'reason', '')}" for one in outputs]


def bare(row: Any) -> Any:
    """Return a row without its offset."""
    return replace(row, applied_offset=0)


@settings(max_examples=100, deadline=None)
@given(histories)
def test_every_output_has_an_id_and_can_be_written(history: list[Any]) -> None:
    """Ids are unique, every record is one of the language, hops stay within their limit."""
    _, _, outputs = folded([entries(history)])
    found = [one.record.decision_id for one in outputs if hasattr(one.record, "decision_id")]
    assert len(found) == len(set(found))
    for one in outputs:
        assert codec.decode(codec.encode(one.record)) == one.record
        cause = getattr(one.record, "cause", None)
        assert not isinstance(cause, Cause) or 1 <= cause.hops <= 8


def raising(turn: Turn, rows: Rows, key: bytes) -> None:
    """Wake a row, but raise on every member."""
    if isinstance(rows.get(key), MemberRow):
        rows.delete(ring.fleet_key("f"))
        raise RuntimeError("a bug")
    fleet.due(turn, rows, key)


def test_a_waking_that_raises_leaves_nothing_behind() -> None:
    """It is set aside by offset and key; all else goes on, and a mended core replays the same."""
    history = [*START, 7_200_000, 1_000]
    bad = replace(fleet.MACHINE, due=raising)
    rows, row, outputs = folded([entries(history)], bad, aside=3)
    assert len(row.wakings) == 3
    assert ring.fleet_key("f") in rows
    start = PartitionRow(wakings=row.wakings)
    held = Ordered()
    partition: Partition[Any] = Partition(0, start, held.get, Deadlines(), held.scan)
    again = fold(fleet.MACHINE, partition, entries(history))
    assert {key: one for key, one in again.rows.items() if one is not None} == rows
    said = [one for one in outputs if not isinstance(one.record, DeadLetter)]
    assert again.outputs == said


def test_a_row_that_finds_too_little_room_in_a_tick_is_woken_by_the_next() -> None:
    """Many campaigns that begin at one instant are no fault of any: each begins, in its turn."""
    groups = tuple(CampaignGroup(count=1, success_threshold=0.0) for _ in range(20))
    spec = update(groups=groups, start_at=NOON + HOUR)
    history: list[Any] = []
    for number in range(40):
        name, campaigns = f"f{number:02d}", 1 if number < 34 else 8
        history += [
            fleets.FleetCreated(name, "F", (), (), "{}", "", None, "t"),
            *(fleets.CampaignOrdered(name, f"c{one}", spec, None, "t") for one in range(campaigns)),
        ]
    made = entries([*history, 2 * HOUR, 1_000, 1_000, 1_000])
    rows, row, outputs = folded([made])
    assert row.wakings == ()
    assert folded([[one] for one in made]) == (rows, row, outputs)
    opened = [one for one in outputs if getattr(one.record, "name", "") == "GroupOpened"]
    assert len(opened) == (34 + 6 * 8) * 21


def test_a_step_that_raises_is_set_aside() -> None:
    """Its changes are gone, a dead letter says why, and a replay skips it."""

    def bad_step(turn: Turn, rows: Rows, event: Any) -> None:
        fleet.step(turn, rows, event)
        if isinstance(event, fleets.CampaignOrdered):
            raise RuntimeError("a bug")

    rows, row, outputs = folded([entries(START)], replace(fleet.MACHINE, step=bad_step), aside=1)
    assert row.set_aside == (len(START),)
    assert isinstance(outputs[-1].record, DeadLetter)
    assert ring.campaign_key("f", "c1") not in rows


def test_a_key_that_is_not_the_fleet_is_a_dead_letter() -> None:
    """So is an event that belongs to another log."""
    made = entries([START[0]])
    wrong = [made[0], Entry(1, NOON, b"g", b"", START[0])]
    _, _, outputs = folded([wrong])
    assert [one.record.reason for one in outputs] == ["malformed"]
    stranger = Entry(1, NOON, b"a", b"", events.RotationOrdered("a", "o", "t"))
    _, _, outputs = folded([[made[0], stranger]])
    assert [one.record.reason for one in outputs] == ["unknown-type"]


def test_a_newer_core_ends_the_fold() -> None:
    """Records behind its activation belong to it; an older version is refused."""
    history = [START[0], events.CoreVersionActivated(1, 2), START[1]]
    _, row, _ = folded([entries(history)])
    assert (row.core_version, row.applied_offset) == (2, 2)
    older = [START[0], events.CoreVersionActivated(1, 0)]
    assert isinstance(folded([entries(older)])[2][-1].record, DeadLetter)


def test_a_tick_far_off_is_refused() -> None:
    """Machine time stays where it is."""
    tick = events.ClockTicked(NOON + DAY, NOON + DAY, b"r" * 32)
    _, row, outputs = folded([[Entry(0, NOON, BROADCAST_KEY, b"", tick)]])
    assert [one.record.name for one in outputs] == ["TickRefused"]
    assert row.now == 0


def test_a_large_batch_is_folded_whole() -> None:
    """A thousand joins and a campaign with groups, folded at once and one by one."""
    many = [f"d{number}" for number in range(400)]
    history: list[Any] = [
        fleets.FleetCreated("f", "F", (), (), json.dumps({"maxDevices": 1000}), "", None, "t")
    ]
    for number, one in enumerate(many):
        history += [
            fleets.DeviceAdded("f", one, "operator", "t"),
            fleets.MemberReported(
                "f", one, True, "none", NOON, NOON + 40 * DAY,
                Cause(Position("device.events", 0, number), 0, 1),
            ),
        ]  # fmt: skip
    groups = (CampaignGroup(percent=10, success_threshold=0.0),)
    history += [
        fleets.CampaignOrdered("f", "c", rotation(groups=groups), None, "t"),
        *[
            fleets.CampaignContinued("f", "c", Cause(Position("fleet.events", 0, number), 0, 1))
            for number in range(4)
        ],
        15 * HOUR,
        1_000,
    ]
    whole = folded([entries(history)])
    assert folded([[one] for one in entries(history)]) == whole
    assert whole[0][ring.campaign_key("f", "c")].enrolled == 400
