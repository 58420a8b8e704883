"""A device's first certificate, from its CSR, where the device CA's key is at hand.

Rules of this file: the CSR proves that it holds its key, CN and SAN name the device, the key is
good enough; who is let in is the operator's decision, who runs this and then registers the device.
"""

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from pki import facts, keys
from pki.authority import Authority
from pki.profile import NotIssuable, issue_device

CSR_BYTES_MAX = 16_384
BACKDATE = datetime.timedelta(minutes=5)
"""How far notBefore lies in the past, for devices whose clock is slow."""


def sign(
    authority: Authority, request: bytes, now: datetime.datetime, lifetime: datetime.timedelta
) -> tuple[str, bytes]:
    """Return the device that a CSR (PEM or DER) names, and its first certificate in PEM.

    Raises NotIssuable, and nothing else, for a request that the profile cannot answer.
    """
    csr = _read(request)
    device_id = facts.device_id(csr.subject, csr.extensions)
    if not device_id:
        raise NotIssuable(
            "CN and the SAN URI urn:fleetcert:device:<id> must name one device alike, and nothing "
            "else; `python -m device init` makes such a request"
        )
    key = csr.public_key()
    fingerprint = keys.spki_sha256(key).hex()
    request_id = f"enrolment-{device_id}-{fingerprint}"
    der = issue_device(authority, device_id, key, request_id, now - BACKDATE, lifetime)
    certificate = x509.load_der_x509_certificate(der)
    return device_id, certificate.public_bytes(serialization.Encoding.PEM)


def _read(request: bytes) -> x509.CertificateSigningRequest:
    if len(request) > CSR_BYTES_MAX:
        raise NotIssuable(f"the request has {len(request)} bytes, the limit is {CSR_BYTES_MAX}")
    pem = request.lstrip().startswith(b"-----BEGIN")
    try:
        csr = (x509.load_pem_x509_csr if pem else x509.load_der_x509_csr)(request)
        _ = (csr.subject, csr.extensions, keys.spki_sha256(csr.public_key()))
        valid = keys.accepted(csr.public_key()) and csr.is_signature_valid
    except Exception as error:  # the parser raises many kinds on garbage; all mean the same
        raise NotIssuable(f"no readable CSR: {type(error).__name__}: {error}"[:200]) from error
    if not valid:
        raise NotIssuable(
            f"the key is {keys.name(csr.public_key())}, or the CSR is not signed by it"
        )
    return csr
