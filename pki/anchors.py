"""The CAs that the configuration names, as certificates: each is a path, or the PEM text itself."""

from collections.abc import Sequence
from pathlib import Path

from cryptography import x509

from configuration.fields import PEM
from configuration.source import unusable

PROVISIONING = "iot.security.provisioning.ca"


def named(said: Sequence[str], place: str = PROVISIONING) -> tuple[x509.Certificate, ...]:
    """Return the certificates of CAs. Raises InvalidConfiguration that names the place."""
    found: list[x509.Certificate] = []
    for one in said:
        try:
            pem = one.encode() if PEM in one else Path(one).read_bytes()
            found += x509.load_pem_x509_certificates(pem)
        except (OSError, ValueError) as error:
            raise unusable(place, str(error)) from error
    return tuple(found)
