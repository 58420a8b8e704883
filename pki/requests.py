"""A signing request: the new key's CSR and the command's nonce, signed by the current key.

    COSE_Sign1 (RFC 9052), tag 18
      protected  {1: alg, 33: x5chain = the current certificate in DER (RFC 9360)}
      payload    CBOR {1: PKCS #10 in DER (RFC 2986), 2: nonce}

A door of EST (RFC 7030) takes a CSR over a session that the current key has proven, and vouches for
it: signed by the door's key, x5chain = the door's certificate, and the payload has a third label,
the current certificate in DER. Whoever reads one says whose word it takes.

Rules of this file: the device makes, doors and the issuer examine; `examine` judges signatures and
keys, never whether the request is wanted; bytes that are no request raise MalformedRequest only.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import cbor2
import cryptography
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.x509.oid import NameOID

from pki import cose, facts, keys
from schemas.envelope import URN_PREFIX, is_device_id

NONCE_BYTES_MAX = 64
"""The longest nonce read, in bytes."""

CSR, NONCE, CURRENT = 1, 2, 3
"""The labels of the payload; the third one where a door vouches."""

VERIFIER = f"pki.requests/1 cryptography/{cryptography.__version__}"
"""Who judged: recorded with the verdicts in SigningRequested."""

Signing = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


class MalformedRequest(ValueError):
    """The bytes are no signing request. The message says why; tell the device `malformed`."""


@dataclass(frozen=True, slots=True)
class Examined:
    """The verdicts on a signing request, as SigningRequested records them.

    `subject` is "" where CN and SAN do not name one device. `request_signature_valid` holds where
    the signature verifies under `current_certificate` (DER) and that is the session's.
    """

    nonce: bytes
    csr: bytes
    subject: str
    key: str
    spki_sha256: bytes
    key_accepted: bool
    csr_signature_valid: bool
    request_signature_valid: bool
    current_certificate: bytes


def make_csr(device_id: str, key: PrivateKeyTypes) -> bytes:
    """Return the PKCS #10 (RFC 2986) of the device's key in DER. Raises ValueError."""
    if not is_device_id(device_id):
        raise ValueError(f"{device_id!r} is no device id")
    if not isinstance(key, Signing):
        raise ValueError("the key must be P-256, P-384, Ed25519 or RSA")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device_id)])
    san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(URN_PREFIX + device_id)])
    builder = x509.CertificateSigningRequestBuilder(name).add_extension(san, critical=False)
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, digest).public_bytes(serialization.Encoding.DER)


def make_signing_request(
    device_id: str,
    new_key: PrivateKeyTypes,
    current_key: PrivateKeyTypes,
    current_certificate_der: bytes,
    nonce: bytes,
) -> bytes:
    """Return the answer to RotateCertificate: the COSE_Sign1 that `examine` reads.

    Raises ValueError for a device id or key that can make none.
    """
    payload = cbor2.dumps({CSR: make_csr(device_id, new_key), NONCE: nonce})
    return cose.sign(payload, current_certificate_der, current_key)


def vouch(
    csr: bytes, nonce: bytes, current_certificate: bytes, leaf: bytes, key: PrivateKeyTypes
) -> bytes:
    """Return a door's word that who asks owns the key of `current_certificate` (all DER)."""
    payload = cbor2.dumps({CSR: csr, NONCE: nonce, CURRENT: current_certificate})
    return cose.sign(payload, leaf, key)


def examine(signed: bytes, session_fingerprint: bytes | None) -> Examined:
    """Return the verdicts on a signing request.

    `session_fingerprint` is the SHA-256 of the certificate the session authenticated with. Give
    None only where there is no session (a file on a desk): then it is not compared.
    Raises MalformedRequest, and nothing else, whatever the bytes.
    """
    try:
        message = cose.parse(signed)
        content = _payload(message.payload, {CSR, NONCE})
    except cose.Malformed as error:
        raise MalformedRequest(str(error)) from error
    mine = session_fingerprint in (None, hashlib.sha256(message.chain[0]).digest())
    return _examined(message, content, message.chain[0], mine)


def examine_vouched(
    signed: bytes, session_fingerprint: bytes, trusted: Callable[[x509.Certificate], bool]
) -> Examined:
    """Return the verdicts on a request that a door vouches for.

    `trusted` tells whether the word of this certificate's owner is taken. Raises MalformedRequest,
    and nothing else.
    """
    try:
        message = cose.parse(signed)
        content = _payload(message.payload, {CSR, NONCE, CURRENT})
        door = facts.load_certificate(message.chain[0])
    except (cose.Malformed, facts.MalformedCertificate) as error:
        raise MalformedRequest(str(error)) from error
    mine = hashlib.sha256(content[CURRENT]).digest() == session_fingerprint
    return _examined(message, content, content[CURRENT], mine and trusted(door))


def is_vouched(signed: bytes) -> bool:
    """Tell whether a door vouches for the request: by its labels alone."""
    try:
        content = cose.decode(cose.parse(signed).payload)
    except cose.Malformed:
        return False
    return cose.is_map(content) and CURRENT in content


def _examined(
    message: cose.Sign1, content: dict[int, bytes], current: bytes, believed: bool
) -> Examined:
    """Return the verdicts; the signature counts where the one who signed is to be believed."""
    der = content[CSR]
    csr, key = load_csr(der)
    try:
        signer = facts.load_certificate(message.chain[0]).public_key()
    except facts.MalformedCertificate as error:
        raise MalformedRequest(str(error)) from error
    return Examined(
        nonce=content[NONCE],
        csr=der,
        subject=facts.device_id(csr.subject, csr.extensions),
        key=keys.name(key),
        spki_sha256=keys.spki_sha256(key),
        key_accepted=keys.accepted(key),
        csr_signature_valid=csr_signature_valid(csr, key),
        request_signature_valid=(
            believed and keys.accepted(signer) and cose.verify(message, signer)
        ),
        current_certificate=current,
    )


def _payload(payload: bytes, labels: set[int]) -> dict[int, bytes]:
    content = cose.decode(payload)
    if not cose.is_map(content) or set(content) != labels:
        raise cose.Malformed("the payload must be a map of CSR (1) and nonce (2)")
    if not all(isinstance(one, bytes) for one in content.values()):
        raise cose.Malformed("a CSR or nonce that is no byte string")
    if len(content[NONCE]) > NONCE_BYTES_MAX:
        size = len(content[NONCE])
        raise cose.Malformed(f"a nonce of {size} bytes, the limit is {NONCE_BYTES_MAX}")
    return dict(content)


def load_csr(der: bytes) -> tuple[x509.CertificateSigningRequest, PublicKeyTypes]:
    """Return a CSR (DER) and its key, all parts proven readable. Raises MalformedRequest."""
    try:
        csr = x509.load_der_x509_csr(der)
        key = csr.public_key()
        keys.spki_sha256(key)
        _ = (csr.subject, csr.extensions)
    except Exception as error:  # the parser raises many kinds on garbage; all mean the same
        raise MalformedRequest(f"CSR: {type(error).__name__}: {error}"[:200]) from error
    return csr, key


def csr_signature_valid(csr: x509.CertificateSigningRequest, key: PublicKeyTypes) -> bool:
    """Tell whether the new key signed the CSR; an oversize RSA key is not even tried."""
    if isinstance(key, rsa.RSAPublicKey) and key.key_size > keys.RSA_BITS_MAX:
        return False
    try:
        return csr.is_signature_valid
    except Exception:  # an algorithm that the library does not know: not valid
        return False
