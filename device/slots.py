"""The two slots of a device, and which of them is good: a crash anywhere leaves exactly one.

    slots/a/artefact slots/b/artefact   each whole or absent, never changed afterwards
    slots.json                          which one is good, and the update in work

    wanted ──► installed ──► trial ──► ended: done          the slot on trial is good from now on
       │                       └─────► ended: rolled-back   what was good still is
       └─────► ended: failed

Rules of this file: one file says everything and is replaced atomically, so no two can disagree; a
trial is counted before it is tried; only the slot that is not good is ever written. Without a
good slot, what the device was shipped with runs.
"""

import hashlib
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import msgspec

from device import durable, faults
from schemas.artefact import Artefact
from schemas.progress import Progress

STARTS_MAX = 3
"""How often a slot may be started on trial without being confirmed."""
SLOTS = ("a", "b")
ARTEFACT = "artefact"
FETCHED = durable.ASIDE + "fetched"


class SlotsUnreadable(ValueError):
    """slots.json holds something else than this agent wrote."""


class Stage(StrEnum):
    """How far the update in work is."""

    WANTED = "wanted"
    INSTALLED = "installed"
    TRIAL = "trial"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Held:
    """What a slot holds."""

    slot: str
    version: str
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Work:
    """One update: `starts` counts those on trial; `word` and `detail` are its end."""

    command_id: str
    update: Artefact
    stage: Stage
    starts: int = 0
    word: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """All there is to know."""

    good: Held | None = None
    work: Work | None = None


class Slots:
    """The slots in one directory; one process at a time owns them."""

    def __init__(self, directory: Path, starts_max: int = STARTS_MAX) -> None:
        """Read where the device stands, and remove what a crash left unfinished."""
        self._file, self._folder = directory / "slots.json", directory / "slots"
        self._starts_max = starts_max
        durable.folder(self._folder)
        durable.sweep(self._folder)
        self.state = read(directory)

    def started(self) -> None:
        """The device starts: count a trial, or roll it back where it was started often enough."""
        work = self.state.work
        if work is None or work.stage not in (Stage.INSTALLED, Stage.TRIAL):
            return
        if work.starts >= self._starts_max:
            self.end(Progress.ROLLED_BACK, f"not confirmed in {work.starts} starts")
            return
        tried = replace(work, stage=Stage.TRIAL, starts=work.starts + 1)
        with faults.around("update:tried"):
            self._keep(replace(self.state, work=tried))

    def want(self, command_id: str, update: Artefact) -> None:
        """Keep what is asked for; what is good already has ended before it begins."""
        work = Work(command_id, update, Stage.WANTED)
        good = self.state.good
        if good is not None and good.sha256 == update.sha256:
            word = Progress.DONE.value
            work = replace(work, stage=Stage.ENDED, word=word, detail="it runs already")
        with faults.around("update:wanted"):
            self._keep(replace(self.state, work=work))

    def aside(self) -> Path:
        """Return a new, empty folder for the artefact that is fetched."""
        path = self._folder / FETCHED
        durable.discard(path)
        path.mkdir(mode=durable.FOLDER_MODE)
        return path

    def install(self, fetched: Path) -> None:
        """Put what was fetched into the slot that is not good, to be tried at the next start."""
        work = self._work(Stage.WANTED)
        path = self._folder / self._other()
        with faults.around("update:cleared"):
            durable.remove(path)
        with faults.around("update:slot"):
            durable.move_folder(fetched, path)
        with faults.around("update:installed"):
            self._keep(replace(self.state, work=replace(work, stage=Stage.INSTALLED)))

    def confirm(self) -> None:
        """The slot on trial is healthy: it is the good one, and the update is done."""
        work = self._work(Stage.TRIAL)
        good = Held(self._other(), work.update.version, work.update.sha256)
        done = replace(work, stage=Stage.ENDED, word=Progress.DONE.value)
        with faults.around("update:confirmed"):
            self._keep(State(good, done))

    def end(self, word: Progress, detail: str) -> None:
        """The update came to nothing; what was good still is."""
        work = self.state.work
        assert work is not None
        with faults.around("update:ended"):
            ended = replace(work, stage=Stage.ENDED, word=word.value, detail=detail)
            self._keep(replace(self.state, work=ended))

    def running(self) -> Path | None:
        """Return the artefact to run now: on trial, or the good one; None for none."""
        return running(self._folder.parent, self.state)

    def _work(self, stage: Stage) -> Work:
        work = self.state.work
        assert work is not None
        assert work.stage is stage
        return work

    def _other(self) -> str:
        return other(self.state)

    def _keep(self, state: State) -> None:
        durable.write(self._file, msgspec.json.encode(state))
        self.state = state


def read(directory: Path) -> State:
    """Return what is known in a directory. Raises SlotsUnreadable."""
    path = directory / "slots.json"
    if not path.exists():
        return State()
    try:
        return msgspec.json.decode(path.read_bytes(), type=State)
    except msgspec.DecodeError as error:
        raise SlotsUnreadable(
            f"{path}: {error}; remove it and {directory / 'slots'} to begin as shipped"
        ) from error


def running(directory: Path, state: State) -> Path | None:
    """Return the artefact to run in a state, None for what the device was shipped with."""
    slot = state.good.slot if state.good else None
    if state.work is not None and state.work.stage in (Stage.INSTALLED, Stage.TRIAL):
        slot = other(state)
    return directory / "slots" / slot / ARTEFACT if slot else None


def other(state: State) -> str:
    """Return the slot that is not good."""
    return SLOTS[1] if state.good is not None and state.good.slot == SLOTS[0] else SLOTS[0]


def is_whole(directory: Path, held: Held) -> bool:
    """Tell whether a slot holds what it should, byte for byte."""
    path = directory / "slots" / held.slot / ARTEFACT
    return path.exists() and hashlib.sha256(path.read_bytes()).digest() == held.sha256
