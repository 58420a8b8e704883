"""The committed schemas over the read API of Confluent's Schema Registry, for tools that want one.

Rules of this file: it only reads. A client that registers on its own gets the id of the schema it
brings where it is one of ours (so `auto.register.schemas` does no harm), and 42205 where it is not;
nothing is ever changed. No authentication: it tells what stands in the repository.
"""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from schemas import registry

CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"
BODY_BYTES_MAX = 1 << 20
READ_ONLY = 42205
SCHEMA_TYPE = "AVRO"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application() -> web.Application:
    """Return the server's application."""
    app = web.Application(middlewares=[_answered], client_max_size=BODY_BYTES_MAX)
    app.add_routes(
        [
            web.get("/", _root),
            web.get("/schemas/types", _types),
            web.get("/schemas", _schemas),
            web.get("/schemas/ids/{id}", _by_id),
            web.get("/schemas/ids/{id}/schema", _text_by_id),
            web.get("/schemas/ids/{id}/subjects", _subjects_of),
            web.get("/schemas/ids/{id}/versions", _versions_of),
            web.get("/subjects", _subjects),
            web.post("/subjects/{subject}", _lookup),
            web.get("/subjects/{subject}/versions", _versions),
            web.post("/subjects/{subject}/versions", _register),
            web.get("/subjects/{subject}/versions/{version}", _version),
            web.get("/subjects/{subject}/versions/{version}/schema", _text),
            web.get("/config", _config),
            web.get("/config/{subject}", _config),
            web.get("/mode", _mode),
            web.get("/mode/{subject}", _mode),
        ]
    )
    return app


def described(one: registry.Registered) -> dict[str, Any]:
    """Return a version of a subject as the API says it."""
    return {
        "subject": one.subject,
        "version": one.version,
        "id": one.schema.schema_id,
        "schemaType": SCHEMA_TYPE,
        "schema": one.schema.text,
    }


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=json.dumps(value).encode(), status=status, content_type=CONTENT_TYPE)


def _error(status: int, code: int, message: str) -> web.Response:
    return _json({"error_code": code, "message": message}, status)


@web.middleware
async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give every error the form that clients of a registry read."""
    try:
        return await handler(request)
    except registry.NotThere as error:
        return _error(404, error.code, str(error))
    except web.HTTPMethodNotAllowed:
        return _error(405, READ_ONLY, "This registry only reads: its schemas are fleetcert's own.")
    except web.HTTPException as error:
        return _error(error.status, error.status, f"HTTP {error.status} {error.reason}")


async def _root(_: web.Request) -> web.Response:
    return _json({})


async def _types(_: web.Request) -> web.Response:
    return _json([SCHEMA_TYPE])


async def _schemas(request: web.Request) -> web.Response:
    prefix = request.query.get("subjectPrefix", "")
    newest = request.query.get("latestOnly") == "true"
    found = [registry.versions(one) for one in registry.subjects() if one.startswith(prefix)]
    return _json([described(one) for each in found for one in (each[-1:] if newest else each)])


async def _by_id(request: web.Request) -> web.Response:
    return _json({"schema": registry.by_id(request.match_info["id"]).text})


async def _text_by_id(request: web.Request) -> web.Response:
    return _json(json.loads(registry.by_id(request.match_info["id"]).text))


async def _subjects_of(request: web.Request) -> web.Response:
    found = registry.places(registry.by_id(request.match_info["id"]))
    return _json([one.subject for one in found])


async def _versions_of(request: web.Request) -> web.Response:
    found = registry.places(registry.by_id(request.match_info["id"]))
    return _json([{"subject": one.subject, "version": one.version} for one in found])


async def _subjects(request: web.Request) -> web.Response:
    prefix = request.query.get("subjectPrefix", "")
    return _json([one for one in registry.subjects() if one.startswith(prefix)])


async def _versions(request: web.Request) -> web.Response:
    return _json([one.version for one in registry.versions(request.match_info["subject"])])


async def _version(request: web.Request) -> web.Response:
    return _json(described(_asked(request)))


async def _text(request: web.Request) -> web.Response:
    return _json(json.loads(_asked(request).schema.text))


async def _lookup(request: web.Request) -> web.Response:
    return _json(described(registry.lookup(request.match_info["subject"], await _body(request))))


async def _register(request: web.Request) -> web.Response:
    """Answer with the id of a schema that is ours; refuse every other one."""
    subject = request.match_info["subject"]
    try:
        found = registry.lookup(subject, await _body(request))
    except registry.NotThere:
        return _error(422, READ_ONLY, f"Subject '{subject}' is read-only: it is fleetcert's own.")
    return _json({"id": found.schema.schema_id})


async def _config(request: web.Request) -> web.Response:
    if subject := request.match_info.get("subject"):
        registry.versions(subject)
    return _json({"compatibilityLevel": registry.COMPATIBILITY})


async def _mode(_: web.Request) -> web.Response:
    return _json({"mode": registry.MODE})


def _asked(request: web.Request) -> registry.Registered:
    return registry.version(request.match_info["subject"], request.match_info["version"])


async def _body(request: web.Request) -> Any:
    """Return the schema that a request brings, as text; what is none finds nothing."""
    try:
        body = json.loads(await request.read())
    except (ValueError, RecursionError):
        return ""
    return body.get("schema", "") if isinstance(body, dict) else ""
