"""The CoAP bridge: requests of devices to events, commands to lists that devices observe.

Rules of this file: 2.04 goes out when Kafka has the event, 5.03 when it is not known to; a command
waits in every session of its device until it is answered or expires, and what a session takes with
it comes again from the machine when the next one opens.
"""

import asyncio
import contextlib
import datetime
import time

import structlog

from bridges.coap.enrolment import Enrolment
from bridges.coap.listeners import Listeners, Settings, TreeContext
from bridges.coap.meter import Meter
from bridges.coap.resources import Submitted, Tree
from bridges.coap.sessions import COMMANDS_MAX, PROTOCOL, Session, Sessions
from bridges.coap.visitors import Visitors
from bridges.confirming import Confirmed
from bridges.door import Door
from bridges.est import forms
from bridges.est.renewals import Registrar, Renewals, Unmarked
from bridges.inbound import (
    PAYLOAD_BYTES_MAX,
    REPORTS,
    WHERE_CHARACTERS_MAX,
    Refused,
    Said,
    event,
    is_name,
    letter,
    report,
)
from bridges.kafka import Full, Recorder
from bridges.rates import Bucket
from bridges.reported import Reports
from schemas import codec, events
from schemas.commands import Command, RefuseCertificate, RefuseRenewal
from schemas.topics import DEAD_LETTERS, DEVICE_EVENTS

log = structlog.get_logger()
SWEEP_SECONDS = 1.0


class CoapBridge:
    """Runs the sessions of one bridge process."""

    door = PROTOCOL

    def __init__(self, settings: Settings, recorder: Recorder, meter: Meter) -> None:
        self._settings, self._recorder, self._meter = settings, recorder, meter
        door = Door(
            settings.device_ca,
            settings.revocation_list,
            provisioning_ca=settings.provisioning_ca,
        )
        self.sessions = Sessions(door, self._tell, meter.refused)
        self.sessions.sessions_max = settings.sessions_max
        self._confirmed = Confirmed(recorder, settings.record_seconds)
        self._reports = Reports(PROTOCOL)
        self.renewals = self._renewals()
        self._tree = Tree(
            self._submit,
            self._answered,
            meter.refused,
            exponent=settings.exponent,
            rate=lambda: Bucket(settings.requests_per_second, 2 * settings.requests_per_second),
            est=self._enrolment(),
        )
        self.visitors = self._visitors()
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
        polling = asyncio.create_task(self._confirmed.poll())
        try:
            await self.caught_up.wait()
            context = TreeContext(self._tree)
            self.listeners = Listeners(
                self._settings,
                context,
                self.sessions,
                self._leave,
                self._meter.refused,
                visitors=self.visitors,
            )
            await self.listeners.open(self._tree)
            self._open = True
            while True:
                await asyncio.sleep(SWEEP_SECONDS)
                self.sessions.sweep(self._settings.idle_seconds)
                if self.visitors is not None:
                    self.visitors.sweep()
                for transport, count in self.listeners.open_sessions():
                    self._meter.sessions(transport, count)
        finally:
            self._open = False
            polling.cancel()

    async def deliver(self, command: Command) -> None:
        """Put a command into the sessions of its device here, and wake who observes."""
        if self.renewals is not None:
            self.renewals.deliver(command)
        if isinstance(command, RefuseRenewal):
            return
        if isinstance(command, RefuseCertificate):
            closed = self.sessions.refuse(command.fingerprint)
            if self.visitors is not None:
                self.visitors.refuse(command.fingerprint)
            if closed:
                log.info("sessions.closed", command_id=command.command_id, count=closed)
            return
        if command.expires_at <= _now():
            return
        for session in self.sessions.awaiting(command):
            session.commands[command.command_id] = command
            if len(session.commands) > COMMANDS_MAX:
                session.commands.popitem(last=False)
            self._meter.sent(1)
            for told in tuple(session.observers):
                told()

    async def close(self) -> None:
        """Leave every session and close the doors."""
        self.sessions.close()
        if self.visitors is not None:
            self.visitors.close()
        if self.listeners is not None:
            with contextlib.suppress(Exception):  # each transport in its own state of ending
                await self.listeners.context.shutdown()

    # -- renewal by EST ------------------------------------------------------------------------

    def _renewals(self) -> Renewals | None:
        """Return who vouches for devices, None where our certificate is not marked for it."""
        try:
            registrar = Registrar.load(self._settings.certificate, self._settings.key)
        except Unmarked as error:
            log.warning("coap.est-absent", advice=str(error))
            return None
        return Renewals(registrar, self._confirmed.record, self._meter)

    def _enrolment(self) -> Enrolment | None:
        if self.renewals is None:
            return None
        files = self._settings.ca_certificates or (self._settings.device_ca,)
        return Enrolment(self.renewals, forms.bundle(files), self._settings.exponent)

    def _visitors(self) -> Visitors | None:
        one = self._settings
        if self.renewals is None or one.renewal_port is None:
            return None
        grace = datetime.timedelta(days=one.grace_days)
        return Visitors(one.device_ca, one.revocation_list, grace, self._tell, self._meter.refused)

    # -- what the tree asks --------------------------------------------------------------------

    def _submit(self, session: Session, said: Said) -> Submitted:
        """Give Kafka what a device said, or the refusal of it. Raises Away where too much waits."""
        self._meter.received(len(said.payload))
        session.counter += 1
        try:
            value = self._translated(session, said)
        except Refused as refused:
            self._meter.refused(refused.reason.value)
            origin = f"{PROTOCOL}:{said.kind}/{said.name}"[:WHERE_CHARACTERS_MAX]
            kept = letter(refused, session.device_id, origin, said.payload)
            written = codec.encode(kept.record)
            return self._confirmed.publish(DEAD_LETTERS, kept.key, written), refused
        return self._confirmed.publish(DEVICE_EVENTS, session.key, value), None

    def _translated(self, session: Session, said: Said) -> bytes:
        """Return the record that a message becomes; a report, the most common, the short way.

        Raises Refused.
        """
        if said.kind == REPORTS and is_name(said.name) and len(said.payload) <= PAYLOAD_BYTES_MAX:
            numbers = report(said.payload, said.content_type)
            return self._reports.encode(
                session.reports_begin,
                session.counter,
                _now(),
                numbers,
                said.name,
                said.content_type,
                said.payload,
            )
        return codec.encode(event(said, session.device_id, session.evidence(_now())).record)

    def _answered(self, session: Session, command_id: str) -> None:
        """A device has answered: the command waits in none of its sessions any more."""
        for one in self.sessions.beside(session):
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
        if self.visitors is not None:
            self.visitors.leave(session)
        self._tree.forget(session)


def _now() -> int:
    return time.time_ns() // 1_000_000
