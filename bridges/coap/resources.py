"""The resource tree, one for all transports: what each path answers to whom.

    POST /events/{type}       2.04 once Kafka has it; ?ttd=N waits N seconds for commands
    GET  /commands            the commands that wait for this device; with Observe, as they come
    POST /replies/{command}   2.04 once Kafka has it
    /est/...                  renewal of certificates: enrolment.py
    GET  /.well-known/core    also without a session: what there is

Rules of this file: who asks is the session of the transport; without one there is discovery alone.
2.04 means *recorded*; every refusal carries its code and a sentence (RFC 7252 section 5.5.2).
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import structlog
from aiocoap import Message
from aiocoap.numbers import codes
from aiocoap.numbers.constants import Reliable

from bridges.coap import blocks, discovery, downward, enrolment
from bridges.coap.sessions import Session
from bridges.coap.wire import critical
from bridges.confirming import Away
from bridges.inbound import CBOR, Refused, Said
from bridges.rates import Bucket
from schemas.envelope import RENEWAL
from schemas.reasons import Reason

log = structlog.get_logger()
EVENTS, REPLIES, COMMANDS = "events", "replies", "commands"
WELL_KNOWN = (".well-known", "core")
CONTENT_TYPES = {None: "", discovery.JSON: "application/json", discovery.CBOR: CBOR}
UNDERSTOOD = frozenset({3, 7, 11, 15, 17, 23, 27})
"""The critical options (odd numbers) that we know: host, port, path, query, accept, blocks."""
PROXY_OPTIONS = frozenset({35, 39})
OBSERVERS_MAX = 4
"""Observations of one session."""
IN_FLIGHT_MAX = 32
"""Requests of one session that wait for Kafka."""
BLOCK_COST = 0.1
"""What a further block costs of the rate, a request being 1."""
TTD_SECONDS_MAX = 60.0
AWAY_SECONDS, CALM_SECONDS = 5, 1
"""How long a client waits before it tries again: Kafka is away, or it asks too much."""
CODES = {Reason.OVERSIZE: codes.REQUEST_ENTITY_TOO_LARGE, Reason.UNKNOWN_TYPE: codes.NOT_FOUND}
NOTIFIED = Reliable()
ENROL = "this certificate enrols alone: observe /commands and answer, or POST /est/sen"
"""What a newcomer is told: it has no certificate of ours yet."""
OPEN_PER_SECOND, OPEN_BURST = 20.0, 40.0
"""Answers to those without a session, all together: as a mirror for floods we are of no use."""
SILENCE = 0x1A
"""The No-Response option (RFC 7967) for every class of answer."""


Submitted = tuple[asyncio.Future[None], Refused | None]
"""Done once Kafka has what a device said, or the dead letter of it; why it was refused."""


@dataclass(frozen=True, slots=True)
class Later:
    """An answer that is not there yet: once something is `known`, `outcome` gives or refuses it."""

    known: asyncio.Future[Any]
    outcome: Callable[[], "Message | Later"]

    @classmethod
    def by(cls, work: Coroutine[Any, Any, Message]) -> "Later":
        """Return the answer that some work comes to."""
        task = asyncio.ensure_future(work)
        return cls(task, task.result)


class Tree:
    """Answers requests; aiocoap's `serversite`."""

    def __init__(
        self,
        submit: Callable[[Session, Said], Submitted],
        answered: Callable[[Session, str], None],
        count: Callable[[str], None],
        *,
        exponent: int = 6,
        rate: Callable[[], Bucket] = Bucket,
        est: enrolment.Enrolment | None = None,
    ) -> None:
        self._submit, self._answered, self._count = submit, answered, count
        self._exponent, self._rate, self._est = exponent, rate, est
        self._open = Bucket(OPEN_PER_SECOND, OPEN_BURST)
        self._numbers = itertools.count(1)
        self.assembler = blocks.Assembler(exponent)
        self.bases: Callable[[Any], list[str]] = lambda _remote: []

    def answer(self, pipe: Any) -> None:
        """Answer one request, or go on answering an observer until it loses interest."""
        self._settle(pipe, lambda: self._begin(pipe))

    def _settle(self, pipe: Any, outcome: Callable[[], "Message | Later"]) -> None:
        """Send what comes of a request: now, or when it is known."""
        try:
            found = outcome()
        except blocks.Answer as answer:
            found = answer.message
            if found.code.class_ >= 4:
                self._count(str(found.code).split()[0])
        except Exception:  # a mistake of ours: told as one, and the process goes on
            log.exception("coap.failed")
            self._count("internal")
            found = Message(code=codes.INTERNAL_SERVER_ERROR)
        if isinstance(found, Later):
            self._wait(pipe, found)
            return
        if found.opt.no_response is None:
            found.opt.no_response = pipe.request.opt.no_response
        pipe.add_response(found, is_last=True)

    def _wait(self, pipe: Any, later: "Later") -> None:
        """Go on once it is known; a task is of no use when nobody waits for it any more."""
        later.known.add_done_callback(
            lambda known: None if known.cancelled() else self._settle(pipe, later.outcome)
        )
        if isinstance(later.known, asyncio.Task):
            pipe.on_interest_end(later.known.cancel)

    def _begin(self, pipe: Any) -> "Message | Later":
        request = pipe.request
        session: Session | None = getattr(request.remote, "session", None)
        observing = request.opt.observe == 0 and request.opt.uri_path == (COMMANDS,)
        if observing and session is not None and self._may_observe(session):
            self._admit(request, session)
            return self._observe(pipe, request, session)
        return self._answer(request, session)

    @staticmethod
    def _may_observe(session: Session) -> bool:
        return len(session.observers) < OBSERVERS_MAX and session.protocol != RENEWAL

    def _answer(self, request: Message, session: Session | None) -> "Message | Later":
        path = request.opt.uri_path
        if session is None and not self._open.take():
            self._count("open")
            return Message(code=codes.TOO_MANY_REQUESTS, no_response=SILENCE)
        if path == WELL_KNOWN:
            _check_options(request)
            return self._discovery(request, session)
        if session is None:
            raise blocks.refusal(codes.UNAUTHORIZED, "a client certificate over coaps or coaps+tcp")
        self._admit(request, session)
        wanted = enrolment.operation(path)
        if session.provisioning and (path[:1] == (EVENTS,) or wanted == "sren"):
            self._count(Reason.PROVISIONING_ONLY.value)
            raise blocks.refusal(codes.FORBIDDEN, ENROL)
        if wanted is not None and self._est is not None:
            return _counted(session, self._est.answer(request, session, wanted, self.assembler))
        if session.protocol == RENEWAL:
            raise blocks.refusal(codes.FORBIDDEN, "this door renews certificates, see /est")
        if path == (COMMANDS,):
            _allow(request, codes.GET)
            return blocks.cut(self._commands(request, session), request, self._exponent)
        if len(path) == 2 and path[0] in (EVENTS, REPLIES):
            _allow(request, codes.POST)
            return self._record(request, session, *path)
        raise blocks.refusal(codes.NOT_FOUND, "see /.well-known/core")

    def _admit(self, request: Message, session: Session) -> None:
        """Refuse what is not understood, and who asks too much."""
        _check_options(request)
        if session.valid_until < time.time():
            raise blocks.refusal(codes.FORBIDDEN, "the certificate has expired")
        if session.bucket is None:
            session.bucket = self._rate()
        goes_on = any(one and one.block_number for one in (request.opt.block1, request.opt.block2))
        cost = BLOCK_COST if goes_on else 1.0
        if session.in_flight >= IN_FLIGHT_MAX or not session.bucket.take(cost):
            raise blocks.refusal(codes.TOO_MANY_REQUESTS, "slow down", max_age=CALM_SECONDS)

    def _record(self, request: Message, session: Session, kind: str, name: str) -> "Later":
        content_type = CONTENT_TYPES.get(request.opt.content_format)
        if content_type is None:
            raise blocks.refusal(codes.UNSUPPORTED_CONTENT_FORMAT, "50 (JSON) or 60 (CBOR)")
        body = self.assembler.take(request, session)
        try:
            kept, refused = self._submit(session, Said(kind, name, content_type, body))
        except Away:
            raise _away() from None
        session.in_flight += 1

        def recorded() -> "Message | Later":
            session.in_flight -= 1
            try:
                kept.result()
            except Away:
                raise _away() from None
            if refused is not None:
                raise blocks.refusal(CODES.get(refused.reason, codes.BAD_REQUEST), refused.detail)
            if kind == REPLIES:
                self._answered(session, name)
            return self._recorded(request, session)

        return Later(kept, recorded)

    def _recorded(self, request: Message, session: Session) -> "Message | Later":
        """Say that Kafka has it; who wants to hear of commands waits for one first."""
        response = Message(code=codes.CHANGED)
        if request.opt.block1 is not None:
            response.opt.block1 = request.opt.block1
        seconds = _ttd(request)
        if not seconds:
            return response

        async def asked() -> Message:
            await _until_asked(session, seconds)
            if session.commands:
                self._render(response, request, session)
            return response

        return Later.by(asked())

    def _discovery(self, request: Message, session: Session | None) -> Message:
        _allow(request, codes.GET)
        if request.opt.accept not in (None, discovery.CONTENT_FORMAT):
            raise blocks.refusal(codes.NOT_ACCEPTABLE, "40 (link format)")
        bases = [""] if session is not None else self.bases(request.remote)
        links = discovery.LINKS if self._est is None else (*discovery.LINKS, *enrolment.LINKS)
        found = discovery.document(request.opt.uri_query, bases, links)
        response = Message(code=codes.CONTENT, payload=found)
        response.opt.content_format = discovery.CONTENT_FORMAT
        if not found and request.remote.is_multicast_locally:
            response.opt.no_response = 0x02  # RFC 7252 section 8.2: nothing to say, say nothing
        return blocks.cut(response, request, self._exponent)

    def _commands(self, request: Message, session: Session) -> Message:
        return self._render(Message(code=codes.CONTENT), request, session)

    def _render(self, response: Message, request: Message, session: Session) -> Message:
        """Put the commands that wait into a response, in the format that is asked for."""
        wanted = request.opt.accept
        if wanted not in (None, discovery.JSON, discovery.CBOR):
            raise blocks.refusal(codes.NOT_ACCEPTABLE, "50 (JSON) or 60 (CBOR)")
        now = time.time_ns() // 1_000_000
        response.payload, seconds = downward.document(
            session.commands, now, as_json=wanted == discovery.JSON
        )
        response.opt.content_format = wanted or discovery.CBOR
        response.opt.max_age = seconds
        return response

    def forget(self, session: Session) -> None:
        """Drop what is kept for a session that is over."""
        self.assembler.forget(session)
        if self._est is not None:
            self._est.forget(session)

    def _observe(self, pipe: Any, request: Message, session: Session) -> "Later":
        """Send the list now and at each change (RFC 7641), until nobody observes any more."""
        changed = asyncio.Event()
        session.observers.add(changed.set)
        later = Later.by(self._notify(pipe, request, session, changed))
        later.known.add_done_callback(lambda _: session.observers.discard(changed.set))
        return later

    async def _notify(
        self, pipe: Any, request: Message, session: Session, changed: asyncio.Event
    ) -> Message:
        while True:
            changed.clear()
            response = blocks.cut(self._commands(request, session), request, self._exponent)
            response.opt.observe = next(self._numbers) & 0xFFFFFF
            response.transport_tuning = NOTIFIED
            pipe.add_response(response, is_last=False)
            await changed.wait()


def _counted(session: Session, work: Coroutine[Any, Any, Message]) -> Later:
    """Let some work answer, which counts among what its session has in flight."""
    later = Later.by(work)
    session.in_flight += 1  # now: others may be asked for before the work begins

    def over(_: object) -> None:
        session.in_flight -= 1

    later.known.add_done_callback(over)
    return later


def _check_options(request: Message) -> None:
    """Refuse critical options that are not understood (RFC 7252 section 5.4.1)."""
    for number in critical(request.opt):
        if number not in UNDERSTOOD:
            if number in PROXY_OPTIONS:
                raise blocks.refusal(codes.PROXYING_NOT_SUPPORTED, "no proxy")
            raise blocks.refusal(codes.BAD_OPTION, f"option {number}")


def _away() -> blocks.Answer:
    return blocks.refusal(
        codes.SERVICE_UNAVAILABLE, "not known to be recorded", max_age=AWAY_SECONDS
    )


def _allow(request: Message, code: codes.Code) -> None:
    if request.code != code:
        raise blocks.refusal(codes.METHOD_NOT_ALLOWED, f"{code.name} is")


def _ttd(request: Message) -> float:
    """Return how long the client listens for commands after this request: `ttd`, in seconds."""
    for part in request.opt.uri_query:
        name, _, value = part.partition("=")
        if name == "ttd" and value.isascii() and value.isdigit() and len(value) <= 6:
            return min(float(value), TTD_SECONDS_MAX)
    return 0.0


async def _until_asked(session: Session, seconds: float) -> None:
    """Wait until a command waits for the device, at most so long."""
    asked = asyncio.Event()
    session.observers.add(asked.set)
    try:
        if not session.commands:
            async with asyncio.timeout(seconds):
                await asked.wait()
    except TimeoutError:
        return
    finally:
        session.observers.discard(asked.set)
