"""The forms of EST: base64 of RFC 8951, certs-only PKCS #7, the attributes of a request. Pure."""

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from bridges.inbound import Refused
from schemas.reasons import Reason

REQUEST_BYTES_MAX = 16_384
"""The longest request, as it comes over the wire."""
ATTRIBUTES = bytes.fromhex(
    "3021"  # CsrAttrs: SEQUENCE OF AttrOrOID (RFC 7030 section 4.5.2)
    "301506072a8648ce3d0201"  # an attribute: id-ecPublicKey,
    "310a06082a8648ce3d030107"  # and the set of its values: prime256v1
    "06082a8648ce3d040302"  # an OID: ecdsa-with-SHA256
)
"""What a request should be made with: a key on P-256, a signature by ECDSA with SHA-256."""


def certificates(found: Sequence[x509.Certificate]) -> bytes:
    """Return a certs-only PKCS #7 in DER (RFC 5272 section 4.1)."""
    return pkcs7.serialize_certificates(list(found), Encoding.DER)


def to_base64(der: bytes) -> bytes:
    """Return DER as HTTP carries it."""
    return base64.encodebytes(der)


def from_base64(text: bytes) -> bytes:
    """Return the DER in a body; blanks and line ends count for nothing. Raises Refused."""
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(Reason.MALFORMED, "the body is not base64 of DER") from error


def bundle(files: Sequence[Path]) -> list[x509.Certificate]:
    """Return the certificates of PEM files, each once, in their order."""
    found = [one for file in files for one in x509.load_pem_x509_certificates(file.read_bytes())]
    return list(dict.fromkeys(found))
