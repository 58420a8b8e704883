"""A device's first certificate, ordered by a registrar: an operator whose word the issuer takes.

    COSE_Sign1 (RFC 9052), signed by the registrar's key, x5chain = the registrar's certificate
      payload  CBOR {1: PKCS #10 in DER (RFC 2986), 4: device type, 5: protocols, 6: ordered at}

Rules of this file: a registrar's certificate stands under the service CA and carries a mark of its
own, which no door has; who can merely write to Kafka gets no certificate. The CSR must name the
device that is registered, and be signed by its own key. `judge` reads no clock and keeps nothing.
"""

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.x509.oid import NameOID

from pki import cose, facts, issuer, keys, path, profile, requests
from pki.authority import DeviceCA
from schemas.commands import SignFirstCertificate
from schemas.events import DeviceRegistered
from schemas.reasons import Reason

CSR, DEVICE_TYPE, PROTOCOLS, ORDERED_AT = 1, 4, 5, 6
"""The labels of the payload."""
TEXT_CHARACTERS_MAX = 64
PROTOCOLS_MAX = 8
BACKDATE = datetime.timedelta(minutes=5)
"""How far notBefore lies before the order, for devices whose clock is slow."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a registrar orders. `ordered_at` is milliseconds since 1970."""

    csr: bytes
    device_type: str
    protocols: tuple[str, ...]
    ordered_at: int


def order(wanted: Order, leaf: bytes, key: PrivateKeyTypes) -> bytes:
    """Return the order, signed by a registrar's key; `leaf` is its certificate in DER."""
    payload = {
        CSR: wanted.csr,
        DEVICE_TYPE: wanted.device_type,
        PROTOCOLS: list(wanted.protocols),
        ORDERED_AT: wanted.ordered_at,
    }
    return cose.sign(cbor2.dumps(payload), leaf, key)


def read(signed: bytes) -> tuple[Order, cose.Sign1]:
    """Return what an order says, whoever signed it. Raises requests.MalformedRequest only."""
    try:
        message = cose.parse(signed)
        content = cose.decode(message.payload)
    except cose.Malformed as error:
        raise requests.MalformedRequest(str(error)) from error
    labels = {CSR, DEVICE_TYPE, PROTOCOLS, ORDERED_AT}
    if not cose.is_map(content) or set(content) != labels:
        raise requests.MalformedRequest("an order has a CSR, a type, protocols and an instant")
    csr, device_type, protocols = content[CSR], content[DEVICE_TYPE], content[PROTOCOLS]
    at = content[ORDERED_AT]
    sound = isinstance(csr, bytes) and type(at) is int and is_description(device_type, protocols)
    if not sound:
        raise requests.MalformedRequest("a part of the order has the wrong type, or is too long")
    return Order(csr, device_type, tuple(protocols), at), message


def key_of(record: SignFirstCertificate) -> bytes:
    """Return what an order is known by when it is repeated: the device and its key."""
    try:
        spki = keys.spki_sha256(requests.load_csr(read(record.signed_order)[0].csr)[1])
    except requests.MalformedRequest:
        spki = b""
    return hashlib.sha256(record.device_id.encode() + b"\0" + spki).digest()


def judge(
    record: SignFirstCertificate, ca: DeviceCA, policy: issuer.Policy, first_at: int, at: int
) -> DeviceRegistered | issuer.Refusal:
    """Return the device as registered with its first certificate, or why there is none.

    `at` is the broker's time of the record, `first_at` that of the first one of this order: the
    order repeated gives the same certificate, byte for byte.
    """
    try:
        wanted, message = read(record.signed_order)
        signer = facts.load_certificate(message.chain[0])
        csr, key = requests.load_csr(wanted.csr)
    except (requests.MalformedRequest, facts.MalformedCertificate) as error:
        return issuer.Refusal(Reason.MALFORMED, str(error))
    checks = (
        (
            _ordered(message, signer, policy.door_anchors, at),
            Reason.WRONG_SIGNATURE,
            "no registrar of ours signed the order",
        ),
        (
            at - _ms(policy.lag_max) <= wanted.ordered_at <= at + _ms(policy.lead_max),
            Reason.CLOCK_OFF,
            "ordered_at lies too far from the record's broker time",
        ),
    )
    for holds, reason, why in checks:
        if not holds:
            return issuer.Refusal(reason, why)
    refusal = unfit(record.device_id, csr, key)
    if refusal is not None:
        return refusal
    described = (wanted.device_type, wanted.protocols)
    return registered(record.device_id, key, described, name_of(signer), ca, policy, first_at)


def unfit(
    device_id: str, csr: x509.CertificateSigningRequest, key: PublicKeyTypes
) -> issuer.Refusal | None:
    """Return why a CSR is not one for the device's first certificate; the first violation."""
    checks = (
        (
            facts.device_id(csr.subject, csr.extensions) == device_id,
            Reason.WRONG_SUBJECT,
            "the CSR does not name the device",
        ),
        (keys.accepted(key), Reason.WEAK_KEY, f"the key is {keys.name(key)}"),
        (
            requests.csr_signature_valid(csr, key),
            Reason.WRONG_SIGNATURE,
            "the key did not sign the CSR",
        ),
    )
    return next((issuer.Refusal(reason, why) for holds, reason, why in checks if not holds), None)


def registered(
    device_id: str,
    key: PublicKeyTypes,
    described: tuple[str, tuple[str, ...]],
    actor: str,
    ca: DeviceCA,
    policy: issuer.Policy,
    first_at: int,
) -> DeviceRegistered | issuer.Refusal:
    """Return the device, of this type and these protocols, with its certificate from `first_at`."""
    request_id = f"first-{device_id}-{keys.spki_sha256(key).hex()}-{first_at}"
    start = facts.instant(first_at) - BACKDATE
    try:
        der = profile.issue_device(ca, device_id, key, request_id, start, policy.lifetime)
    except profile.NotIssuable as error:
        return issuer.Refusal(Reason.ISSUER_REFUSED, str(error))
    return DeviceRegistered(device_id, *described, facts.facts(der), actor)


def signed_by(message: cose.Sign1, signer: x509.Certificate) -> bool:
    """Tell whether the certificate's key, a good one, signed the message."""
    key = signer.public_key()
    return keys.accepted(key) and cose.verify(message, key)


def name_of(signer: x509.Certificate) -> str:
    """Return who signed: the service's common name."""
    names = signer.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value)[:TEXT_CHARACTERS_MAX] if names else "registrar"


def is_description(device_type: object, protocols: object) -> bool:
    """Tell whether this is a device's type and its protocols."""
    return (
        isinstance(protocols, list | tuple)
        and len(protocols) <= PROTOCOLS_MAX
        and all(is_text(one) for one in (device_type, *protocols))
    )


def is_text(value: object) -> bool:
    """Tell whether this is a short text in one line."""
    return isinstance(value, str) and 0 < len(value) <= TEXT_CHARACTERS_MAX and value.isprintable()


def _ordered(
    message: cose.Sign1, signer: x509.Certificate, anchors: Sequence[x509.Certificate], at: int
) -> bool:
    return path.is_service(signer, path.REGISTRAR, anchors, facts.instant(at)) and signed_by(
        message, signer
    )


def _ms(span: datetime.timedelta) -> int:
    return span // datetime.timedelta(milliseconds=1)
