"""A signing request: the new key's CSR and the command's nonce, signed by the current key.

    COSE_Sign1 (RFC 9052), tag 18
      protected  {1: alg, 33: x5chain = the current certificate in DER (RFC 9360)}
      payload    CBOR {1: PKCS #10 in DER (RFC 2986), 2: nonce}

Rules of this file: the device makes, doors and the issuer examine; `examine` judges signatures and
keys, never whether the request is wanted; bytes that are no request raise MalformedRequest only.
"""

import hashlib
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

CSR, NONCE = 1, 2
"""The labels of the payload."""

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


def examine(signed: bytes, session_fingerprint: bytes | None) -> Examined:
    """Return the verdicts on a signing request.

    `session_fingerprint` is the SHA-256 of the certificate the session authenticated with. Give
    None only where there is no session (a file on a desk): then it is not compared.
    Raises MalformedRequest, and nothing else, whatever the bytes.
    """
    try:
        message = cose.parse(signed)
        nonce, der = _payload(message.payload)
        current = facts.load_certificate(message.chain[0])
    except (cose.Malformed, facts.MalformedCertificate) as error:
        raise MalformedRequest(str(error)) from error
    csr, key = _csr(der)
    current_key = current.public_key()
    mine = session_fingerprint in (None, hashlib.sha256(message.chain[0]).digest())
    return Examined(
        nonce=nonce,
        csr=der,
        subject=facts.device_id(csr.subject, csr.extensions),
        key=keys.name(key),
        spki_sha256=keys.spki_sha256(key),
        key_accepted=keys.accepted(key),
        csr_signature_valid=_csr_signature_valid(csr, key),
        request_signature_valid=(
            mine and keys.accepted(current_key) and cose.verify(message, current_key)
        ),
        current_certificate=message.chain[0],
    )


def _payload(payload: bytes) -> tuple[bytes, bytes]:
    content = cose.decode(payload)
    if not cose.is_map(content) or set(content) != {CSR, NONCE}:
        raise cose.Malformed("the payload must be a map of CSR (1) and nonce (2)")
    nonce, csr = content[NONCE], content[CSR]
    if not isinstance(nonce, bytes) or not isinstance(csr, bytes):
        raise cose.Malformed("a CSR or nonce that is no byte string")
    if len(nonce) > NONCE_BYTES_MAX:
        raise cose.Malformed(f"a nonce of {len(nonce)} bytes, the limit is {NONCE_BYTES_MAX}")
    return nonce, csr


def _csr(der: bytes) -> tuple[x509.CertificateSigningRequest, PublicKeyTypes]:
    """Return the CSR and its key, with all parts that `examine` reads proven readable."""
    try:
        csr = x509.load_der_x509_csr(der)
        key = csr.public_key()
        keys.spki_sha256(key)
        _ = (csr.subject, csr.extensions)
    except Exception as error:  # the parser raises many kinds on garbage; all mean the same
        raise MalformedRequest(f"CSR: {type(error).__name__}: {error}"[:200]) from error
    return csr, key


def _csr_signature_valid(csr: x509.CertificateSigningRequest, key: PublicKeyTypes) -> bool:
    """Tell whether the new key signed the CSR; an oversize RSA key is not even tried."""
    if isinstance(key, rsa.RSAPublicKey) and key.key_size > keys.RSA_BITS_MAX:
        return False
    try:
        return csr.is_signature_valid
    except Exception:  # an algorithm that the library does not know: not valid
        return False
