"""A device and its issuer through any schedule: never locked out, and renewed in the end."""

from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from schemas.events import RotationOrdered
from schemas.states import Abandoned, Idle
from streams.core import certificate, rotation
from tests.simulation.world import World

FAULTLESS_TICKS_MAX = 60


class Schedule(RuleBasedStateMachine):
    """Hypothesis chooses what is delivered, dropped, repeated or reordered, and who crashes."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(1)
        (self.device,) = self.world.devices.values()
        self.first = self.device.identities[0]

    @rule(milliseconds=st.sampled_from([1_000, 10_000, 61_000]))
    def time_passes(self, milliseconds: int) -> None:
        """The clock is written."""
        self.world.tick(milliseconds)

    @rule()
    def connects(self) -> None:
        """The device opens a session under its newest identity."""
        self.world.connect(self.device)

    @precondition(lambda self: self.device.session)
    @rule()
    def reports(self) -> None:
        """The device says something."""
        self.world.up.append(self.device.report())

    @precondition(lambda self: self.device.session)
    @rule(new_key=st.booleans())
    def renews(self, new_key: bool) -> None:
        """The device asks by itself, with a new key or once more with the last one."""
        self.world.up.append(self.device.renew(new_key=new_key))

    @rule()
    def crashes(self) -> None:
        """The device loses what it had not stored."""
        self.device.crash()

    @rule()
    def is_ordered(self) -> None:
        """An operator asks for a rotation."""
        self.world.append(RotationOrdered(self.device.device_id, "order", "world"))

    @rule(index=st.integers(0, 5), fate=st.sampled_from(["deliver", "deliver", "drop", "repeat"]))
    def event_travels(self, index: int, fate: str) -> None:
        """An event reaches the log, in any order, or is lost, or comes twice."""
        self._travel(self.world.up, self.world.deliver_up, index, fate)

    @rule(index=st.integers(0, 5), fate=st.sampled_from(["deliver", "deliver", "drop", "repeat"]))
    def command_travels(self, index: int, fate: str) -> None:
        """A command reaches the device, in any order, or is lost, or comes twice."""
        self._travel(self.world.down, self.world.deliver_down, index, fate)

    @rule(index=st.integers(0, 5), fate=st.sampled_from(["deliver", "deliver", "drop", "repeat"]))
    def request_travels(self, index: int, fate: str) -> None:
        """A request reaches the issuer, in any order, or is lost, or comes twice."""
        self._travel(self.world.asked, self.world.deliver_asked, index, fate)

    def _travel(self, waiting, deliver, index, fate):  # type: ignore[no-untyped-def]
        if not waiting:
            return
        index %= len(waiting)
        if fate == "drop":
            waiting.pop(index)
            return
        if fate == "repeat":
            waiting.append(waiting[index])
        deliver(index)

    @invariant()
    def never_locked_out(self) -> None:
        """The device holds an identity that the machine accepts."""
        assert self.world.locked_out() == []

    @invariant()
    def journey_follows_the_moves(self) -> None:
        """Each step that the row remembers is a move of the table."""
        names = [one.state for one in self.world.row(self.device).journey]
        for before, after in pairwise(names):
            assert after in rotation.MOVES[before], names

    def teardown(self) -> None:
        """The faults end; an order starts what was given up; soon the device is renewed."""
        world, row = self.world, self.world.row(self.device)
        if isinstance(row.rotation, Abandoned):
            world.append(RotationOrdered(self.device.device_id, "order", "world"))
        for _ in range(FAULTLESS_TICKS_MAX):
            world.settle()
            world.tick(5_000)
            row = world.row(self.device)
            if isinstance(row.rotation, Idle) and row.rotations:
                break
        assert isinstance(row.rotation, Idle)
        assert row.rotations >= 1
        assert certificate.active(row).fingerprint != self.first
        assert world.locked_out() == []


class TestSchedule(Schedule.TestCase):  # type: ignore[name-defined,misc]
    """Run the schedules."""

    settings = settings(max_examples=40, stateful_step_count=50, deadline=None)
