"""The twin of a certificate: the other one that its ECDSA signature makes. Pure.

Where (r, s) verifies, so does (r, n - s), n being the order of the signer's group (SEC 1 section
4.1.4 looks at s up to its sign). So whoever has a certificate can make another one, of the same
key, serial and name, under another fingerprint. Who refuses by fingerprint must refuse both.
"""

import hashlib
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from pki.facts import load_certificate

SEQUENCE, BIT_STRING = 0x30, 0x03


def fingerprints(der: bytes, issuers: Sequence[x509.Certificate]) -> frozenset[bytes]:
    """Return the SHA-256 of a certificate, and of its twin where one of `issuers` signed it.

    Raises MalformedCertificate.
    """
    leaf = load_certificate(der)
    keys = [one.public_key() for one in issuers if one.subject == leaf.issuer]
    twins = [twin(leaf, one) for one in keys if isinstance(one, ec.EllipticCurvePublicKey)]
    return frozenset(hashlib.sha256(one).digest() for one in (der, *twins))


def twin(leaf: x509.Certificate, signer: ec.EllipticCurvePublicKey) -> bytes:
    """Return the DER of the twin of a certificate with an ECDSA signature of `signer`."""
    r, s = utils.decode_dss_signature(leaf.signature)
    signature = utils.encode_dss_signature(r, signer.curve.group_order - s)
    der, told = leaf.public_bytes(serialization.Encoding.DER), leaf.tbs_certificate_bytes
    behind = der[der.index(told) + len(told) :]
    algorithm = behind[: 2 + behind[1]]
    return _tagged(SEQUENCE, told + algorithm + _tagged(BIT_STRING, b"\0" + signature))


def _tagged(tag: int, content: bytes) -> bytes:
    """Write a value of DER, with the length in as few bytes as it takes (X.690 section 10.1)."""
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content
