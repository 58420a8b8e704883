"""First certificates over EST: an invited device shows its token, and a CSR; a certificate comes.

    door → SignInvited → `certificate.requests` → issuer → AnswerInvited → `device.invitations`

Rules of this file: whoever is not invited gets nothing, and is told no more than that. The door
knows what a token hashes to and never keeps one; it sends the issuer only what the issuer should
sign, and the issuer checks all of it again. An invitation is used by one key: the same CSR again
gets the same certificate, another one none.
"""

import asyncio
import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from cryptography import x509

from bridges.est.renewals import PATIENCE_SECONDS, Pending, Registrar, now_ms
from bridges.inbound import Refused
from pki import invitation, keys, registrar, requests
from schemas.commands import AnswerInvited, ForEnrolment, InviteDevice, SignInvited
from schemas.reasons import Reason
from schemas.topics import CERTIFICATE_REQUESTS

log = structlog.get_logger()
INVITED_MAX = 100_000
"""Devices whose invitations are known; the oldest is forgotten first."""
WAITING_MAX = 1_000
"""Requests that wait for the issuer at this door; beyond, they are told to come again."""


class Enrolled(Protocol):
    """Counts what became of enrolments."""

    def enrolled(self, outcome: str) -> None:
        """Count one: `issued`, `pending`, or the value of a Reason."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """A device that has shown the token of its invitation."""

    invited: invitation.Invited
    signed: bytes
    proof: bytes


class Invitations:
    """Who is invited, and who waits for a first certificate at this door."""

    def __init__(
        self,
        door: Registrar,
        record: Callable[[str, bytes, Any], Awaitable[None]],
        meter: Enrolled,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        """Record by `record`, which returns once Kafka has it or raises Away."""
        self._door, self._record, self._meter = door, record, meter
        self._patience_seconds = patience_seconds
        self._invited: OrderedDict[str, tuple[invitation.Invited, bytes]] = OrderedDict()
        self._given: OrderedDict[str, AnswerInvited] = OrderedDict()
        self._waiting: dict[str, list[asyncio.Future[AnswerInvited]]] = {}

    def deliver(self, word: ForEnrolment) -> None:
        """Take a registrar's invitation, or the issuer's answer."""
        if isinstance(word, InviteDevice):
            self._invite(word)
            return
        if word.certificate:
            _keep(self._given, word.device_id, word)
        for one in self._waiting.get(word.request_id, ()):
            if not one.done():
                one.set_result(word)

    def admit(self, device_id: str, token: str) -> Admitted:
        """Return the invitation that this token is for. Raises Refused."""
        shown = invitation.proof(device_id, token)
        invited, signed = self._invited.get(device_id, (None, b""))
        verifier = invited.verifier if invited is not None else bytes(invitation.DIGEST_BYTES)
        right = hmac.compare_digest(hashlib.sha256(shown).digest(), verifier)
        if invited is None or not right:
            raise Refused(Reason.INVITATION_UNKNOWN, "")
        if now_ms() > invited.expires_at:
            raise Refused(Reason.INVITATION_EXPIRED, "")
        return Admitted(invited, signed, shown)

    async def enrol(self, admitted: Admitted, csr: bytes) -> x509.Certificate:
        """Return the first certificate for a CSR (DER). Raises Refused, Pending, or `record`'s."""
        try:
            der = await self._enrol(admitted, csr)
        except Refused as error:
            self._meter.enrolled(error.reason.value)
            raise
        except Pending:
            self._meter.enrolled("pending")
            raise
        self._meter.enrolled("issued")
        return x509.load_der_x509_certificate(der)

    async def _enrol(self, admitted: Admitted, csr: bytes) -> bytes:
        device_id = admitted.invited.device_id
        spki = _examined(device_id, csr)
        given = self._given.get(device_id)
        if given is not None and given.verifier == admitted.invited.verifier:
            if given.spki_sha256 != spki:
                raise Refused(Reason.INVITATION_SPENT, "")
            return given.certificate
        signed = invitation.order(
            csr, admitted.signed, admitted.proof, self._door.leaf, self._door.key
        )
        mark = hashlib.sha256(admitted.invited.verifier + spki).hexdigest()[:32]
        answer = await self._answer(SignInvited(f"invited-{mark}", device_id, signed))
        if answer.certificate:
            return answer.certificate
        reason = Reason(answer.reason)
        if (
            reason is Reason.WRONG_SIGNATURE
        ):  # the CSR's is good: nobody believes us, or who invited
            reason = Reason.ISSUER_REFUSED
        raise Refused(reason, answer.detail)

    async def _answer(self, asked: SignInvited) -> AnswerInvited:
        """Hand the order to the issuer and wait. Raises Pending, or what `record` raises."""
        if len(self._waiting) >= WAITING_MAX:
            raise Pending
        told: asyncio.Future[AnswerInvited] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(asked.request_id, [])
        waiting.append(told)
        until = time.monotonic() + self._patience_seconds
        try:
            await self._record(CERTIFICATE_REQUESTS, asked.device_id.encode(), asked)
            await asyncio.wait({told}, timeout=max(0.0, until - time.monotonic()))
        finally:
            waiting.remove(told)
            if not waiting:
                self._waiting.pop(asked.request_id, None)
        if not told.done():
            raise Pending
        return told.result()

    def _invite(self, word: InviteDevice) -> None:
        if not word.invitation:
            self._invited.pop(word.device_id, None)
            return
        try:
            invited, _ = invitation.read_invitation(word.invitation)
        except requests.MalformedRequest as error:
            log.warning("invitation.malformed", device_id=word.device_id, error=str(error))
            return
        if invited.device_id == word.device_id:
            _keep(self._invited, word.device_id, (invited, word.invitation))


def _examined(device_id: str, csr: bytes) -> bytes:
    """Return the digest of the CSR's key. Raises Refused for what the issuer would refuse."""
    try:
        loaded, key = requests.load_csr(csr)
    except requests.MalformedRequest as error:
        raise Refused(Reason.MALFORMED, str(error)) from error
    refusal = registrar.unfit(device_id, loaded, key)
    if refusal is not None:
        raise Refused(refusal.reason, refusal.detail)
    return keys.spki_sha256(key)


def _keep(known: OrderedDict[str, Any], device_id: str, one: Any) -> None:
    known[device_id] = one
    known.move_to_end(device_id)
    if len(known) > INVITED_MAX:
        known.popitem(last=False)
