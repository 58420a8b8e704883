"""The signing request of a rotation: a CSR and the command's nonce, signed by the current key.

COSE_Sign1 (RFC 9052 section 4.2): the payload is the CBOR map {1: CSR (DER), 2: nonce}; the
protected header holds the algorithm (1) and the current certificate (33, x5chain, RFC 9360).
"""

import hashlib
import hmac
from dataclasses import dataclass

import cbor2
from cryptography import __version__ as library_version
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.x509.oid import NameOID

from pki.facts import key_accepted, key_name, spki_sha256, subject_of
from schemas.envelope import URN_PREFIX

VERIFIER = f"fleetcert 1, cryptography {library_version}"
REQUEST_BYTES_MAX = 16_384
COSE_SIGN1_TAG = 18
_ALGORITHM, _CERTIFICATE = 1, 33
_CSR, _NONCE = 1, 2
_ES256, _ES384, _EDDSA, _PS256 = -7, -35, -8, -37

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


class MalformedRequest(ValueError):
    """The bytes are no signing request. The message says what is wrong with them."""


@dataclass(frozen=True, slots=True)
class Examined:
    """The verdicts on a signing request."""

    nonce: bytes
    csr: bytes
    subject: str
    key: str
    spki_sha256: bytes
    key_accepted: bool
    csr_signature_valid: bool
    request_signature_valid: bool
    current_certificate: bytes


def make_csr(device_id: str, key: PrivateKey) -> bytes:
    """Return a PKCS #10 request (DER) for the device id."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device_id)])
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(URN_PREFIX + device_id)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).add_extension(san, False)
    return csr.sign(key, algorithm).public_bytes(serialization.Encoding.DER)


def make_signing_request(
    device_id: str,
    new_key: PrivateKey,
    current_key: PrivateKey,
    current_certificate_der: bytes,
    nonce: bytes,
) -> bytes:
    """Return the COSE_Sign1 that a device answers RotateCertificate with."""
    payload = cbor2.dumps({_CSR: make_csr(device_id, new_key), _NONCE: nonce})
    protected = cbor2.dumps(
        {_ALGORITHM: _algorithm_of(current_key.public_key()), _CERTIFICATE: current_certificate_der}
    )
    signature = _sign(current_key, _to_be_signed(protected, payload))
    return cbor2.dumps(cbor2.CBORTag(COSE_SIGN1_TAG, [protected, {}, payload, signature]))


def examine(signed: bytes, session_fingerprint: bytes | None) -> Examined:
    """Judge a signing request.

    `request_signature_valid` holds where the signature verifies under the certificate of the
    header, and that certificate is the one of the session (SHA-256; None skips this part).
    Raises MalformedRequest for garbage, and nothing else.
    """
    if len(signed) > REQUEST_BYTES_MAX:
        raise MalformedRequest(f"{len(signed)} bytes, at most {REQUEST_BYTES_MAX}")
    try:
        return _examine(signed, session_fingerprint)
    except MalformedRequest:
        raise
    except Exception as error:  # cbor2 and X.509 parsers raise many kinds; all mean the same
        raise MalformedRequest(f"{type(error).__name__}: {error}") from error


def _examine(signed: bytes, session_fingerprint: bytes | None) -> Examined:
    outer = cbor2.loads(signed)
    if not isinstance(outer, cbor2.CBORTag) or outer.tag != COSE_SIGN1_TAG:
        raise MalformedRequest("not a tagged COSE_Sign1")
    protected, _, payload, signature = outer.value
    header, body = cbor2.loads(protected), cbor2.loads(payload)
    der, csr_der, nonce = header[_CERTIFICATE], body[_CSR], body[_NONCE]
    if not all(isinstance(one, bytes) for one in (der, csr_der, nonce, signature)):
        raise MalformedRequest("certificate, CSR, nonce and signature are byte strings")
    current = x509.load_der_x509_certificate(der).public_key()
    csr = x509.load_der_x509_csr(csr_der)
    new_key = csr.public_key()
    same = session_fingerprint is None or hmac.compare_digest(
        hashlib.sha256(der).digest(), session_fingerprint
    )
    return Examined(
        nonce=nonce,
        csr=csr_der,
        subject=subject_of(csr),
        key=key_name(new_key),
        spki_sha256=spki_sha256(new_key),
        key_accepted=key_accepted(new_key),
        csr_signature_valid=_csr_signature_valid(csr),
        request_signature_valid=same
        and header[_ALGORITHM] == _algorithm_of(current)
        and _verifies(current, signature, _to_be_signed(protected, payload)),
        current_certificate=der,
    )


def _csr_signature_valid(csr: x509.CertificateSigningRequest) -> bool:
    try:
        return csr.is_signature_valid
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False


def _to_be_signed(protected: bytes, payload: bytes) -> bytes:
    """Return the Sig_structure (RFC 9052 section 4.4)."""
    return cbor2.dumps(["Signature1", protected, b"", payload])


def _algorithm_of(key: object) -> int:
    if isinstance(key, ec.EllipticCurvePublicKey):
        return _ES384 if key.curve.name == "secp384r1" else _ES256
    if isinstance(key, ed25519.Ed25519PublicKey):
        return _EDDSA
    if isinstance(key, rsa.RSAPublicKey):
        return _PS256
    raise MalformedRequest(f"no COSE algorithm for {type(key).__name__}")


def _hash_of(key: ec.EllipticCurvePublicKey) -> hashes.HashAlgorithm:
    return hashes.SHA384() if key.curve.name == "secp384r1" else hashes.SHA256()


def _pss() -> padding.PSS:
    return padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256.digest_size)


def _sign(key: PrivateKey, data: bytes) -> bytes:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        der = key.sign(data, ec.ECDSA(_hash_of(key.public_key())))
        size = (key.curve.key_size + 7) // 8
        return b"".join(one.to_bytes(size, "big") for one in decode_dss_signature(der))
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, _pss(), hashes.SHA256())
    return key.sign(data)


def _verifies(key: object, signature: bytes, data: bytes) -> bool:
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            half = (key.curve.key_size + 7) // 8
            if len(signature) != 2 * half:
                return False
            r, s = (int.from_bytes(signature[i : i + half], "big") for i in (0, half))
            key.verify(encode_dss_signature(r, s), data, ec.ECDSA(_hash_of(key)))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, _pss(), hashes.SHA256())
        elif isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, data)
        else:
            return False
    except InvalidSignature:
        return False
    return True
