"""Sends the outbox over one link: in order, a bounded window, again when nothing is recorded.

Rules of this file: at most `WINDOW` items are in the air (sent, not yet recorded); when the oldest
has been there for `resend_seconds`, all that are in the air are sent again, in order, and the next
time after twice as long, until something is recorded: a broker that waits for Kafka has them.
Repeats are harmless: the receiver knows them by their number.
"""

import asyncio
import time

from device.changes import Changes
from device.link import Lost, Session
from device.observer import Observer
from device.outbox import BEGINNING, Item, Number, Outbox

WINDOW = 256
"""How many items may be sent and not recorded."""

INFLIGHT_MAX = 16
"""How many PUBLISH may wait for PUBACK; below the broker's usual Receive Maximum of 20."""

RESEND_SECONDS_MAX = 60.0


class Sender:
    """The sending half of one session."""

    def __init__(
        self,
        outbox: Outbox,
        link: Session,
        observer: Observer,
        changes: Changes,
        resend_seconds: float,
    ) -> None:
        self._outbox = outbox
        self._link = link
        self._observer = observer
        self._changes = changes
        self._resend_seconds = self._patience = resend_seconds
        self._in_air: dict[Number, float] = {}
        self._acknowledged: set[Number] = set()
        self._last = BEGINNING
        self._wake = asyncio.Event()
        self._slots = asyncio.Semaphore(INFLIGHT_MAX)

    def wake(self) -> None:
        """Look at the outbox again: something was kept."""
        self._wake.set()

    def recorded(self, numbers: list[Number]) -> None:
        """Make room in the window."""
        self._patience = self._resend_seconds
        for number in numbers:
            self._in_air.pop(number, None)
            self._acknowledged.discard(number)
        self._wake.set()

    def settled(self, number: Number) -> bool:
        """Tell whether the item reached the broker (PUBACK) or is no longer in the air."""
        return number in self._acknowledged or (number <= self._last and number not in self._in_air)

    async def run(self) -> None:
        """Send until the link is lost. Raises Lost."""
        try:
            await self._pump()
        except BaseExceptionGroup as group:
            _, other = group.split(Lost)
            if other is not None:
                raise
            raise Lost("a message could not be sent") from group

    async def _pump(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                self._rewind_when_stale()
                items = self._outbox.after(self._last, max(0, WINDOW - len(self._in_air)))
                for item in items:
                    await self._slots.acquire()
                    self._last = item.number
                    self._in_air[item.number] = time.monotonic()
                    group.create_task(self._send(item))
                if not items:
                    await self._rest()

    async def _send(self, item: Item) -> None:
        try:
            self._observer.on_sent(*item.number)
            if await self._link.publish(item.topic, item.payload, item.content_type):
                self._acknowledged.add(item.number)
                self._changes.tell()
        finally:
            self._slots.release()

    async def _rest(self) -> None:
        oldest = next(iter(self._in_air.values()), time.monotonic())
        rest = oldest + self._patience - time.monotonic()
        try:
            async with asyncio.timeout(max(0.01, rest)):
                await self._wake.wait()
        except TimeoutError:
            return

    def _rewind_when_stale(self) -> None:
        oldest = next(iter(self._in_air.values()), None)
        if oldest is not None and time.monotonic() - oldest >= self._patience:
            self._patience = min(2 * self._patience, RESEND_SECONDS_MAX)
            self._last = BEGINNING
            self._in_air.clear()
            self._acknowledged.clear()
