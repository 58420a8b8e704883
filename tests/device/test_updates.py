"""An update on a device that dies anywhere: one good slot, one last word."""

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device import faults, slots
from device.outbox import BEGINNING, Durability, Outbox
from device.payloads import Reply
from device.slots import STARTS_MAX, Slots, SlotsUnreadable, Stage
from device.updates import Updater, Updating
from schemas.artefact import Artefact
from schemas.progress import IN_WORK, OUTCOMES, Progress
from tests.helpers.artefacts import Artefacts

STARTS_ENOUGH = 40
POINTS = (*faults.UPDATE_POINTS, "outbox:before-item", "outbox:after-item")
FINAL = [one for one, outcome in OUTCOMES.items() if outcome != "accepted"]


@dataclass
class Device:
    """One device, started again after each death and each reboot."""

    directory: Path
    how: Updating
    starts: int = 0
    deaths: int = 0
    reached: bool = True
    said: list[tuple[str, str]] = field(default_factory=list)

    def live(self, command_id: str, update: Artefact, crashes: Sequence[str] = ()) -> None:
        """Carry an update out, dying once at each of these points, one a start."""
        left = list(crashes)
        for _ in range(STARTS_ENOUGH):
            try:
                if asyncio.run(self.start(command_id, update, left.pop(0) if left else "")):
                    return
            except faults.Died:
                self.deaths += 1
            assert self.is_good(), "dead, and what was good is not whole"
        raise AssertionError(f"no end in {STARTS_ENOUGH} starts: {self.said}")

    async def start(self, command_id: str, update: Artefact, crash: str) -> bool:
        """Start; the command comes with the session. Return whether the last word is kept."""
        if crash:
            faults.arm(crash)
        self.starts += 1
        outbox = Outbox(self.directory / "outbox.sqlite", durability=Durability.PROCESS)
        over = asyncio.Event()
        rebooted = False

        async def say(command_id: str, reply: Reply) -> None:
            once = f"{command_id}:{reply.progress}"
            if not outbox.said(once):
                outbox.put(command_id, "", lambda *_: reply.progress.encode(), once=once)
            if reply.progress in FINAL:
                over.set()

        async def reboot() -> None:
            nonlocal rebooted
            rebooted = True
            over.set()

        try:
            updater = Updater(self.directory, self.how, say, reboot)
            updater.take(command_id, update)
            if self.reached:
                updater.in_session()
            tasks = [asyncio.create_task(one) for one in (updater.run(), over.wait())]
            done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for one in rest:
                one.cancel()
            await asyncio.gather(*rest, return_exceptions=True)
            for one in done:
                one.result()
        finally:
            self.said = [
                (one.topic, one.payload.decode()) for one in outbox.after(BEGINNING, 1_000)
            ]
            outbox.close()
        return not rebooted

    def words(self, command_id: str) -> list[str]:
        """Return what was said of one update."""
        return [word for about, word in self.said if about == command_id]

    def is_good(self) -> bool:
        """Tell whether what is good is whole, or nothing is."""
        good = slots.read(self.directory).good
        return good is None or slots.is_whole(self.directory, good)

    def version(self) -> str:
        """Return the version that is good."""
        good = slots.read(self.directory).good
        return good.version if good else "shipped"


@pytest.fixture
def device(tmp_path: Path, artefacts: Artefacts) -> Device:
    """A device without a self check."""
    return Device(tmp_path, Updating(artefacts.keys))


def test_an_update_is_told_word_by_word(device: Device, artefacts: Artefacts) -> None:
    """Every word once, in order; two starts; the next one goes into the other slot."""
    device.live("u-1", artefacts.offer("1", b"one"))
    assert device.words("u-1") == [*IN_WORK, Progress.DONE]
    assert (device.starts, device.version()) == (2, "1")
    device.live("u-2", artefacts.offer("2", b"two"))
    assert (device.starts, device.version()) == (4, "2")
    held = {path.parent.name: path.read_bytes() for path in device.directory.glob("slots/*/*")}
    assert held == {"a": b"one", "b": b"two"}


@settings(max_examples=60, deadline=None)
@given(
    crashes=st.lists(st.sampled_from(["", *POINTS]), max_size=8),
    healthy=st.booleans(),
    before=st.booleans(),
)
def test_killed_anywhere_it_has_one_good_slot_and_one_last_word(
    artefact_server: Artefacts, crashes: list[str], healthy: bool, before: bool
) -> None:
    """However often: what is good is whole after each death, and the word is true."""
    with tempfile.TemporaryDirectory() as name:
        device = Device(Path(name), Updating(artefact_server.keys))
        if before:
            device.live("u-1", artefact_server.offer("1", b"one"))
        old, device.starts = device.version(), 0
        device.how = Updating(artefact_server.keys, health=() if healthy else ("false",))
        device.live("u-2", artefact_server.offer("2", b"two"), crashes)
        words = device.words("u-2")
        (last,) = [one for one in words if one in FINAL]
        in_work = [one for one in words if one in IN_WORK]
        assert in_work == sorted(set(in_work), key=IN_WORK.index)
        assert device.is_good()
        assert device.version() == ("2" if last == Progress.DONE else old)
        spent = len([one for one in crashes if one]) >= STARTS_MAX
        good = {Progress.DONE} | ({Progress.ROLLED_BACK} if spent else set())
        assert last in (good if healthy else {Progress.ROLLED_BACK})


@pytest.mark.parametrize("point", POINTS)
def test_killed_once_it_goes_on_to_the_end(
    point: str, device: Device, artefacts: Artefacts
) -> None:
    """At each point, which is hit: an update ends as it would have ended."""
    ends_badly = "ended" in point
    device.how = Updating(artefacts.keys, health=("false",) if ends_badly else ())
    device.live("u-1", artefacts.offer("1", b"one"), [point, point])
    assert device.deaths > 0
    (last,) = [one for one in device.words("u-1") if one in FINAL]
    assert last == (Progress.ROLLED_BACK if ends_badly else Progress.DONE)
    assert device.version() == ("shipped" if ends_badly else "1")


def test_what_is_never_confirmed_is_rolled_back(device: Device, artefacts: Artefacts) -> None:
    """A slot that kills the device at each of its starts is started three times, not four."""
    device.live("u-1", artefacts.offer("1", b"one"), ["", *["update:before-confirmed"] * 9])
    assert device.words("u-1") == [*IN_WORK, Progress.ROLLED_BACK]
    assert (device.starts, device.version()) == (1 + STARTS_MAX + 1, "shipped")


@pytest.mark.parametrize(
    ("health", "reached", "why"),
    [
        (("false",), True, "status 1"),
        (("/no/such/check",), True, "did not start"),
        (("sleep", "60"), True, "the self check within 0.2 s"),
        ((), False, "no session with the fleet within 0.2 s"),
    ],
)
def test_an_unhealthy_version_is_rolled_back_with_its_reason(
    device: Device, artefacts: Artefacts, health: tuple[str, ...], reached: bool, why: str
) -> None:
    """After a check that fails, does not start or does not end, or without a session."""
    device.live("u-1", artefacts.offer("1", b"one"))
    device.how = Updating(artefacts.keys, health=health, trial_seconds=0.2)
    device.reached = reached
    device.live("u-2", artefacts.offer("2", b"two"))
    assert device.words("u-2") == [*IN_WORK, Progress.ROLLED_BACK]
    work = slots.read(device.directory).work
    assert work is not None
    assert why in work.detail
    assert (device.starts, device.version()) == (5, "1"), "told after the reboot, not before"
    assert slots.running(device.directory, slots.read(device.directory)) == (
        device.directory / "slots" / "a" / "artefact"
    )


def test_the_self_check_is_told_what_is_on_trial(device: Device, artefacts: Artefacts) -> None:
    """By a variable of its environment: here it looks into the artefact."""
    device.how = Updating(artefacts.keys, ("sh", "-c", 'grep -q two "$FLEETCERT_ARTEFACT"'))
    device.live("u-1", artefacts.offer("1", b"one"))
    assert device.version() == "shipped"
    device.live("u-2", artefacts.offer("2", b"two"))
    assert device.version() == "2"


def test_what_cannot_be_fetched_fails(device: Device, artefacts: Artefacts) -> None:
    """Without a reboot, with the reason; a server that is away is asked again before."""
    device.how = Updating(artefacts.keys, fetches_max=3, fetch_again_seconds=0.0)
    artefacts.answers = 503
    device.live("u-1", artefacts.offer("1", b"one"))
    assert (artefacts.asked, device.starts) == (3, 1)
    assert device.words("u-1") == [Progress.DOWNLOADING, Progress.FAILED]
    work = slots.read(device.directory).work
    assert work is not None
    assert (work.stage, work.detail) == (Stage.ENDED, "the artefact's server answered 503")
    artefacts.answers = 200
    device.live("u-2", artefacts.offer("1", b"one"))
    assert device.version() == "1"


def test_an_update_that_nobody_trusted_signed_is_never_fetched(
    device: Device, artefacts: Artefacts
) -> None:
    """It fails before the first byte."""
    device.how = Updating({})
    device.live("u-1", artefacts.offer("1", b"one"))
    assert (artefacts.asked, device.words("u-1")) == (0, [Progress.FAILED])


def test_what_runs_already_is_done_at_once(device: Device, artefacts: Artefacts) -> None:
    """A campaign that orders it again, because it heard the answer too late, hears it now."""
    device.live("u-1", artefacts.offer("1", b"one"))
    device.live("u-2", artefacts.offer("1", b"one"))
    assert (artefacts.asked, device.words("u-2")) == (1, [Progress.DONE])


async def test_one_update_at_a_time(tmp_path: Path, artefacts: Artefacts) -> None:
    """Another is refused while one is in work; the same command again is accepted again."""

    async def nothing(*said: object) -> None:
        """Say nothing, reboot never."""

    updater = Updater(tmp_path, Updating(artefacts.keys), nothing, nothing)
    one, two = artefacts.offer("1", b"one"), artefacts.offer("2", b"two")
    assert updater.take("u-1", one).outcome == "accepted"
    refused = updater.take("u-2", two)
    assert (refused.outcome, refused.detail) == ("refused", "version 1 is in work: wanted")
    assert updater.take("u-1", one).outcome == "accepted"
    assert updater.slots.state.work is not None
    assert updater.slots.state.work.update == one


def test_slots_that_nobody_can_read_are_told(tmp_path: Path) -> None:
    """With the file and what to do: nothing is guessed about what is good."""
    (tmp_path / "slots.json").write_bytes(b"{")
    with pytest.raises(SlotsUnreadable, match=r"slots\.json.*remove it"):
        Slots(tmp_path)
