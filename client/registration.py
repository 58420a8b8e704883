"""A registration as users write it: one document per device, checked field by field.

    {"id": "pump-7", "type": "pump", "protocols": ["mqtt"], "tags": ["site=berlin", "beta"],
     "certificates": {"device": "pump-7.pem", "ca": "device-ca.pem"}, "attributes": {"room": "7"}}

A certificate is PEM text, DER bytes, or the path of a file. `ca` is optional: where it is given, it
must have issued the device's certificate. What is wrong is told by the field's name.
"""

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from client.errors import FleetError
from pki import facts
from schemas.envelope import is_device_id
from schemas.events import CertificateFacts, DeviceRegistered
from streams.core import description

DEVICE_TYPE, PROTOCOLS = "device", ("mqtt",)
"""What a device is and speaks where nothing is said."""
FIELDS = ("id", "type", "protocols", "certificates", "tags", "attributes")
CERTIFICATES = ("device", "ca")
Certificate = str | bytes
Read = Callable[[str], bytes]


class Certificates(TypedDict):
    """PEM text, DER bytes, or a path each."""

    device: Certificate
    ca: NotRequired[Certificate]


class Document(TypedDict):
    """A registration as a document."""

    id: str
    certificates: Certificates
    type: NotRequired[str]
    protocols: NotRequired[Sequence[str]]
    tags: NotRequired[Sequence[str]]
    attributes: NotRequired[Mapping[str, str]]


class Refused(FleetError):
    """A registration that is not valid: which field, and why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.field, self.reason = name, reason


@dataclass(frozen=True, slots=True)
class Registration:
    """A device, ready to be registered."""

    device_id: str
    certificate: CertificateFacts
    device_type: str = DEVICE_TYPE
    protocols: tuple[str, ...] = PROTOCOLS
    tags: tuple[str, ...] = ()
    attributes: dict[str, str] = field(default_factory=dict)

    def event(self, actor: str) -> DeviceRegistered:
        """Return what is written into the history."""
        return DeviceRegistered(
            self.device_id,
            self.device_type,
            self.protocols,
            self.certificate,
            actor,
            self.tags,
            self.attributes,
        )


def parse(document: Mapping[str, Any], read: Read = lambda path: Path(path).read_bytes()) -> (
    Registration
):  # fmt: skip
    """Return the registration that a document is; `read` gets files. Raises Refused."""
    known(document, FIELDS, "")
    device_id = _text(document, "id")
    if not is_device_id(device_id):
        reason = (
            f"{device_id[:80]!r} is no device id: letters, digits, '.', '_' and '-', at most 64"
        )
        raise Refused("id", reason)
    device_type = _text(document, "type", DEVICE_TYPE)
    protocols = _texts(document, "protocols") or PROTOCOLS
    tags, attributes = _texts(document, "tags"), _attributes(document)
    for name in protocols:
        if name not in description.PROTOCOLS:
            raise Refused("protocols", f"{name!r}: {nearest(name, description.PROTOCOLS)}")
    name, wrong = description.objection(device_type, protocols, tags, attributes)
    if wrong:
        raise Refused(name, wrong)
    held = _certificate(device_id, document.get("certificates"), read)
    return Registration(device_id, held, device_type, protocols, tags, attributes)


def certificate_of(device_id: str, data: bytes, ca: bytes | None = None) -> CertificateFacts:
    """Return what a device's certificate says. Raises Refused where it is another's, or no CA's."""
    try:
        loaded = facts.load_certificate(data)
    except ValueError as error:
        raise Refused("certificates.device", f"unreadable: {error}") from error
    named = facts.device_id(loaded.subject, loaded.extensions)
    if named != device_id:
        raise Refused(
            "certificates.device",
            f"it names {named or 'no device'}, not {device_id}: CN and the SAN "
            f"urn:fleetcert:device:{device_id} must both say the id",
        )
    if ca is not None:
        _issued(loaded, ca)
    return facts.facts_of(loaded)


def known(document: Mapping[str, Any], names: Sequence[str], path: str) -> None:
    """Raise Refused for a name that is not among `names`, with the nearest one."""
    if not isinstance(document, Mapping):
        raise Refused(path.rstrip(".") or "the device", "expected an object")
    for name in document:
        if name not in names:
            raise Refused(f"{path}{str(name)[:80]}", f"no such field; {nearest(str(name), names)}")


def nearest(name: str, names: Sequence[str]) -> str:
    """Return the hint for a name that is not known."""
    close = difflib.get_close_matches(name, names, 1, 0.5)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(names)}"


def _certificate(device_id: str, document: Any, read: Read) -> CertificateFacts:
    if document is None:
        raise Refused("certificates.device", "missing")
    known(document, CERTIFICATES, "certificates.")
    if not document.get("device"):
        raise Refused("certificates.device", "missing")
    found = {
        name: _bytes(f"certificates.{name}", value, read)
        for name, value in document.items()
        if value
    }
    return certificate_of(device_id, found["device"], found.get("ca"))


def _bytes(name: str, value: Any, read: Read) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise Refused(name, "expected PEM text or the path of a file")
    if value.lstrip().startswith("-----BEGIN"):
        return value.encode()
    try:
        return read(value)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise Refused(name, f"{value[:200]}: {why}") from error


def _issued(certificate: x509.Certificate, data: bytes) -> None:
    try:
        certificate.verify_directly_issued_by(facts.load_certificate(data))
    except InvalidSignature as error:
        raise Refused("certificates.ca", "did not sign the device's certificate") from error
    except (ValueError, TypeError) as error:
        raise Refused("certificates.ca", str(error)) from error


def _text(document: Mapping[str, Any], name: str, default: str = "") -> str:
    value = document.get(name)
    if value is None or value == "":
        value = default
    if not isinstance(value, str):
        raise Refused(name, f"{json.dumps(value, default=str)[:80]}: expected a text")
    if not value:
        raise Refused(name, "missing")
    return value


def _texts(document: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = document.get(name) or ()
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise Refused(name, f"{str(value)[:80]!r}: expected a list of texts")
    if not all(isinstance(one, str) for one in value):
        raise Refused(name, "expected a list of texts")
    return tuple(value)


def _attributes(document: Mapping[str, Any]) -> dict[str, str]:
    value = document.get("attributes") or {}
    if not isinstance(value, Mapping):
        raise Refused("attributes", "expected an object of texts")
    for name, one in value.items():
        if not isinstance(name, str) or not isinstance(one, str):
            raise Refused(f"attributes.{name}", "expected a text")
    return dict(value)
