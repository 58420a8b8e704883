"""What an update brings: asked for, fetched and judged by the device itself.

Rules of this file: the signature is judged before a byte is fetched, and the digest before a byte
is used; what is fetched has limits in bytes and in seconds; redirections are not followed. Over
http the artefact is as safe as its signature, and everybody may read it.
"""

import hashlib
import http.client
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from device import durable
from schemas.artefact import Artefact

BYTES_MAX = 1 << 30
"""The largest artefact."""
CHUNK_BYTES = 1 << 16
SILENCE_SECONDS = 10.0
"""How long a server may say nothing."""
FETCH_SECONDS = 3_600.0
"""How long one fetch may take in all."""
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})

Key = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
Keys = Mapping[str, Key]
"""Who may sign artefacts, by the `key_id` of the campaign."""


class UpdateFailed(RuntimeError):
    """The update could not be installed; the message is told to the fleet."""


class Unreached(UpdateFailed):
    """The artefact could not be fetched now; it may be later."""


def public_key(path: Path) -> Key:
    """Return the public key in a PEM file. Raises ValueError for another kind than ours."""
    key = load_pem_public_key(path.read_bytes())
    if not isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        raise ValueError(f"{path}: artefacts are signed with ECDSA or Ed25519")
    return key


def objection(artefact: Artefact, keys: Keys) -> str:
    """Return why an artefact is not to be trusted, empty for one that is.

    ECDSA is over the artefact with SHA-256 (`openssl dgst -sha256 -sign`), Ed25519 over its digest.
    """
    key = keys.get(artefact.key_id)
    if key is None:
        return f"no key {artefact.key_id[:64]!r} is trusted here"
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(artefact.signature, artefact.sha256)
        else:
            key.verify(artefact.signature, artefact.sha256, ec.ECDSA(Prehashed(SHA256())))
    except (InvalidSignature, ValueError):
        return f"the signature is not one of key {artefact.key_id[:64]!r} over this digest"
    return ""


def fetch(artefact: Artefact, into: Path, wanted: Callable[[], bool]) -> None:
    """Write the artefact to a new file, durably, for as long as it is wanted.

    Raises Unreached where another try may help, and UpdateFailed where none will.
    """
    if not 0 <= artefact.size <= BYTES_MAX:
        raise UpdateFailed(f"{artefact.size} bytes; the limit is {BYTES_MAX}")
    connection, path = _server(artefact.uri)
    try:
        connection.request("GET", path)
        _take(connection.getresponse(), artefact, into, wanted)
    except (OSError, http.client.HTTPException) as error:
        raise Unreached(f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()


def _server(uri: str) -> tuple[http.client.HTTPConnection, str]:
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UpdateFailed(f"no address: {error}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise UpdateFailed("the address is neither http:// nor https://")
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    path = parts._replace(scheme="", netloc="", fragment="").geturl()
    return kind(host, port, timeout=SILENCE_SECONDS), path or "/"


def _take(
    response: http.client.HTTPResponse, artefact: Artefact, into: Path, wanted: Callable[[], bool]
) -> None:
    if response.status != http.client.OK:
        error = Unreached if response.status in RETRIED else UpdateFailed
        raise error(f"the artefact's server answered {response.status}")
    digest, size, until = hashlib.sha256(), 0, time.monotonic() + FETCH_SECONDS
    with durable.writing(into) as file:
        while chunk := response.read(CHUNK_BYTES):
            size += len(chunk)
            if size > (artefact.size or BYTES_MAX):
                raise UpdateFailed("the artefact is larger than announced")
            if time.monotonic() > until or not wanted():
                raise Unreached("the fetch was given up")
            digest.update(chunk)
            file.write(chunk)
    if artefact.size and size < artefact.size:
        raise Unreached(f"{size} bytes of {artefact.size} came")
    if digest.digest() != artefact.sha256:
        raise UpdateFailed("the artefact has another digest than announced")
