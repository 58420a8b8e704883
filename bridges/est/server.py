"""EST over HTTPS (RFC 7030): TLS 1.3, the client's certificate as the credential of a renewal.

    GET  /.well-known/est/cacerts          open to all: who signs devices, and who signed us
    GET  /.well-known/est/csrattrs         open to all: what a request should be made with
    POST /.well-known/est/simplereenroll   200 with the certificate, or 202 while it is made
    POST /.well-known/est/simpleenroll     by HTTP Basic: 200 with an invited device's first one
    POST /.well-known/est/serverkeygen     501: keys never leave their owner

Rules of this file: this door is the renewal door as well, a certificate counts for some days after
its end, never a revoked or replaced one. Everything is short and bounded: a connection lives a
minute, a request is 16 KiB, each device asks a few times.
"""

import datetime
import hashlib
import logging
import math
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

import structlog
from aiohttp import web
from cryptography import x509

from bridges.confirming import Away
from bridges.door import Door, Refusals
from bridges.est import forms
from bridges.est.credentials import credentials, network
from bridges.est.invitations import Admitted, Invitations
from bridges.est.renewals import BAD, LATER, Pending, Renewals, now_ms, sentence
from bridges.inbound import Refused
from bridges.rates import Rates
from bridges.tls import TlsListener, server_context
from schemas.envelope import RENEWAL, Evidence
from schemas.reasons import Reason

log = structlog.get_logger()
LOGGER = "fleetcert.est"
ROOT = "/.well-known/est/"
CONNECTIONS_MAX = 1_000
CONNECTION_SECONDS = 60.0
"""A connection is ended after so long whatever it does: one exchange takes a second or two."""
KEEP_ALIVE_SECONDS = 10.0
PER_SECOND, BURST = 0.5, 10.0
"""Requests of one device."""
GUESSES_PER_SECOND, GUESSES = 0.1, 10.0
"""Wrong tokens that may come from one address, or one /64 of IPv6."""
AWAY_SECONDS, CALM_SECONDS = 5, 10
NO_TEXT = ""
"""For answers that ask a client to go on: Bouncy Castle 1.82 gives up where they have a body."""
BASE64 = {"Content-Transfer-Encoding": "base64"}
"""RFC 8951 section 3.1 no longer wants it; clients of RFC 7030 look for it."""
PKCS7, PKCS10 = "application/pkcs7-mime", "application/pkcs10"
CERTS_ONLY = f"{PKCS7}; smime-type=certs-only"
REALM = "EST: the id of a device and the token of its invitation"
INVITATION = {"WWW-Authenticate": f'Basic realm="{REALM}", charset="UTF-8"'}
CHALLENGE = {"WWW-Authenticate": 'TLS-Client-Certificate realm="EST"'}


class Answered(Protocol):
    """Counts what the door does."""

    def answered(self, operation: str, status: int) -> None:
        """Count one answer."""

    def refused(self, reason: str) -> None:
        """Count a refusal."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the door listens and as whom. Files are PEM; `grace_days` is the renewal door's.

    `ca_certificates` are handed out as they are: the CAs of devices, and that of this door.
    """

    certificate: Path
    key: Path
    device_ca: Path
    ca_certificates: tuple[Path, ...]
    revocation_list: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8443
    grace_days: float = 30.0
    record_seconds: float = 5.0

    @property
    def grace(self) -> datetime.timedelta:
        """For how long after its end a certificate may still renew."""
        return datetime.timedelta(days=self.grace_days)


class _Refusal(Exception):
    """The request is answered with this."""

    def __init__(
        self, status: HTTPStatus, text: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(text)
        self.status, self.text, self.headers = status, text, headers or {}


class EstServer:
    """The listener and its answers."""

    def __init__(
        self,
        settings: Settings,
        renewals: Renewals,
        invitations: Invitations,
        door: Door,
        refusals: Refusals,
        meter: Answered,
    ) -> None:
        self._settings, self._renewals, self._invitations = settings, renewals, invitations
        self._door, self._refusals, self._meter = door, refusals, meter
        self._rates = Rates(PER_SECOND, BURST)
        self._guesses = Rates(GUESSES_PER_SECOND, GUESSES)
        self._ca_certificates = forms.to_base64(
            forms.certificates(forms.bundle(settings.ca_certificates))
        )
        self._attributes = forms.to_base64(forms.ATTRIBUTES)
        self._operations: dict[str, tuple[str, Callable[[Any], Awaitable[web.Response]]]] = {
            "cacerts": ("GET", self._cacerts),
            "csrattrs": ("GET", self._csrattrs),
            "simplereenroll": ("POST", self._renew),
            "simpleenroll": ("POST", self._enrol),
            "serverkeygen": ("POST", self._absent),
            "fullcmc": ("POST", self._absent),
        }
        logging.getLogger(LOGGER).setLevel(logging.CRITICAL)  # whoever sends garbage fills no log
        self._server = web.Server(
            self._answer,
            request_factory=self._bounded,
            access_log=None,
            logger=logging.getLogger(LOGGER),
            keepalive_timeout=KEEP_ALIVE_SECONDS,
            handler_cancellation=True,
            auto_decompress=False,  # 2 MB that nobody asked for held the door for five seconds
        )
        self._listener: TlsListener | None = None

    @property
    def port(self) -> int:
        """The port, once it listens."""
        return self._listener.port if self._listener else 0

    async def open(self) -> None:
        """Begin to listen."""
        one = self._settings
        context = server_context(
            one.certificate, one.key, one.device_ca, protocols=("http/1.1",), demand=False
        )
        self._listener = TlsListener(
            context,
            self._server,
            self._meter.refused,
            has_room=lambda: len(self._server.connections) < CONNECTIONS_MAX,
            lifetime_seconds=CONNECTION_SECONDS,
        )
        await self._listener.listen(one.host, one.port)

    async def close(self) -> None:
        """End every connection."""
        if self._listener is not None:
            await self._listener.close()
        self._server.pre_shutdown()
        await self._server.shutdown(1.0)

    @staticmethod
    def _bounded(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> Any:
        limit = forms.REQUEST_BYTES_MAX
        return web.BaseRequest(
            message, payload, protocol, writer, task, task.get_loop(), client_max_size=limit
        )

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        name = request.path.removeprefix(ROOT) if request.path.startswith(ROOT) else ""
        try:
            response = await self._dispatch(request, name)
        except _Refusal as refusal:
            text = f"{refusal.text}\n" if refusal.text else ""
            response = web.Response(status=refusal.status, text=text, headers=refusal.headers)
        except web.HTTPRequestEntityTooLarge:
            self._meter.refused(Reason.OVERSIZE.value)
            text = f"at most {forms.REQUEST_BYTES_MAX} bytes\n"
            response = web.Response(status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text=text)
        except Exception:  # a mistake of ours: told as one, and the process goes on
            log.exception("est.failed")
            self._meter.refused("internal")
            response = web.Response(status=HTTPStatus.INTERNAL_SERVER_ERROR)
        self._meter.answered(name if name in self._operations else "other", response.status)
        return response

    async def _dispatch(self, request: web.BaseRequest, name: str) -> web.Response:
        if name not in self._operations:
            raise _Refusal(HTTPStatus.NOT_FOUND, f"there is {ROOT}simplereenroll, see RFC 7030")
        method, operation = self._operations[name]
        if request.method != method:
            raise _Refusal(HTTPStatus.METHOD_NOT_ALLOWED, f"{method} is", {"Allow": method})
        return await operation(request)

    async def _cacerts(self, _request: web.BaseRequest) -> web.Response:
        return _response(self._ca_certificates, PKCS7)

    async def _csrattrs(self, _request: web.BaseRequest) -> web.Response:
        return _response(self._attributes, "application/csrattrs")

    async def _absent(self, _request: web.BaseRequest) -> web.Response:
        raise _Refusal(HTTPStatus.NOT_IMPLEMENTED, "keys never leave their owner: simplereenroll")

    async def _enrol(self, request: web.BaseRequest) -> web.Response:
        """Give an invited device its first certificate: RFC 7030 sections 3.2.3 and 4.2.1."""
        transport = request.transport
        assert transport is not None
        given = request.headers.get("Authorization")
        if given is None:
            if transport.get_extra_info("ssl_object").getpeercert(binary_form=True):
                self._present(request)
                raise _Refusal(HTTPStatus.FORBIDDEN, "who has a certificate: simplereenroll")
            raise _Refusal(HTTPStatus.UNAUTHORIZED, NO_TEXT, INVITATION)
        admitted = self._admitted(given, network(transport.get_extra_info("peername")[0]))
        self._slow(admitted.invited.device_id)
        return await self._certified(request, partial(self._invitations.enrol, admitted))

    def _admitted(self, given: str, network: str) -> Admitted:
        """Return what the client is invited by; guesses are slowed down by where they come from."""
        guesses = self._guesses.of(network)
        if guesses.spent:
            self._meter.refused(Reason.RATE_EXCEEDED.value)
            raise _Refusal(HTTPStatus.TOO_MANY_REQUESTS, "slow down", _after(CALM_SECONDS))
        try:
            return self._invitations.admit(*credentials(given))
        except Refused as error:
            guesses.take()
            self._meter.refused(error.reason.value)
            if error.reason is Reason.INVITATION_UNKNOWN:
                raise _Refusal(HTTPStatus.UNAUTHORIZED, sentence(error), INVITATION) from error
            raise _refusal(error) from error

    async def _renew(self, request: web.BaseRequest) -> web.Response:
        device_id, der, evidence = self._present(request)
        renew = partial(self._renewals.renew, device_id, evidence, der)
        return await self._certified(request, renew)

    async def _certified(
        self,
        request: web.BaseRequest,
        make: Callable[[bytes], Awaitable[x509.Certificate]],
    ) -> web.Response:
        """Return the certificate for the CSR in the body, by `make`."""
        if request.content_type != PKCS10:
            raise _Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, PKCS10)
        try:
            csr = forms.from_base64(await request.read())
            made = await make(csr)
        except Refused as error:
            self._meter.refused(error.reason.value)
            raise _refusal(error) from error
        except Pending as pending:
            raise _Refusal(HTTPStatus.ACCEPTED, NO_TEXT, _after(pending.seconds)) from pending
        except Away as away:
            text = "not known to be recorded: send the same request again"
            raise _Refusal(HTTPStatus.SERVICE_UNAVAILABLE, text, _after(AWAY_SECONDS)) from away
        return _response(forms.to_base64(forms.certificates([made])), CERTS_ONLY)

    def _present(self, request: web.BaseRequest) -> tuple[str, bytes, Evidence]:
        """Return whose certificate the client has shown, and the certificate; or refuse it."""
        transport = request.transport
        assert transport is not None
        der = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        if not der:
            text = "a client certificate of a device CA"
            raise _Refusal(HTTPStatus.UNAUTHORIZED, text, CHALLENGE)
        fingerprint = hashlib.sha256(der).digest()
        evidence = Evidence(
            certificate_sha256=fingerprint,
            peer_address=_address(transport.get_extra_info("peername")),
            session=secrets.token_hex(16),
            counter=1,
            protocol=RENEWAL,
            received_at=now_ms(),
        )
        verdict = self._door.judge(der)
        if not verdict.accepted:
            self._refusals.note(verdict, der, evidence)
            error = Refused(verdict.reason, verdict.detail)
            raise _Refusal(HTTPStatus.FORBIDDEN, sentence(error))
        self._slow(verdict.device_id)
        return verdict.device_id, der, evidence

    def _slow(self, device_id: str) -> None:
        if not self._rates.of(device_id).take():
            self._meter.refused(Reason.RATE_EXCEEDED.value)
            raise _Refusal(HTTPStatus.TOO_MANY_REQUESTS, "slow down", _after(CALM_SECONDS))


def _refusal(error: Refused) -> _Refusal:
    if error.reason in BAD:
        return _Refusal(HTTPStatus.BAD_REQUEST, sentence(error))
    seconds = LATER.get(error.reason)
    if seconds is None:
        return _Refusal(HTTPStatus.FORBIDDEN, sentence(error))
    often = error.reason is Reason.RENEWED_OFTEN
    status = HTTPStatus.TOO_MANY_REQUESTS if often else HTTPStatus.SERVICE_UNAVAILABLE
    return _Refusal(status, sentence(error), _after(seconds))


def _after(seconds: float) -> dict[str, str]:
    return {"Retry-After": str(math.ceil(seconds))}


def _response(body: bytes, content_type: str) -> web.Response:
    return web.Response(body=body, headers={"Content-Type": content_type, **BASE64})


def _address(peer: Any) -> str:
    host, port = peer[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
