"""The device certificate: what is in it, and that it comes out the same each time.

Rules of this file: CN and SAN name the device, the EKU is clientAuth alone, nothing is random. The
same request under the same CA gives the same bytes: the serial is an HMAC, the signature is
deterministic (RFC 6979), notBefore and lifetime are given.
"""

import datetime
import hashlib
import hmac

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pki import keys
from pki.authority import Authority, DeviceCA, key_usage
from schemas.envelope import URN_PREFIX, is_device_id

SERIAL_BITS = 159
"""RFC 5280 section 4.1.2.2: positive and at most 20 octets."""

LIFETIME_MIN = datetime.timedelta(seconds=1)
LIFETIME_MAX = datetime.timedelta(days=3650)

Certifiable = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey


class NotIssuable(ValueError):
    """No certificate of the profile can say this. The message says why."""


def issue_device(
    authority: Authority | DeviceCA,
    device_id: str,
    public_key: PublicKeyTypes,
    request_id: str,
    not_before: datetime.datetime,
    lifetime: datetime.timedelta,
) -> bytes:
    """Return the device certificate in DER; the same arguments give the same bytes.

    notAfter never lies behind the CA's own. Raises NotIssuable.
    """
    ca = authority.device if isinstance(authority, Authority) else authority
    not_before = not_before.astimezone(datetime.UTC).replace(microsecond=0)
    not_after = min(not_before + lifetime, ca.certificate.not_valid_after_utc)
    objection = _objection(ca, device_id, public_key, not_after - not_before)
    if objection is not None:
        raise NotIssuable(objection)
    assert isinstance(public_key, Certifiable)
    content = f"{device_id}\n{not_before.isoformat()}\n{not_after.isoformat()}\n".encode()
    number = serial(ca.secret, request_id, content + keys.spki_sha256(public_key))
    san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(URN_PREFIX + device_id)])
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device_id)]))
        .issuer_name(ca.certificate.subject)
        .public_key(public_key)
        .serial_number(number)
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(issuer_key, critical=False)
        .add_extension(san, critical=False)  # RFC 5280 section 4.2.1.6: the subject is not empty
        .add_extension(key_usage(digital_signature=True), critical=True)
        .add_extension(usage, critical=False)
    )
    certificate = builder.sign(ca.key, hashes.SHA256(), ecdsa_deterministic=True)
    return certificate.public_bytes(serialization.Encoding.DER)


def serial(secret: bytes, request_id: str, content: bytes) -> int:
    """Return the serial number of a request: positive, 159 bits, never guessable, never random.

    `content` is all else that the certificate says: were a request id used for another key, the
    serial would differ (RFC 5280 section 4.1.2.2: one serial, one certificate).
    """
    request = request_id.encode()
    message = len(request).to_bytes(4, "big") + request + content
    digest = hmac.new(secret, message, hashlib.sha256).digest()
    return (int.from_bytes(digest, "big") >> (256 - SERIAL_BITS)) or 1


def _objection(
    ca: DeviceCA,
    device_id: str,
    key: PublicKeyTypes,
    lifetime: datetime.timedelta,
) -> str | None:
    """Return why the profile cannot say this, None where it can; the first objection counts."""
    checks = (
        (is_device_id(device_id), f"{device_id!r} is no device id"),
        ("." not in device_id or not excludes_dns(ca.certificate), _DOTTED),
        (keys.accepted(key), f"the key is {keys.name(key)}"),
        (LIFETIME_MIN <= lifetime <= LIFETIME_MAX, f"a lifetime of {lifetime}"),
    )
    return next((objection for holds, objection in checks if not holds), None)


_DOTTED = (
    "the id has a dot and the device CA excludes DNS names: OpenSSL reads such a CN as a DNS name "
    "and refuses the certificate; create the authority without --exclude-dns"
)


def excludes_dns(certificate: x509.Certificate) -> bool:
    """Tell whether a CA certificate excludes DNS names (RFC 5280 section 4.2.1.10)."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.NameConstraints)
    except x509.ExtensionNotFound:
        return False
    return any(isinstance(one, x509.DNSName) for one in found.value.excluded_subtrees or ())
