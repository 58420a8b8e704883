"""A schema registry that is somebody else's, over Confluent's API: what it holds, and filling it.

Ids are ours (schemas/avro/ids.json), and registries give ids of their own unless told otherwise.
Confluent's protocol has the mode IMPORT for that, in which a request names id and version.
Apicurio Registry speaks the protocol below `/apis/ccompat/` and passes over ids; it takes contents
with their ids by its own import, and gives a content's id to whoever registers the same content.
So it gets the contents first, and all else is the same for both.

Rules of this file: an answer that is none of the protocol's ends it with what to do; a password
goes over TLS, or stays on this machine; every registration is answered with our id, or it ends.
"""

import asyncio
import hashlib
import io
import json
import ssl
import zipfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp

from client.errors import FleetError
from client.push import Held, Plan
from client.registry import CONTENT_TYPE, SCHEMA_TYPE
from schemas import registry
from schemas.registry import Registered, Schema

REQUEST_SECONDS = 30.0
REQUESTS_MAX = 8
"""At once."""
BODY_BYTES_MAX = 8 << 20
CCOMPAT = "/apis/ccompat/"
IMPORT = "/apis/registry/v3/admin/import?requireEmptyRegistry=false"
KEEP_IDS = {"X-Registry-Preserve-ContentId": "true", "X-Registry-Preserve-GlobalId": "false"}
LOOPBACK = ("localhost", "127.0.0.1", "::1")
NOT_FOUND = 404
REFUSED = (401, 403)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a registry is and who we are there. Raises FleetError for what cannot be used."""

    url: str
    username: str = ""
    password: str = field(default="", repr=False)
    ca: str | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise FleetError(f"{self.url!r} is no address of a registry: https://host:port")
        if parts.username is not None or parts.password is not None:
            raise FleetError("a password does not stand in an address: --user, --password-file")
        if self.username and parts.scheme == "http" and parts.hostname not in LOOPBACK:
            raise FleetError("a password goes over TLS only: https://…, with --ca for an own CA")

    @property
    def apicurio(self) -> str | None:
        """Where Apicurio Registry is, if it is one."""
        root, found, _ = self.url.partition(CCOMPAT)
        return root if found else None

    def trust(self) -> ssl.SSLContext:
        """Return whom we trust. Raises FleetError."""
        try:
            return ssl.create_default_context(cafile=self.ca)
        except (OSError, ssl.SSLError) as error:
            raise FleetError(f"{self.ca}: no certificates to trust ({error})") from error


@asynccontextmanager
async def connected(place: Place) -> AsyncIterator["Remote"]:
    """Yield a registry, reached once it is asked."""
    auth = aiohttp.BasicAuth(place.username, place.password) if place.username else None
    async with aiohttp.ClientSession(
        auth=auth,
        connector=aiohttp.TCPConnector(ssl=place.trust(), limit=REQUESTS_MAX),
        timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS),
    ) as session:
        yield Remote(place, session)


class Remote:
    """A registry. All methods raise FleetError where it does not do what is asked."""

    def __init__(self, place: Place, session: aiohttp.ClientSession) -> None:
        self._place = place
        self._url = place.url.rstrip("/")
        self._session = session

    async def held(self, wanted: Sequence[Registered]) -> Held:
        """Return what it holds where these stand or would stand."""
        ids = {one.schema.schema_id for one in wanted}
        listed = await self._ask("GET", "/subjects") or []  # one registry says null for none
        if not isinstance(listed, list):
            raise self._no_registry("no list of subjects")
        subjects = {one.subject for one in wanted} & set(map(str, listed))
        texts, versions, levels = await asyncio.gather(
            self._each(ids, lambda one: f"/schemas/ids/{one}", "schema"),
            self._versions(sorted(subjects)),
            self._each(subjects, lambda one: f"/config/{_quoted(one)}", "compatibilityLevel"),
        )
        return Held(texts, versions, levels)

    async def fill(self, plan: Plan) -> None:
        """Register what is missing, and say how the histories may evolve."""
        root = self._place.apicurio
        if root is not None and plan.unknown:
            kind = {"Content-Type": "application/zip"}
            await self._send("POST", root + IMPORT, contents(plan.unknown), kind | KEEP_IDS)
        for subject, missing in plan.subjects.items():
            if root is not None:
                await self._register(missing)
                continue
            async with self._importing(subject):
                await self._register(missing)
        for subject in plan.levels:
            level = {"compatibility": registry.COMPATIBILITY}
            await self._ask("PUT", f"/config/{_quoted(subject)}", level)

    async def _each(self, names: Any, path: Any, key: str) -> dict[Any, Any]:
        """Return one word of the answer for each name that is known there."""
        asked = sorted(names)
        answers = await asyncio.gather(*(self._ask("GET", path(one)) for one in asked))
        return {
            one: self._word(answer, key)
            for one, answer in zip(asked, answers, strict=True)
            if answer is not None
        }

    async def _versions(self, subjects: Sequence[str]) -> dict[str, dict[int, int]]:
        """Return the id in each version of these subjects."""
        lists = await asyncio.gather(
            *(self._ask("GET", f"/subjects/{_quoted(one)}/versions") for one in subjects)
        )
        places = [
            (subject, int(one))
            for subject, listed in zip(subjects, lists, strict=True)
            for one in listed or []
        ]
        held = await self._each(
            places, lambda one: f"/subjects/{_quoted(one[0])}/versions/{one[1]}", "id"
        )
        found: dict[str, dict[int, int]] = {one: {} for one in subjects}
        for (subject, version), schema_id in held.items():
            found[subject][version] = schema_id
        return found

    async def _register(self, missing: Sequence[Registered]) -> None:
        """Register versions of one subject, in their order."""
        for one in missing:
            own = one.schema.schema_id
            body = {"schema": _text(one.schema), "schemaType": SCHEMA_TYPE}
            path = f"/subjects/{_quoted(one.subject)}/versions"
            answer = await self._ask("POST", path, body | {"id": own, "version": one.version})
            if self._word(answer, "id") != own:
                raise FleetError(
                    f"{self._url} gave {one.subject} the id {answer['id']}, not {own}: it keeps no "
                    "ids that it is given, or has this schema under another one already; delete "
                    "that subject there. Apicurio Registry (3.0 or newer) is pushed to by "
                    f"its address with {CCOMPAT}v7"
                )

    @asynccontextmanager
    async def _importing(self, subject: str) -> AsyncIterator[None]:
        """Let a subject take ids and versions, and be what it was afterwards."""
        path = f"/mode/{_quoted(subject)}"
        before = await self._ask("GET", path)
        await self._ask("PUT", f"{path}?force=true", {"mode": "IMPORT"})
        try:
            yield
        finally:
            if before is None:
                await self._ask("DELETE", path)
            else:
                await self._ask("PUT", path, {"mode": self._word(before, "mode")})

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return an answer of the protocol, None for what is not there."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Accept": f"{CONTENT_TYPE}, application/json"}
        if data is not None:
            headers["Content-Type"] = CONTENT_TYPE
        status, text = await self._send(method, self._url + path, data, headers)
        try:
            answer = json.loads(text) if text else None
        except ValueError:
            raise self._no_registry(f"HTTP {status}, and no JSON") from None
        if status != NOT_FOUND:
            return answer
        if isinstance(answer, dict) and len(str(answer.get("error_code"))) == len("40401"):
            return None
        raise self._no_registry("HTTP 404")

    async def _send(
        self, method: str, url: str, data: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        """Return status and body of an answer that is no refusal."""
        try:
            async with self._session.request(
                method, url, data=data, headers=headers, allow_redirects=False
            ) as answer:
                text = await self._body(answer)
        except aiohttp.ClientSSLError as error:
            raise FleetError(f"{self._url}: {error}; --ca names who signed it") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            why = str(error) or type(error).__name__
            raise FleetError(
                f"{self._url} does not answer ({why}): is it running there?"
            ) from error
        if answer.status in REFUSED:
            raise FleetError(
                f"{self._url} refuses us ({method}, HTTP {answer.status}): --user with "
                "--password-file, of somebody who may write schemas, modes and compatibility"
            )
        if answer.status >= 300 and answer.status != NOT_FOUND:
            said = text.decode(errors="replace")[:200]
            raise FleetError(
                f"{method} {url}: HTTP {answer.status}: {said}; what was registered before stays, "
                "and --dry-run tells what is missing"
            )
        return answer.status, text

    async def _body(self, answer: aiohttp.ClientResponse) -> bytes:
        found = b""
        async for part in answer.content.iter_any():
            found += part
            if len(found) > BODY_BYTES_MAX:
                raise self._no_registry(f"more than {BODY_BYTES_MAX} bytes")
        return found

    def _word(self, answer: Any, key: str) -> Any:
        if not isinstance(answer, dict) or key not in answer:
            raise self._no_registry(f"an answer without {key!r}")
        return answer[key]

    def _no_registry(self, why: str) -> FleetError:
        return FleetError(
            f"{self._url} does not speak the Schema Registry API ({why}): give the address below "
            f"which /subjects is; Apicurio's ends with {CCOMPAT}v7"
        )


def contents(schemas: Sequence[Schema]) -> bytes:
    """Return what Apicurio imports: these texts under their ids, in no artifact yet."""
    made = io.BytesIO()
    manifest = {"systemVersion": "3.0", "systemName": "fleetcert", "exportVersion": "3.0"}
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("fleetcert.Manifest.json", json.dumps(manifest))
        for one in schemas:
            text = _text(one)
            digest = hashlib.sha256(text.encode()).hexdigest()
            known = {"contentId": one.schema_id, "contentHash": digest, "canonicalHash": digest}
            known |= {"artifactType": SCHEMA_TYPE, "contentType": "application/json"}
            file.writestr(f"content/{digest}.Content.json", json.dumps(known))
            file.writestr(f"content/{digest}.Content.data", text)
    return made.getvalue()


def _text(schema: Schema) -> str:
    """Return a schema's text, with the brace of an empty object in a string as an escape.

    Apicurio (3.3.3, AvroContentAccepter) takes the quotes of a default `"{}"` away and parses then,
    and what is left is no schema. Every other reader sees the same text.
    """
    return schema.text.replace(':"{}"', ':"\\u007b}"')


def _quoted(subject: str) -> str:
    return quote(subject, safe="")
