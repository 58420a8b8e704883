"""What the agent does when it is asked: one handler per command type, a table of them.

Rules of this file: a handler may run twice for the same command (the broker redelivers) and
gives the same answer; what it changes is durable before it returns; a request that the device
will not fulfil is a reply, never an exception. Times are compared with server times only.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from device.artefacts import UpdateFailed
from device.payloads import DONE, FAILED, REFUSED, Command, Malformed, Reply
from device.store import DropRefused, Identity, InstallRefused, Store
from pki.requests import make_signing_request
from schemas.artefact import Artefact

SigningKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

NONCE_BYTES_MAX = 64
FINGERPRINT_BYTES = 32

_log = logging.getLogger("fleetcert.device.commands")


class Handlers:
    """Answers commands out of a key store. Override a method to make a device misbehave.

    `updater` takes an update over (device/updates.py); its answers come in its own time. A device
    that installs in another way has an `installer`, which fetches, checks and installs within the
    call or raises UpdateFailed, and may be called again for an update that it has installed. A
    device with neither refuses updates.
    """

    updater: Callable[[str, Artefact], Reply] | None = None
    installer: Callable[[Artefact], None] | None = None

    def __init__(self, device_id: str, store: Store) -> None:
        self.device_id = device_id
        self.store = store
        self.identity: Identity | None = None
        self.switch_to: str | None = None
        self._server_time = 0
        self.table: Mapping[str, Callable[[Command], Reply]] = {
            "RotateCertificate": self.rotate,
            "InstallCertificate": self.install,
            "DropCertificate": self.drop,
            "InstallUpdate": self.update,
        }

    def answer(self, command: Command) -> Reply:
        """Do what is asked and return the reply; an unknown or expired command is refused."""
        self._server_time = max(self._server_time, command.issued_at)
        if command.expires_at and command.expires_at < self._server_time:
            return Reply(REFUSED, "expired")
        handler = self.table.get(command.type)
        if handler is None:
            return Reply(REFUSED, f"unknown command {command.type[:64]!r}")
        try:
            return handler(command)
        except (Malformed, InstallRefused, DropRefused) as error:
            return Reply(REFUSED, str(error))
        except OSError as error:
            _log.exception("command failed type=%s id=%s", command.type, command.command_id)
            return Reply(FAILED, f"{type(error).__name__}: {error}")

    def rotate(self, command: Command) -> Reply:
        """Make the new key of this command, and ask for its certificate."""
        nonce = command.raw("nonce")
        if not 0 < len(nonce) <= NONCE_BYTES_MAX:
            raise Malformed(f"nonce is 1 to {NONCE_BYTES_MAX} bytes")
        key = self.new_key(command)
        return Reply(DONE, extra={"signing_request": self.signing_request(key, nonce)})

    def install(self, command: Command) -> Reply:
        """Put the certificate beside the old one, to be tried once this reply has gone out."""
        identity = self.store.install(command.raw("certificate"), self.device_id)
        in_use = self.identity or self.store.current()
        if identity.fingerprint != in_use.fingerprint:
            self.switch_to = identity.fingerprint
        return Reply(DONE)

    def drop(self, command: Command) -> Reply:
        """Remove an old certificate and its key; never the one that this session uses."""
        fingerprint = command.raw("fingerprint")
        if len(fingerprint) != FINGERPRINT_BYTES:
            raise Malformed(f"fingerprint is {FINGERPRINT_BYTES} bytes")
        if self.identity is not None and self.identity.fingerprint == fingerprint.hex():
            raise DropRefused("the certificate is the one of this session")
        self.store.drop(fingerprint.hex())
        return Reply(DONE)

    def update(self, command: Command) -> Reply:
        """Install an update, if this device can."""
        if self.installer is None and self.updater is None:
            return Reply(REFUSED, "this device takes no updates")
        texts: dict[str, Any] = {
            name: command.fields.get(name) for name in ("kind", "name", "version", "uri")
        }
        size, key_id = command.fields.get("size"), command.fields.get("key_id")
        if not isinstance(size, int) or not all(isinstance(one, str) for one in texts.values()):
            raise Malformed("an update names its kind, name, version, uri and size")
        digest, signature = command.raw("sha256"), command.raw("signature")
        asked = Artefact(**texts, size=size, sha256=digest, signature=signature, key_id=str(key_id))
        if self.updater is not None:
            return self.updater(command.command_id, asked)
        assert self.installer is not None
        try:
            self.installer(asked)
        except UpdateFailed as error:
            return Reply(FAILED, str(error))
        return Reply(DONE)

    def new_key(self, command: Command) -> PrivateKeyTypes:
        """Return the new key of this command: the same one each time."""
        return self.store.pending_key(command.command_id)

    def signing_request(self, key: PrivateKeyTypes, nonce: bytes) -> bytes:
        """Return the CSR and the nonce, signed by the key of the identity in use (COSE_Sign1)."""
        identity = self.identity or self.store.current()
        return self.signed(self.device_id, key, identity, nonce)

    @staticmethod
    def signed(device_id: str, key: PrivateKeyTypes, identity: Identity, nonce: bytes) -> bytes:
        """Return a signing request of any content: what honest and other devices send."""
        der = identity.certificate().public_bytes(serialization.Encoding.DER)
        return make_signing_request(device_id, _signing(key), _signing(identity.key()), der, nonce)


def _signing(key: PrivateKeyTypes) -> SigningKey:
    if isinstance(key, SigningKey):
        return key
    raise Malformed(f"no signing request can be made with {type(key).__name__}")
