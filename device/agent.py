"""The agent: keeps a session with the broker, reports, answers commands, changes certificates.

    pick identity ─► connect ─► subscribe ─► health event ─► send outbox │ answer commands ─┐
         ▲  refused, unreachable, lost: wait with jitter          installed: reconnect at once │
         └────────────────────────────────────────────────────────────────────────────────────┘

Rules of this file: under a maker's certificate answers alone are said, all else waits; nothing is
said that is not durable first (except birth and will, which are hints); a command is acknowledged
to the broker after its reply is durable; the certificate changes only after the reply to
InstallCertificate reached the broker under the old one.
"""

import asyncio
import contextlib
import json
import logging
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from device import payloads
from device.changes import Changes
from device.coap.link import CoapLink
from device.commands import Handlers
from device.identities import Choice
from device.link import MQTTS, Broker, Link, Lost, Message, Refused, Session, Unreachable
from device.observer import Observer
from device.outbox import BEGINNING, Number, Outbox, OutboxFull, enrolment
from device.payloads import CBOR, JSON, REFUSED, Command, Malformed, Reply
from device.renewal import Door, Pace, Renewal
from device.sender import Sender
from device.settings import Settings
from device.store import Identity, Store
from device.updates import Updater, Updating
from protocols.waiting import until_first

_log = logging.getLogger("fleetcert.device")


class Agent:
    """One device. `run` it, or use `running`; `report` at any time, before and during."""

    handlers_type: type[Handlers] = Handlers

    def __init__(
        self,
        device_id: str,
        directory: Path,
        host: str,
        port: int,
        ca_file: Path,
        *,
        settings: Settings | None = None,
        observer: Observer | None = None,
        scheme: str = MQTTS,
        renewal_door: Door | None = None,
        updating: Updating | None = None,
        pace: Pace = Pace(),  # noqa: B008 - frozen
    ) -> None:
        """Open key store and outbox in `directory`, which begins a new boot.

        `scheme` is how to reach the door at `host` and `port`: mqtts, coaps+tcp or coaps. At
        `renewal_door` (device/door.py) it renews by itself where no order came in time (`pace`).
        With `updating` it takes updates; `run` then ends with `reboots` to be started again.
        """
        self.device_id = device_id
        self.settings = settings or Settings()
        self.ledger = observer or Observer()
        self.store = Store(directory)
        self.handlers = self.handlers_type(device_id, self.store)
        self.outbox = Outbox(
            directory / "outbox.sqlite",
            items_max=self.settings.items_max,
            durability=self.settings.durability,
        )
        self._broker = Broker(host, port, ca_file, self.settings.keep_alive_seconds, scheme=scheme)
        self._encode = payloads.encoder(self.settings.content_type)
        self._form = "+/cbor" if self.settings.content_type == CBOR else "+"
        self._choice = Choice(self.store, self.settings.refusals_max)
        self._sender: Sender | None = None
        self._out, self._observer = self.outbox, self.ledger
        self._stopping = asyncio.Event()
        self._changes = Changes()
        self._installed: Number | None = None
        self._failures = 0
        self.reboots = False
        self._renewal = (
            Renewal(device_id, self.store, renewal_door, self._renewed, pace)
            if renewal_door is not None
            else None
        )
        self._updater = (
            Updater(directory, updating, self._say_once, self._reboot) if updating else None
        )
        if self._updater is not None:
            self.handlers.updater = self._updater.take

    # -- for the device's own code ------------------------------------------------------------

    async def report(self, type: str, body: Any) -> Number:
        """Keep an event durably, to be sent until recorded; return its (boot, sequence).

        `type` is one topic level; `body` is any value that JSON or CBOR can hold. Raises OutboxFull
        (see `room`), PayloadTooLong, and ValueError for a type that cannot be a topic level.
        """
        if not type or any(mark in type for mark in "/+#\0"):
            raise ValueError(f"event type {type!r} is not one MQTT topic level")
        number = self.outbox.put(
            f"devices/{self.device_id}/events/{type}",
            self.settings.content_type,
            lambda boot, sequence: self._encode(
                {
                    "boot": boot,
                    "sequence": sequence,
                    "at": time.time_ns() // 1_000_000,
                    "body": body,
                }
            ),
        )
        self._kept(number, self.ledger)
        return number

    async def room(self) -> None:
        """Wait until `report` has room for an event."""
        await self._changes.until(lambda: self.outbox.room() > 0)

    async def drained(self) -> None:
        """Wait until all that was reported is recorded."""
        await self._changes.until(lambda: len(self.outbox) == 0)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Agent"]:
        """Run in the background for the time of the block; what is kept then stays kept."""
        task = asyncio.create_task(self.run())
        try:
            yield self
        finally:
            self.stop()
            await task

    def stop(self) -> None:
        """End `run` soon, with a clean disconnect."""
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        """Tell whether `stop` was called."""
        return self._stopping.is_set()

    async def run(self) -> None:
        """Keep a session until `stop`, or `reboots`. Raises NoIdentity if the store holds none."""
        beside = [asyncio.create_task(one.run()) for one in (self._renewal, self._updater) if one]
        for task in beside:
            task.add_done_callback(self._ended_beside)
        try:
            while not self._stopping.is_set():
                identity = self.pick_identity()
                why = await self._one_session(identity)
                if not self._stopping.is_set():
                    self.ledger.on_disconnected(why)
                    await self._pause()
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            self.close()
        for task in beside:
            if not task.cancelled():
                task.result()

    def _ended_beside(self, task: asyncio.Task[None]) -> None:
        """End as well where what runs beside the sessions has failed: `run` raises it."""
        if not task.cancelled() and task.exception() is not None:
            self.stop()

    def close(self) -> None:
        """Close the outbox; for those who never `run`."""
        self._say_as(enrols=False)
        self.outbox.close()

    # -- hooks: what other devices (device/misbehaviour.py) do otherwise ------------------------

    def pick_identity(self) -> Identity:
        """Return the identity of the next session."""
        return self._choice.pick()

    def health(self, identity: Identity) -> dict[str, Any]:
        """Return the body of the health event that begins each session."""
        return {"fingerprint": identity.fingerprint, "kept": len(self.outbox)}

    async def in_session(self) -> None:
        """Run beside each session; returning ends the session."""
        await self._stopping.wait()

    # -- one session ---------------------------------------------------------------------------

    async def _one_session(self, identity: Identity) -> str:
        self._say_as(enrols=identity.provisioning)
        try:
            async with self._link(identity) as link:
                await link.subscribe(f"devices/{self.device_id}/recorded")
                await link.subscribe(f"devices/{self.device_id}/commands/{self._form}")
                self._began(identity)
                await self._serve(link, identity)
                return "the device ended the session"
        except Refused as error:
            self._choice.refused(identity)
            self._failures += 1
            return f"refused: {error}"
        except Unreachable as error:
            self._failures += 1
            return f"unreachable: {error}"
        except Lost as error:
            self._failures += 1
            return f"lost: {error}"
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            self._failures += 1  # nobody cancelled us: something in the session did, and is over
            return "lost: cancelled from within"
        finally:
            self._sender = None
            self.handlers.identity = None

    def _link(self, identity: Identity) -> Session:
        if self._broker.scheme != MQTTS:
            return CoapLink(self._broker, identity, self.device_id)
        will = json.dumps({"boot": self.outbox.boot, "status": "offline"}).encode()
        return Link(self._broker, identity, self.device_id, will)

    def _say_as(self, *, enrols: bool) -> None:
        """Speak as a newcomer, from an outbox apart and with nobody listening, or as the device."""
        if self._out is not self.outbox:
            self._out.close()
            self._installed = None  # a number of that outbox: its session is over
        self._out = enrolment(self.store.directory) if enrols else self.outbox
        self._observer = Observer() if enrols else self.ledger

    def _began(self, identity: Identity) -> None:
        self._failures = 0
        self._choice.worked(identity)
        self.handlers.identity = identity
        if self._updater is not None:
            self._updater.in_session()
        self.ledger.on_connected(identity.fingerprint)
        _log.info("connected device=%s fingerprint=%s", self.device_id, identity.fingerprint)

    async def _serve(self, link: Session, identity: Identity) -> None:
        if not identity.provisioning:
            birth = {"boot": self.outbox.boot, "status": "online"}
            await link.publish(f"devices/{self.device_id}/status", json.dumps(birth).encode(), JSON)
            await self._report_health()
        patience = self.settings.resend_seconds
        sender = Sender(self._out, link, self._observer, self._changes, patience)
        self._sender = sender
        await until_first(
            sender.run(),
            self._receive(link),
            self._switch(sender),
            self._stopping.wait(),
            self.in_session(),
        )

    async def _report_health(self) -> None:
        identity = self.handlers.identity
        assert identity is not None
        with contextlib.suppress(OutboxFull):  # then older items prove the identity just as well
            await self.report("health", self.health(identity))

    async def _receive(self, link: Session) -> None:
        async for message in link.messages():
            try:
                self._take(message)
            except OutboxFull as error:
                _log.error(
                    "no room for a reply, the command comes with the next session: %s", error
                )
                continue
            await link.acknowledge(message)

    async def _switch(self, sender: Sender) -> None:
        """Return when the reply to InstallCertificate is out and the new one is to be tried."""
        await self._changes.until(lambda: self._installed is not None)
        assert self._installed is not None
        await self._settled(sender, self._installed)
        self._installed = None

    async def _settled(self, sender: Sender, number: Number) -> None:
        """Wait until an item reached the door, but not for ever."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.settle_seconds):
                await self._changes.until(lambda: sender.settled(number))

    async def _reboot(self) -> None:
        """End, to be started again; what is kept goes first where there is a session."""
        if self._sender is not None:
            await self._settled(self._sender, self.outbox.last)
        self.reboots = True
        self.stop()

    def _renewed(self, identity: Identity) -> None:
        """Try the certificate of a renewal door next: a session under another one ends."""
        if identity.fingerprint == self.store.current().fingerprint:
            return  # it came as a command as well, and is in use
        self.store.propose(identity.fingerprint)
        self._choice.start_over()
        if self._sender is not None:
            self._installed = BEGINNING
            self._changes.tell()

    async def _pause(self) -> None:
        ceiling = self.settings.backoff_seconds * 2.0 ** min(self._failures, 16)
        ceiling = min(ceiling, self.settings.backoff_max_seconds) if self._failures else 0.0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(random.SystemRandom().uniform(ceiling / 2, ceiling)):
                await self._stopping.wait()

    # -- what comes down -----------------------------------------------------------------------

    def _take(self, message: Message) -> None:
        level = message.topic.split("/")
        if level[2:] == ["recorded"]:
            self._take_recorded(message)
        elif len(level) in (4, 5) and level[2] == "commands":
            self._take_command(message, level[3])
        else:
            _log.warning("message on an unexpected topic=%s", message.topic)

    def _take_recorded(self, message: Message) -> None:
        try:
            recorded = payloads.recorded(message.payload, message.content_type)
        except Malformed as error:
            _log.warning("malformed recorded message error=%s", error)
            return
        if recorded.presented:
            _log.info("waits for its own certificate fingerprint=%s", recorded.presented)
            self.ledger.on_presented(recorded.presented)
        try:
            gone = self._out.recorded(recorded.numbers)
        except OutboxFull as error:
            _log.error("kept for now, to be sent and recorded again: %s", error)
            return
        for number in gone:
            if recorded.refused is None:
                self._observer.on_recorded(*number)
            else:
                _log.warning("item refused number=%s reason=%s", number, recorded.refused)
                self._observer.on_refused(*number, recorded.refused)
        if self._sender is not None:
            self._sender.recorded(list(recorded.numbers))
        self._changes.tell()

    def _take_command(self, message: Message, command_id: str) -> None:
        try:
            command = payloads.command(message.payload, message.content_type, command_id)
        except Malformed as error:
            self._reply(command_id, Reply(REFUSED, str(error)))
            return
        number = self._reply(command_id, self.answer(command))
        if self.handlers.switch_to is not None:
            self.store.propose(self.handlers.switch_to)
            self.handlers.switch_to = None
            self._choice.start_over()
            self._installed = number
            self._changes.tell()

    def answer(self, command: Command) -> Reply:
        """Return the reply to a command, its effects durable."""
        return self.handlers.answer(command)

    async def _say_once(self, command_id: str, reply: Reply) -> None:
        """Keep a word about an update that was not kept before; wait for room."""
        once = f"{command_id}:{reply.progress}"
        await self._changes.until(lambda: len(self.outbox) < self.outbox.items_max)
        if not self.outbox.said(once):
            self._reply(command_id, reply, once)

    def _reply(self, command_id: str, reply: Reply, once: str = "") -> Number:
        content_type = CBOR if reply.extra else self.settings.content_type
        encode = payloads.encoder(content_type)
        said = {"outcome": reply.outcome, "detail": reply.detail, **reply.extra}
        said |= {"progress": reply.progress} if reply.progress else {}
        number = self._out.put(
            f"devices/{self.device_id}/replies/{command_id}",
            content_type,
            lambda boot, sequence: encode({"boot": boot, "sequence": sequence, **said}),
            reply=True,
            once=once,
        )
        _log.info("replied command=%s outcome=%s", command_id, reply.outcome)
        self._kept(number, self._observer)
        return number

    def _kept(self, number: Number, observer: Observer) -> None:
        observer.on_kept(*number)
        if self._sender is not None:
            self._sender.wake()
