"""Which public keys are good enough, and what they are called.

Rules of this file: the policy is a closed list (design.md section 6); everything else is weak,
also what the library can load. Names are those of the `key` field of SigningRequested.
"""

import hashlib

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

RSA_BITS_MIN = 2048
"""The smallest RSA modulus accepted, in bits (NIST SP 800-57 part 1, table 2)."""

RSA_BITS_MAX = 8192
"""The largest: verifying costs with the square of it, and the request comes from outside."""

RSA_EXPONENT_MIN = 65537
"""FIPS 186-5 section 5.4: 2^16 < e < 2^256."""

CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
"""NIST names of the curves we name; the others keep their SEC 2 name."""

_ACCEPTED = frozenset({"P-256", "P-384", "Ed25519"})


def name(key: PublicKeyTypes) -> str:
    """Return the key's algorithm and size, such as `P-256`, `Ed25519` or `RSA-2048`."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return CURVES.get(key.curve.name, key.curve.name)
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA-{key.key_size}"
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "Ed25519"
    if isinstance(key, ed448.Ed448PublicKey):
        return "Ed448"
    if isinstance(key, dsa.DSAPublicKey):
        return f"DSA-{key.key_size}"
    return type(key).__name__.removesuffix("PublicKey")


def accepted(key: PublicKeyTypes) -> bool:
    """Tell whether a device may use the key: P-256, P-384, Ed25519, or RSA of 2048 to 8192 bits."""
    if isinstance(key, rsa.RSAPublicKey):
        exponent = key.public_numbers().e
        sized = RSA_BITS_MIN <= key.key_size <= RSA_BITS_MAX
        return sized and RSA_EXPONENT_MIN <= exponent < 1 << 256
    return name(key) in _ACCEPTED


def spki_sha256(key: PublicKeyTypes) -> bytes:
    """Return the SHA-256 of the key's SubjectPublicKeyInfo in DER (RFC 5280 section 4.1.2.7).

    The key is encoded anew, so that two encodings of one key (a compressed point) are equal.
    """
    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).digest()
