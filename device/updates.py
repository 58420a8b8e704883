"""An update from its command to its last word, over as many starts as it takes.

    fetch ─► verify ─► install beside ─► reboot ─► session, self check ─► done
      └──────── failed ─────┘                            └─► reboot ─► rolled-back

Rules of this file: what happens next is read from the slots, never remembered, so a start goes on
where the last one ended; each word is said once at most, the last one always; nothing here blocks
the session.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from device import artefacts
from device.artefacts import Keys, Unreached, UpdateFailed
from device.payloads import ACCEPTED, REFUSED, Reply
from device.slots import ARTEFACT, STARTS_MAX, Slots, Stage, Work
from schemas.artefact import Artefact
from schemas.progress import OUTCOMES, Progress

_log = logging.getLogger("fleetcert.device.updates")


@dataclass(frozen=True, slots=True)
class Updating:
    """How a device updates itself; `keys` are trusted to sign.

    `health` is the self check: a command that ends with 0 where all is well, with the artefact's
    path in FLEETCERT_ARTEFACT. A session with the fleet is asked for in any case, and both within
    `trial_seconds`. Fetching is tried `fetches_max` times, each `fetch_again_seconds` later.
    """

    keys: Keys
    health: tuple[str, ...] = ()
    trial_seconds: float = 300.0
    starts_max: int = STARTS_MAX
    fetches_max: int = 5
    fetch_again_seconds: float = 30.0


class Updater:
    """Carries out one update at a time. `say` keeps an answer, once; `reboot` ends the process."""

    def __init__(
        self,
        directory: Path,
        how: Updating,
        say: Callable[[str, Reply], Awaitable[None]],
        reboot: Callable[[], Awaitable[None]],
    ) -> None:
        """Open the slots: the device starts."""
        self.slots = Slots(directory, how.starts_max)
        self.slots.started()
        self._how, self._say, self._reboot = how, say, reboot
        self._asked, self._in_session = asyncio.Event(), asyncio.Event()
        self._stopped = False

    def take(self, command_id: str, update: Artefact) -> Reply:
        """Return the answer to an update's command, which is kept then."""
        work = self.slots.state.work
        if work is not None and work.command_id == command_id:
            return Reply(ACCEPTED)
        if work is not None and work.stage is not Stage.ENDED:
            return Reply(REFUSED, f"version {work.update.version[:64]} is in work: {work.stage}")
        self.slots.want(command_id, update)
        self._asked.set()
        return Reply(ACCEPTED)

    def in_session(self) -> None:
        """Note that the fleet has been reached since this start."""
        self._in_session.set()

    async def run(self) -> None:
        """Carry out what is asked until the device reboots, or for ever."""
        try:
            while True:
                self._asked.clear()
                if await self._goes_on():
                    await self._reboot()
                    return
                await self._asked.wait()
        finally:
            self._stopped = True

    async def _goes_on(self) -> bool:
        """Bring the update in work to its end, or to a reboot: then return True."""
        work = self.slots.state.work
        if work is not None and work.stage is Stage.WANTED:
            await self._bring(work)
        elif work is not None and work.stage is Stage.TRIAL and not await self._is_healthy():
            return True
        work = self.slots.state.work
        if work is not None and work.stage is Stage.INSTALLED:
            await self._tell(work, Progress.REBOOTING)
            return True
        if work is not None:
            await self._tell(work, Progress(work.word), work.detail)
        return False

    async def _bring(self, work: Work) -> None:
        try:
            if wrong := artefacts.objection(work.update, self._how.keys):
                raise UpdateFailed(wrong)
            await self._tell(work, Progress.DOWNLOADING)
            fetched = await self._fetch(work.update)
            await self._tell(work, Progress.VERIFIED)
            await self._tell(work, Progress.INSTALLING)
            self.slots.install(fetched)
        except (UpdateFailed, OSError) as error:
            _log.warning("update failed version=%s error=%s", work.update.version, error)
            self.slots.end(Progress.FAILED, str(error))

    async def _fetch(self, update: Artefact) -> Path:
        for left in reversed(range(self._how.fetches_max)):
            folder = self.slots.aside()
            into = folder / ARTEFACT
            try:
                await asyncio.to_thread(artefacts.fetch, update, into, lambda: not self._stopped)
                break
            except Unreached as error:
                if not left:
                    raise
                _log.info("fetched later version=%s error=%s", update.version, error)
            await asyncio.sleep(self._how.fetch_again_seconds)
        return folder

    async def _is_healthy(self) -> bool:
        try:
            async with asyncio.timeout(self._how.trial_seconds):
                await self._in_session.wait()
                wrong = await self._checked()
        except TimeoutError:
            reached = "the self check" if self._in_session.is_set() else "no session with the fleet"
            wrong = f"{reached} within {self._how.trial_seconds:g} s"
        if wrong:
            self.slots.end(Progress.ROLLED_BACK, wrong)
        else:
            self.slots.confirm()
        return not wrong

    async def _checked(self) -> str:
        """Run the self check; return what is wrong, empty for nothing."""
        if not self._how.health:
            return ""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._how.health,
                stdin=asyncio.subprocess.DEVNULL,
                env=os.environ | {"FLEETCERT_ARTEFACT": str(self.slots.running())},
            )
        except OSError as error:
            return f"the self check did not start: {error}"
        try:
            status = await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        return f"the self check ended with status {status}" if status else ""

    async def _tell(self, work: Work, word: Progress, detail: str = "") -> None:
        await self._say(work.command_id, Reply(OUTCOMES[word], detail, progress=word.value))
