"""A schema registry that others wrote: Apicurio Registry, as a process of this machine.

Its rows are in memory. In front of it stands what operators put there: TLS, and a password.
"""

import contextlib
import os
import secrets
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import requests
from aiohttp import web

from client.local import launch
from client.local.ports import free_ports
from tests.helpers.java import DOWNLOAD_SECONDS, QUICK, TOOLS
from tests.helpers.wait import until

VERSION = "3.0.9"
"""The last one that Java 17 runs."""
ARTIFACT = f"io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"
API = "/apis/ccompat/v7"
READY_SECONDS = 120.0


def install() -> Path:
    """Return the program; Maven fetches it once, and checks it."""
    folder = TOOLS / f"apicurio-{VERSION}"
    if not folder.exists():
        fresh = folder.with_name(f"apicurio-{os.getpid()}")
        command = ["mvn", "-q", "-B", "dependency:copy", f"-Dartifact={ARTIFACT}"]
        command += [f"-DoutputDirectory={fresh}"]
        subprocess.run(command, check=True, capture_output=True, timeout=DOWNLOAD_SECONDS)
        (packed,) = fresh.glob("*.tar.gz")
        shutil.unpack_archive(packed, fresh)
        packed.unlink()
        fresh.rename(folder)
    (program,) = folder.glob("*-runner.jar")
    return program


@contextlib.contextmanager
def apicurio(folder: Path) -> Iterator[str]:
    """Run an empty registry; yield its address."""
    (port,) = free_ports(1)
    command = ["java", *QUICK, "-Xmx512m", "-Dquarkus.http.host=127.0.0.1"]
    command += [f"-Dquarkus.http.port={port}", "-jar", str(install())]
    log = folder / "apicurio.log"
    with log.open("wb") as output:
        running = subprocess.Popen(
            [sys.executable, launch.__file__, str(os.getpid()), *command],
            stdout=output,
            stderr=output,
            cwd=folder,
        )
    url = f"http://127.0.0.1:{port}{API}"
    try:
        until(lambda: _answers(url), within=READY_SECONDS, describe=log.read_text)
        yield url
    finally:
        running.kill()
        running.wait()


def _answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/subjects", timeout=10).ok
    except requests.ConnectionError:
        return False


@dataclass(frozen=True)
class Guarded:
    """The registry behind TLS and a password."""

    url: str
    user: str
    password: str


@contextlib.asynccontextmanager
async def guarded(url: str, certificate: Path, key: Path) -> AsyncIterator[Guarded]:
    """Stand in front of a registry as a proxy does that lets one user in."""
    root, password = url.removesuffix(API), secrets.token_urlsafe(16)
    wanted = aiohttp.BasicAuth("schemas", password).encode()

    async def passed_on(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != wanted:
            return web.Response(status=401)
        sent = {
            name: value
            for name, value in request.headers.items()
            if name.lower().startswith(("content-type", "accept", "x-registry"))
        }
        body = await request.read()
        async with session.request(
            request.method, root + request.path_qs, data=body, headers=sent
        ) as answer:
            return web.Response(
                status=answer.status,
                body=await answer.read(),
                headers={"Content-Type": answer.headers.get("Content-Type", "text/plain")},
            )

    app = web.Application(client_max_size=16 << 20)
    app.router.add_route("*", "/{path:.*}", passed_on)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    runner = web.AppRunner(app, access_log=None)
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        await runner.setup()
        try:
            await web.TCPSite(runner, "localhost", 0, ssl_context=context).start()
            port = runner.addresses[0][1]
            yield Guarded(f"https://localhost:{port}{API}", "schemas", password)
        finally:
            await runner.cleanup()
