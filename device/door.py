"""Doors of EST: over HTTPS (RFC 7030) and over CoAP (RFC 9148), by one address.

Rules of this file: the door must be of the service CA, as the broker must; what it answers is
bounded, and judged by the store, not here.
"""

import asyncio
import base64
import http.client
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from aiocoap import POST
from aiocoap import Message as CoapMessage
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from device.coap.link import COAPS, COAPS_TCP, LATER, CoapLink
from device.link import Broker, Lost, Refused, Unreachable, tls_context, trusting
from device.renewal import Denied, Door, Later
from device.store import Identity

HTTPS = "https"
PORTS = {HTTPS: 8443, COAPS_TCP: 5685, COAPS: 5685}
ENROL, RENEW = "/.well-known/est/simpleenroll", "/.well-known/est/simplereenroll"
NOTHING: Mapping[str, str] = {}
ANSWER_BYTES_MAX = 65_536
SECONDS = 30.0
PKCS10, CERTIFICATE = 286, 287
"""Content formats of RFC 9148 section 9.1."""
RETRIED = frozenset({202, 429, 500, 502, 503, 504})


def door(address: str, ca_file: Path) -> Door:
    """Return the door at `https://HOST:PORT`, `coaps+tcp://…` or `coaps://…`. Raises ValueError."""
    parts = urlsplit(address)
    if parts.scheme not in PORTS or not parts.hostname or parts.path not in ("", "/"):
        raise ValueError(f"{address}: a renewal door is {', '.join(PORTS)} with ://HOST:PORT")
    port = parts.port or PORTS[parts.scheme]
    if parts.scheme == HTTPS:
        return HttpsDoor(parts.hostname, port, ca_file)
    return CoapDoor(Broker(parts.hostname, port, ca_file, scheme=parts.scheme))


class HttpsDoor:
    """EST over HTTPS; each request is a connection of its own."""

    def __init__(self, host: str, port: int, ca_file: Path) -> None:
        self._host, self._port, self._ca_file = host, port, ca_file

    async def renew(self, identity: Identity, csr: bytes) -> bytes:
        """Return the certificate (DER) for a CSR (DER). Raises Later or Denied."""
        context = tls_context(self._ca_file, identity)
        return await asyncio.to_thread(self._ask, context, RENEW, csr)

    def enrol(self, device_id: str, token: str, csr: bytes) -> bytes:
        """Return an invited device's first certificate (DER); it blocks. Raises Later or Denied."""
        context = trusting(self._ca_file)
        shown = base64.b64encode(f"{device_id}:{token}".encode()).decode()
        return self._ask(context, ENROL, csr, {"Authorization": f"Basic {shown}"})

    def _ask(
        self, context: ssl.SSLContext, path: str, csr: bytes, more: Mapping[str, str] = NOTHING
    ) -> bytes:
        connection = http.client.HTTPSConnection(
            self._host, self._port, timeout=SECONDS, context=context
        )
        try:
            headers = {"Content-Type": "application/pkcs10", **more}
            connection.request("POST", path, base64.encodebytes(csr), headers)
            response = connection.getresponse()
            body = response.read(ANSWER_BYTES_MAX)
        except (OSError, http.client.HTTPException) as error:
            raise Later(f"{type(error).__name__}: {error}") from error
        finally:
            connection.close()
        if response.status == 200:
            return _only(body)
        said = f"{response.status}: {body[:200].decode(errors='replace').strip()}"
        if response.status in RETRIED:
            after = response.headers.get("Retry-After", "")
            raise Later(said, float(after) if after.isdecimal() else None)
        raise Denied(said)


class CoapDoor:
    """EST over CoAP; each request is a session of its own."""

    def __init__(self, where: Broker) -> None:
        self._where = where

    async def renew(self, identity: Identity, csr: bytes) -> bytes:
        """Return the certificate (DER) for a CSR (DER). Raises Later or Denied."""
        try:
            async with _DoorLink(self._where, identity, "") as link:
                response = await link.post(("est", "sren"), csr)
        except Refused as error:
            raise Denied(str(error)) from error
        except (Unreachable, Lost) as error:
            raise Later(str(error)) from error
        if response.code.is_successful():
            return bytes(response.payload)
        said = f"{response.code}: {response.payload[:200].decode(errors='replace')}"
        if response.code in LATER:
            raise Later(said, response.opt.max_age)
        raise Denied(said)


class _DoorLink(CoapLink):
    """A session that asks, and is told nothing by itself."""

    async def _attend(self) -> None:
        """Observe nothing: a renewal door has no commands."""

    async def post(self, path: tuple[str, ...], csr: bytes) -> CoapMessage:
        """Post a CSR, in blocks where it is long; return the answer. Raises Lost."""
        request = CoapMessage(code=POST, uri=self._base, payload=csr)
        request.opt.uri_path = path
        request.opt.content_format = PKCS10
        request.opt.accept = CERTIFICATE
        return await self._ask(request)


def _only(body: bytes) -> bytes:
    """Return the certificate (DER) of a certs-only PKCS #7 in base64. Raises Denied."""
    try:
        der = base64.b64decode(b"".join(body.split()), validate=True)
        (made,) = pkcs7.load_der_pkcs7_certificates(der)
    except ValueError as error:
        raise Denied(f"the answer holds no certificate: {error}") from error
    return made.public_bytes(Encoding.DER)
