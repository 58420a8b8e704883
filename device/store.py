"""The device's keys and certificates on disk: a crash anywhere leaves a working identity.

    identities/<fingerprint>/key.pem cert.pem   each whole or absent, never changed afterwards
                             provisioning       beside them: a maker's, good for enrolment alone
    current                                     the identity that worked last
    candidate                                   the identity to try first, until it works
    pending/<command id>/key.pem                a new key, waiting for its certificate

Rules of this file: pointers are replaced atomically; a new identity is installed *beside* the
old one; only `drop` removes one, and never the current or the last. A fingerprint is the SHA-256
of the DER certificate, in lower-case hexadecimal here and raw on the wire.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.x509.oid import NameOID

from device import durable, faults
from schemas.envelope import URN_PREFIX

PENDING_MAX = 8
"""How many keys may wait for a certificate; the oldest gives way."""

KEY_FILE, CERTIFICATE_FILE = "key.pem", "cert.pem"
PROVISIONING_FILE = "provisioning"


class NoIdentity(LookupError):
    """The store holds no certificate with its key: run `python -m device init` and register."""


class InstallRefused(ValueError):
    """The certificate is not for this device or for none of its pending keys."""


class DropRefused(ValueError):
    """The certificate is the one in use; dropping it would leave the device without identity."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One certificate with its key: `fingerprint` in hexadecimal, and the two PEM files."""

    fingerprint: str
    key_file: Path
    certificate_file: Path

    @property
    def provisioning(self) -> bool:
        """Tell whether it is a maker's, to enrol with: whatever else is said waits for our own."""
        return self.key_file.with_name(PROVISIONING_FILE).exists()

    def key(self) -> PrivateKeyTypes:
        """Load the private key."""
        return serialization.load_pem_private_key(self.key_file.read_bytes(), None)

    def certificate(self) -> x509.Certificate:
        """Load the certificate."""
        return x509.load_pem_x509_certificate(self.certificate_file.read_bytes())


class Store:
    """The key store in one directory; one process at a time owns it."""

    def __init__(self, directory: Path) -> None:
        """Open the store, make its folders, and remove what a crash left unfinished."""
        self.directory = directory
        self._identities = directory / "identities"
        self._pending = directory / "pending"
        for path in (directory, self._identities, self._pending):
            durable.folder(path)
            durable.sweep(path)

    def identities(self) -> list[Identity]:
        """Return every usable identity, the newest certificate first."""
        found = [one for path in self._identities.iterdir() if (one := _usable(path))]
        return sorted(found, key=lambda one: (_not_before(one), one.fingerprint), reverse=True)

    def current(self) -> Identity:
        """Return the identity that worked last, or the newest. Raises NoIdentity."""
        pointed = self._pointed("current")
        if pointed:
            return pointed
        usable = self.identities()
        if not usable:
            raise NoIdentity(
                f"no certificate with a matching key in {self._identities}: `python -m device "
                "init`, then `adopt` what the issuer has signed, or `enrol` by an invitation"
            )
        return usable[0]

    def candidate(self) -> Identity | None:
        """Return the identity to try first, if one waits for its trial."""
        return self._pointed("candidate")

    def find(self, fingerprint: str) -> Identity | None:
        """Return the identity of this fingerprint, if it is held and usable."""
        return _usable(self._identities / fingerprint)

    def pending_key(self, command_id: str) -> ec.EllipticCurvePrivateKey:
        """Return the new P-256 key of this command: made once, the same one ever after."""
        path = self._pending / _file_name(command_id)
        key = _pending_key(path)
        if key is None:
            durable.remove(path)
            self._make_room()
            with faults.around("store:pending"):
                key = ec.generate_private_key(ec.SECP256R1())
                durable.write_folder(path, {KEY_FILE: _key_pem(key)})
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key

    def install(
        self, certificate: bytes, device_id: str, *, provisioning: bool = False
    ) -> Identity:
        """Put a DER certificate beside the others, with its pending key; repeats change nothing.

        Raises InstallRefused when it names another device or belongs to no pending key.
        """
        parsed = _for_device(certificate, device_id)
        held = self.find(hashlib.sha256(certificate).hexdigest())
        if held:
            self._clear_pending(parsed.public_key())
            return held
        for path in self._waiting():
            key = _pending_key(path)
            if key is not None and key.public_key() == parsed.public_key():
                identity = self.add(key, parsed, provisioning=provisioning)
                self._clear_pending(parsed.public_key())
                return identity
        raise InstallRefused("the certificate's key is none of the pending keys")

    def add(
        self, key: PrivateKeyTypes, certificate: x509.Certificate, *, provisioning: bool = False
    ) -> Identity:
        """Put a certificate and its key beside the others: enrolment, and the end of `install`.

        A `provisioning` one is a maker's, good for enrolment alone.
        """
        if key.public_key() != certificate.public_key():
            raise InstallRefused("the certificate is for another key")
        der = certificate.public_bytes(serialization.Encoding.DER)
        path = self._identities / hashlib.sha256(der).hexdigest()
        if path.exists() and not _usable(path):
            durable.remove(path)
        if not path.exists():
            pem = certificate.public_bytes(serialization.Encoding.PEM)
            with faults.around("store:identity"):
                parts = {KEY_FILE: _key_pem(key), CERTIFICATE_FILE: pem}
                durable.write_folder(
                    path, parts | ({PROVISIONING_FILE: b""} if provisioning else {})
                )
        return Identity(path.name, path / KEY_FILE, path / CERTIFICATE_FILE)

    def propose(self, fingerprint: str) -> None:
        """Make this identity the one to try first."""
        with faults.around("store:candidate"):
            durable.write(self.directory / "candidate", fingerprint.encode())

    def settle(self, fingerprint: str) -> None:
        """Write down that this identity worked: it is current, and no trial is open any more."""
        pointed = self._pointed("current")
        if pointed is None or pointed.fingerprint != fingerprint:
            with faults.around("store:current"):
                durable.write(self.directory / "current", fingerprint.encode())
        if (self.directory / "candidate").exists():
            with faults.around("store:settled"):
                durable.remove(self.directory / "candidate")

    def drop(self, fingerprint: str) -> None:
        """Remove an old identity; one that is not held is no error. Raises DropRefused."""
        path = self._identities / fingerprint
        if path.parent != self._identities or not path.exists():
            return
        kept = {self.current().fingerprint} | {one.fingerprint for one in [self.candidate()] if one}
        if fingerprint in kept:
            raise DropRefused("the certificate is in use")
        with faults.around("store:dropped"):
            durable.remove(path)

    def _pointed(self, name: str) -> Identity | None:
        path = self.directory / name
        return self.find(path.read_text().strip()) if path.exists() else None

    def _waiting(self) -> list[Path]:
        paths = [path for path in self._pending.iterdir() if (path / KEY_FILE).exists()]
        return sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name))

    def _make_room(self) -> None:
        for path in self._waiting()[: -(PENDING_MAX - 1)]:
            durable.remove(path)

    def _clear_pending(self, public_key: PublicKeyTypes) -> None:
        for path in self._waiting():
            key = _pending_key(path)
            if key is not None and key.public_key() == public_key:
                with faults.around("store:cleared"):
                    durable.remove(path)


def _for_device(certificate: bytes, device_id: str) -> x509.Certificate:
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        common = parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        names = [str(one.value) for one in common]
        uris = _uris(parsed)
    except ValueError as error:
        raise InstallRefused(f"not a DER certificate: {error}") from error
    if names != [device_id]:
        raise InstallRefused(f"the certificate names {names}, not {device_id!r}")
    if uris and uris != [URN_PREFIX + device_id]:
        raise InstallRefused(f"the certificate's SAN names {uris}")
    return parsed


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return names.value.get_values_for_type(x509.UniformResourceIdentifier)


def _usable(path: Path) -> Identity | None:
    identity = Identity(path.name, path / KEY_FILE, path / CERTIFICATE_FILE)
    try:
        certificate = identity.certificate()
        matches = identity.key().public_key() == certificate.public_key()
    except (OSError, ValueError, TypeError):
        return None
    der = certificate.public_bytes(serialization.Encoding.DER)
    return identity if matches and hashlib.sha256(der).hexdigest() == path.name else None


def _not_before(identity: Identity) -> float:
    return identity.certificate().not_valid_before_utc.timestamp()


def _pending_key(path: Path) -> PrivateKeyTypes | None:
    """Return the key that waits there, None where there is none or a damaged one."""
    try:
        return serialization.load_pem_private_key((path / KEY_FILE).read_bytes(), None)
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _key_pem(key: PrivateKeyTypes) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _file_name(command_id: str) -> str:
    """Return the command id as a name that stays in its folder, whatever characters it has."""
    name = quote(command_id, safe="")
    return "%2E" + name[1:] if name.startswith(".") else name
