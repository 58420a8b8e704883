"""EST over CoAP (RFC 9148), under `/est` and `/.well-known/est`.

    GET  crts   281: who signs devices, and who signed us
    GET  att    285: what a request should be made with
    POST sren   286 → 281 or 287: the next certificate; 5.03 with Max-Age while it is made
    POST sen    286 → 281 or 287: the first certificate of ours, by a provisioning one
    POST skg, skc   5.01: keys never leave their owner

Rules of this file: who asks is the session's certificate. An answer may be longer than a block and
a POST is not made twice: the last answer of a session is kept for the blocks that follow.
"""

import time
from collections import OrderedDict
from collections.abc import Sequence

from aiocoap import Message
from aiocoap.numbers import codes
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from bridges.coap import blocks
from bridges.coap.discovery import Link
from bridges.coap.sessions import Session
from bridges.confirming import Away
from bridges.est import forms
from bridges.est.renewals import BAD, LATER, Pending, Renewals, sentence
from bridges.inbound import Refused
from schemas.reasons import Reason

CERTS_ONLY, ATTRIBUTES, PKCS10, CERTIFICATE = 281, 285, 286, 287
"""Content formats of RFC 9148 section 9.1."""
ROOTS = (("est",), (".well-known", "est"))
OPERATIONS = {
    "crts": codes.GET,
    "att": codes.GET,
    "sren": codes.POST,
    "sen": codes.POST,
    "skg": codes.POST,
    "skc": codes.POST,
}
LINKS = (
    Link("/est/crts", "ace.est.crts", (CERTS_ONLY,)),
    Link("/est/sen", "ace.est.sen", (CERTS_ONLY, CERTIFICATE)),
    Link("/est/sren", "ace.est.sren", (CERTS_ONLY, CERTIFICATE)),
    Link("/est/att", "ace.est.att", (ATTRIBUTES,)),
)
KEPT_MAX = 1_000
KEPT_SECONDS = 93.0
"""As for unfinished bodies: a client that was silent for so long gave up."""
AWAY_SECONDS = 5
Kept = tuple[float, int, bytes]
"""An answer: when it was given, its content format, its payload."""


class Enrolment:
    """The resources of EST; one for all transports."""

    def __init__(
        self, renewals: Renewals, ca_certificates: Sequence[x509.Certificate], exponent: int
    ) -> None:
        self._renewals, self._exponent = renewals, exponent
        self._ca_certificates = forms.certificates(ca_certificates)
        self._kept: OrderedDict[tuple[Session, str], Kept] = OrderedDict()

    async def answer(
        self, request: Message, session: Session, name: str, assembler: blocks.Assembler
    ) -> Message:
        """Answer a request to one of EST's paths. Raises blocks.Answer for refusals."""
        code = OPERATIONS.get(name)
        if code is None:
            raise blocks.refusal(codes.NOT_FOUND, "crts, att, sren: RFC 9148")
        if request.code != code:
            raise blocks.refusal(codes.METHOD_NOT_ALLOWED, f"{code.name} is")
        if name == "crts":
            return self._document(request, CERTS_ONLY, self._ca_certificates)
        if name == "att":
            return self._document(request, ATTRIBUTES, forms.ATTRIBUTES)
        if name == "sen" and not session.provisioning:
            raise blocks.refusal(codes.FORBIDDEN, "you have a certificate of ours: sren")
        if name not in ("sen", "sren"):
            raise blocks.refusal(codes.NOT_IMPLEMENTED, "keys never leave their owner: sren")
        return await self._renew(request, session, name, assembler)

    def forget(self, session: Session) -> None:
        """Drop what was kept for a session."""
        for key in [one for one in self._kept if one[0] is session]:
            del self._kept[key]

    async def _renew(
        self, request: Message, session: Session, name: str, assembler: blocks.Assembler
    ) -> Message:
        asked = request.opt.block2
        if asked is not None and asked.block_number:
            return self._further(request, session, name)
        if request.opt.content_format != PKCS10:
            raise blocks.refusal(codes.UNSUPPORTED_CONTENT_FORMAT, "286 (PKCS #10)")
        wanted = request.opt.accept or CERTS_ONLY
        if wanted not in (CERTS_ONLY, CERTIFICATE):
            raise blocks.refusal(codes.NOT_ACCEPTABLE, "281 (certs-only) or 287 (certificate)")
        body = assembler.take(request, session)
        made = await self._made(session, body)
        der = made.public_bytes(Encoding.DER)
        payload = der if wanted == CERTIFICATE else forms.certificates([made])
        self._keep(session, name, wanted, payload)
        response = Message(code=codes.CHANGED, payload=payload)
        response.opt.content_format = wanted
        if request.opt.block1 is not None:
            response.opt.block1 = request.opt.block1
        return blocks.cut(response, request, self._exponent)

    async def _made(self, session: Session, csr: bytes) -> x509.Certificate:
        session.counter += 1
        try:
            if len(csr) > forms.REQUEST_BYTES_MAX:
                raise Refused(Reason.OVERSIZE, f"at most {forms.REQUEST_BYTES_MAX} bytes")
            evidence = session.evidence(time.time_ns() // 1_000_000)
            return await self._renewals.renew(session.device_id, evidence, session.certificate, csr)
        except Refused as error:
            raise _refused(error) from error
        except Pending as pending:
            text = "the certificate is being made: send the same request again"
            raise blocks.refusal(
                codes.SERVICE_UNAVAILABLE, text, max_age=pending.seconds
            ) from pending
        except Away as away:
            text = "not known to be recorded: send the same request again"
            raise blocks.refusal(codes.SERVICE_UNAVAILABLE, text, max_age=AWAY_SECONDS) from away

    def _document(self, request: Message, content_format: int, payload: bytes) -> Message:
        if request.opt.accept not in (None, content_format):
            raise blocks.refusal(codes.NOT_ACCEPTABLE, str(content_format))
        response = Message(code=codes.CONTENT, payload=payload)
        response.opt.content_format = content_format
        return blocks.cut(response, request, self._exponent)

    def _keep(self, session: Session, name: str, content_format: int, payload: bytes) -> None:
        self._kept[session, name] = (time.monotonic(), content_format, payload)
        self._kept.move_to_end((session, name))
        limit = time.monotonic() - KEPT_SECONDS
        while len(self._kept) > KEPT_MAX or next(iter(self._kept.values()))[0] < limit:
            self._kept.popitem(last=False)

    def _further(self, request: Message, session: Session, name: str) -> Message:
        kept = self._kept.get((session, name))
        if kept is None:
            raise blocks.refusal(codes.REQUEST_ENTITY_INCOMPLETE, "begin anew: no answer is kept")
        response = Message(code=codes.CHANGED, payload=kept[2])
        response.opt.content_format = kept[1]
        return blocks.cut(response, request, self._exponent)


def operation(path: Sequence[str]) -> str | None:
    """Return what a path names of EST, None where it is none of its paths."""
    for root in ROOTS:
        if len(path) == len(root) + 1 and tuple(path[: len(root)]) == root:
            return path[-1]
    return None


def _refused(error: Refused) -> blocks.Answer:
    text = sentence(error)
    if error.reason is Reason.OVERSIZE:
        return blocks.refusal(codes.REQUEST_ENTITY_TOO_LARGE, text)
    if error.reason in BAD:
        return blocks.refusal(codes.BAD_REQUEST, text)
    seconds = LATER.get(error.reason)
    if seconds is None:
        return blocks.refusal(codes.FORBIDDEN, text)
    often = error.reason is Reason.RENEWED_OFTEN
    code = codes.TOO_MANY_REQUESTS if often else codes.SERVICE_UNAVAILABLE
    return blocks.refusal(code, text, max_age=seconds)
