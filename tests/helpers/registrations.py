"""Documents of devices, with certificates of an authority: all on one key, which nobody uses."""

import functools
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pki.authority import Authority
from pki.profile import issue_device


def pem(certificate: x509.Certificate) -> str:
    """Return a certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


@functools.cache
def _key() -> ec.EllipticCurvePublicKey:
    return ec.generate_private_key(ec.SECP256R1()).public_key()


def certificate(authorities: Authority, device_id: str, days: int = 90) -> str:
    """Return a device's certificate as PEM, valid since an hour ago for so many days from now."""
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    lifetime = timedelta(days=days, hours=1)
    der = issue_device(authorities, device_id, _key(), device_id, start, lifetime)
    return pem(x509.load_der_x509_certificate(der))


def document(
    authorities: Authority, device_id: str, ca: str = "", days: int = 90, **more: Any
) -> Any:
    """Return a device's registration as a document."""
    held = {"device": certificate(authorities, device_id, days)} | ({"ca": ca} if ca else {})
    return {"id": device_id, "certificates": held, **more}
