"""Artefacts for tests: signed, and served over HTTP as a campaign would name them."""

import contextlib
import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from device.artefacts import Keys
from schemas.artefact import Artefact

KEY_ID = "release-1"


@dataclass
class Artefacts:
    """What the server has; `answers` is the status it answers with, `asked` how often it was.

    While it is not `flowing`, it sends two bytes a second.
    """

    key: ec.EllipticCurvePrivateKey
    port: int = 0
    held: dict[str, bytes] = field(default_factory=dict)
    answers: int = 200
    asked: int = 0
    flowing: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.flowing.set()

    @property
    def keys(self) -> Keys:
        """Who is trusted to sign."""
        return {KEY_ID: self.key.public_key()}

    def offer(self, version: str, content: bytes) -> Artefact:
        """Serve an artefact, and return the update that names it."""
        path = f"/pump-{version}.bin"
        self.held[path] = content
        signature = self.key.sign(content, ec.ECDSA(hashes.SHA256()))
        return Artefact(
            "firmware", "pump", version, f"http://127.0.0.1:{self.port}{path}", len(content),
            hashlib.sha256(content).digest(), signature, KEY_ID,
        )  # fmt: skip


@contextlib.contextmanager
def serving() -> Iterator[Artefacts]:
    """Serve artefacts for the time of the block."""
    made = Artefacts(ec.generate_private_key(ec.SECP256R1()))

    class Handler(http.server.BaseHTTPRequestHandler):
        """Answers from what is held."""

        def do_GET(self) -> None:
            """Answer as a file server does."""
            made.asked += 1
            content = made.held.get(self.path, b"")
            self.send_response(made.answers if self.path in made.held else 404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            sent = 0
            while not made.flowing.wait(0.5) and sent < len(content):
                self.wfile.write(content[sent : sent + 1])
                sent += 1
            self.wfile.write(content[sent:])

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield made
        server.shutdown()
