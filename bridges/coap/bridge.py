"""The CoAP bridge: requests of devices to events, commands to lists that devices observe.

Rules of this file: 2.04 goes out when Kafka has the event, 5.03 when it is not known to; a command
waits in every session of its device until it is answered or expires, and what a session takes with
it comes again from the machine when the next one opens.
"""

import asyncio
import contextlib
import time
from collections import deque
from typing import Any

import structlog

from bridges.coap.listeners import Listeners, Settings, TreeContext
from bridges.coap.meter import Meter
from bridges.coap.resources import Away, Tree
from bridges.coap.sessions import COMMANDS_MAX, PROTOCOL, Bucket, Session, Sessions
from bridges.door import Door
from bridges.inbound import WHERE_CHARACTERS_MAX, Refused, Said, event, letter
from bridges.kafka import Full, Recorder
from schemas import codec, events
from schemas.commands import Command, RefuseCertificate, RefuseRenewal
from schemas.topics import DEAD_LETTERS, DEVICE_EVENTS

log = structlog.get_logger()
WAITING_MAX = 20_000
"""Requests of all sessions that wait for Kafka; beyond, 5.03 comes at once."""
POLL_SECONDS = 0.002
SWEEP_SECONDS = 1.0


class CoapBridge:
    """Runs the sessions of one bridge process."""

    door = PROTOCOL

    def __init__(self, settings: Settings, recorder: Recorder, meter: Meter) -> None:
        self._settings, self._recorder, self._meter = settings, recorder, meter
        door = Door(settings.device_ca, settings.revocation_list)
        self.sessions = Sessions(door, self._tell, meter.refused)
        self.sessions.sessions_max = settings.sessions_max
        self._tree = Tree(
            self._submit,
            self._answered,
            meter.refused,
            exponent=settings.exponent,
            rate=lambda: Bucket(settings.requests_per_second, 2 * settings.requests_per_second),
        )
        self._waiting = 0
        self._patience: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._asked = asyncio.Event()
        self.caught_up = asyncio.Event()
        self.listeners: Listeners | None = None
        self._open = False

    # -- the contract (bridges/bridge.py) ------------------------------------------------------

    async def own(self, buckets: set[int]) -> None:
        """Hold nothing: a device is with the process that it connected to."""

    def progressed(self) -> None:
        """Do nothing: each request waits for its own record."""

    def served(self) -> list[int]:
        """Return the one share of this door while it is open: any process hears any device."""
        return [0] if self._open else []

    async def keep_down(self) -> None:
        """Open the doors once the refusals of the past are known; look after the sessions."""
        polling = asyncio.create_task(self._poll())
        try:
            await self.caught_up.wait()
            context = TreeContext(self._tree)
            self.listeners = Listeners(
                self._settings, context, self.sessions, self._leave, self._meter.refused
            )
            await self.listeners.open(self._tree)
            self._open = True
            while True:
                await asyncio.sleep(SWEEP_SECONDS)
                self.sessions.sweep(self._settings.idle_seconds)
                for transport, count in self.listeners.open_sessions():
                    self._meter.sessions(transport, count)
        finally:
            self._open = False
            polling.cancel()

    async def deliver(self, command: Command) -> None:
        """Put a command into the sessions of its device here, and wake who observes."""
        if isinstance(command, RefuseRenewal):
            return
        if isinstance(command, RefuseCertificate):
            closed = self.sessions.refuse(command.fingerprint)
            if closed:
                log.info("sessions.closed", command=command.command_id, count=closed)
            return
        if command.expires_at <= _now():
            return
        for session in self.sessions.of(command.device_id):
            session.commands[command.command_id] = command
            if len(session.commands) > COMMANDS_MAX:
                session.commands.popitem(last=False)
            self._meter.sent(1)
            for told in tuple(session.observers):
                told()

    async def close(self) -> None:
        """Leave every session and close the doors."""
        self.sessions.close()
        if self.listeners is not None:
            with contextlib.suppress(Exception):  # each transport in its own state of ending
                await self.listeners.context.shutdown()

    # -- what the tree asks --------------------------------------------------------------------

    async def _submit(self, session: Session, said: Said) -> Refused | None:
        """Record what a device said and return once Kafka has it, or the refusal of it.

        Raises Away where Kafka does not answer in time.
        """
        self._meter.received(len(said.payload))
        session.counter += 1
        try:
            done = event(said, session.device_id, session.evidence(_now()))
            await self._recorded(DEVICE_EVENTS, done.key, done.record)
        except Refused as refused:
            self._meter.refused(refused.reason.value)
            origin = f"{PROTOCOL}:{said.kind}/{said.name}"[:WHERE_CHARACTERS_MAX]
            kept = letter(refused, session.device_id, origin, said.payload)
            await self._recorded(DEAD_LETTERS, kept.key, kept.record)
            return refused
        return None

    async def _recorded(self, topic: str, key: bytes, record: Any) -> None:
        if self._waiting >= WAITING_MAX:
            raise Away
        kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting += 1

        def done() -> None:
            self._waiting -= 1
            if not kept.done():
                kept.set_result(None)

        try:
            self._recorder.record(topic, key, codec.encode(record), done)
        except Full as error:
            self._waiting -= 1
            raise Away from error
        self._patience.append((time.monotonic() + self._settings.record_seconds, kept))
        self._asked.set()
        await kept

    def _answered(self, session: Session, command_id: str) -> None:
        """A device has answered: the command waits in none of its sessions any more."""
        for one in self.sessions.of(session.device_id):
            one.commands.pop(command_id, None)

    def _tell(self, device_id: str, said: events.Keyed) -> None:
        try:
            self._recorder.record(
                DEVICE_EVENTS, device_id.encode(), codec.encode(said), lambda: None
            )
        except Full as error:
            log.warning("session.untold", error=str(error))

    def _leave(self, session: Session, code: int) -> None:
        self.sessions.leave(session, code)
        self._tree.assembler.forget(session)

    async def _poll(self) -> None:
        """Run the callbacks of what Kafka has, soon while somebody waits."""
        while True:
            if not self._waiting:
                self._patience.clear()
                self._asked.clear()
                await self._asked.wait()
            self._recorder.poll()
            self._give_up()
            await asyncio.sleep(POLL_SECONDS)

    def _give_up(self) -> None:
        """Tell those who have waited for Kafka long enough; all wait equally long."""
        now = time.monotonic()
        while self._patience and (self._patience[0][1].done() or self._patience[0][0] <= now):
            _, kept = self._patience.popleft()
            if not kept.done():
                kept.set_exception(Away())


def _now() -> int:
    return time.time_ns() // 1_000_000
