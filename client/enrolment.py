"""Ordering a device's first certificate from the issuer, and waiting for it.

    CSR → order, signed by a registrar → certificate.requests → issuer → DeviceRegistered

Rules of this file: whoever orders is a registrar, with a key of its own (docs/security.md); the
answer is read from the device's own history; an order repeated gives the same certificate.
"""

import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from client.errors import FleetError
from client.reader import Found
from pki import facts, invitation, keys, registrar, requests
from schemas.commands import InviteDevice, SignFirstCertificate
from schemas.envelope import DEVICE_ID
from schemas.events import DeviceRegistered, SigningRefused
from schemas.reasons import SENTENCES, Reason
from schemas.states import DeviceRow

ANSWER_SECONDS = 30.0
INVITED_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Registrar:
    """Who may order first certificates: a certificate (DER) that the issuer knows by its mark."""

    certificate: bytes
    key: PrivateKeyTypes

    @classmethod
    def load(cls, certificate: Path) -> Self:
        """Read a registrar's certificate and the `.key` beside it. Raises FleetError."""
        try:
            loaded = facts.load_certificate(certificate.read_bytes())
            key = serialization.load_pem_private_key(
                certificate.with_suffix(".key").read_bytes(), None
            )
        except OSError as error:
            raise FleetError(
                f"{error.filename}: {error.strerror}; go to the folder of the local stack, or name "
                "a registrar's certificate with --registrar (`python -m pki service --registrar` "
                "makes one)"
            ) from error
        except (ValueError, TypeError) as error:
            raise FleetError(f"{certificate} or its key is unreadable: {error}") from error
        return cls(loaded.public_bytes(serialization.Encoding.DER), key)


def wanted(
    device_id: str, device_type: str, protocols: tuple[str, ...], csr: bytes
) -> registrar.Order:
    """Return what to order. Raises FleetError for a CSR that the issuer would refuse."""
    try:
        if csr.lstrip().startswith(b"-----BEGIN"):
            csr = x509.load_pem_x509_csr(csr).public_bytes(serialization.Encoding.DER)
        loaded, key = requests.load_csr(csr)
    except ValueError as error:
        raise FleetError(f"the request of {device_id} is unreadable: {error}") from error
    named = facts.device_id(loaded.subject, loaded.extensions)
    if named != device_id:
        raise FleetError(
            f"the request names {named or 'no device'}, not {device_id}: CN and the SAN "
            f"urn:fleetcert:device:{device_id} must both say the id"
        )
    if not keys.accepted(key):
        raise FleetError(f"the request's key is {keys.name(key)}: {SENTENCES[Reason.WEAK_KEY]}")
    return registrar.Order(csr, device_type, protocols, time.time_ns() // 1_000_000)


def held(row: DeviceRow | None, order: registrar.Order) -> bytes | None:
    """Return the certificate of this key where the device holds it already, None for a new device.

    Raises FleetError where the device is registered with another key.
    """
    if row is None:
        return None
    spki = _spki(order)
    for one in row.certificates:
        if one.spki_sha256 == spki and one.der:
            return _pem(one.der)
    raise FleetError(
        f"{row.device_id} is registered with another key; see `fleetcert device show "
        f"{row.device_id}`, and `fleetcert device rotate {row.device_id}` for a new one"
    )


def order(device_id: str, wanted: registrar.Order, by: Registrar) -> SignFirstCertificate:
    """Return the signed order."""
    signed = registrar.order(wanted, by.certificate, by.key)
    return SignFirstCertificate(f"first-{secrets.token_hex(8)}", device_id, signed)


def invitation_of(
    device_id: str, device_type: str, protocols: tuple[str, ...], seconds: float, by: Registrar
) -> tuple[str, InviteDevice]:
    """Return a new token and the signed invitation that it is for. Raises FleetError."""
    if not DEVICE_ID.fullmatch(device_id):
        raise FleetError(f"{device_id} cannot be a device's id: {DEVICE_ID.pattern}")
    longest = invitation.LIFETIME_MAX.total_seconds()
    if not 0 < seconds <= longest:
        raise FleetError(f"an invitation is good for at most {longest / 86_400:.0f} days")
    token, at = invitation.new_token(), time.time_ns() // 1_000_000
    invited = invitation.Invited(
        device_id,
        device_type,
        protocols,
        at,
        at + int(seconds * 1_000),
        invitation.verifier(device_id, token),
    )
    return token, InviteDevice(device_id, invitation.invite(invited, by.certificate, by.key))


def answer(
    answers: Iterable[Found], asked: SignFirstCertificate, wanted: registrar.Order, within: float
) -> bytes:
    """Wait for the issuer's answer; return the certificate, in PEM. Raises FleetError."""
    spki = _spki(wanted)
    for found in answers:
        event = found.record
        if isinstance(event, DeviceRegistered) and event.certificate.spki_sha256 == spki:
            return _pem(event.certificate.der)
        if isinstance(event, SigningRefused) and event.request_id == asked.request_id:
            raise FleetError(f"the issuer refuses ({event.reason}): {event.detail}")
    raise FleetError(
        f"no answer of the issuer within {within:.0f} s: does it run (fleetcert status)? The order "
        "stands; the same command asks again"
    )


def _spki(order: registrar.Order) -> bytes:
    return keys.spki_sha256(requests.load_csr(order.csr)[1])


def _pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
