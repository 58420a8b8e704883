"""The certificate authorities and their folder.

    DIR/passphrase                          of the online keys, unless the operator gives one
    DIR/root/      root.pem root.key passphrase      take it away after `create`: nothing reads it
    DIR/device-ca/ ca.pem ca.key secret bundle.pem   former/*.pem: CAs whose certificates still live
    DIR/service-ca/ca.pem ca.key

Rules of this file: the root signs the device CA only, and the service CA is its own root: OpenSSL
completes chains to a self-signed anchor, so a common root would let a device speak on the service
listener. Keys are encrypted PKCS #8; nothing is ever overwritten.
"""

import datetime
import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pki import private
from pki.path import REGISTRAR, REGISTRATION_AUTHORITY

ROOT_LIFETIME = datetime.timedelta(days=7305)
CA_LIFETIME = datetime.timedelta(days=3652)
SERVICE_DAYS = 90
"""The usual lifetime of a service certificate, in days."""
BACKDATE = datetime.timedelta(minutes=5)
"""How far a service certificate's notBefore lies in the past, for peers whose clock is slow."""
CA_BACKDATE = datetime.timedelta(days=1)
"""The same for a CA certificate: device certificates are backdated, too."""
SECRET_BYTES = 32
"""Length of the secret that serials are derived with."""


class AuthorityExists(FileExistsError):
    """The folder holds an authority; choose another folder, or move this one away."""


class AuthorityUnreadable(ValueError):
    """The folder holds no authority, or the passphrase does not open it. The message says which."""


@dataclass(frozen=True, slots=True)
class CA:
    """One certificate authority: its certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)


@dataclass(frozen=True, slots=True)
class DeviceCA:
    """The device CA, the secret behind its serials, and the CAs that it followed."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    secret: bytes = field(repr=False)
    former: tuple[x509.Certificate, ...] = ()

    @property
    def anchors(self) -> tuple[x509.Certificate, ...]:
        """The CA certificates under which a device certificate is ours, the newest first."""
        return (self.certificate, *self.former)


@dataclass(frozen=True, slots=True)
class Authority:
    """What the issuer's folder holds; the root key is not part of it."""

    directory: Path
    device: DeviceCA
    service: CA


def create(
    directory: Path,
    *,
    now: datetime.datetime,
    passphrase: bytes | None = None,
    exclude_dns: bool = False,
) -> Authority:
    """Make a new authority in the folder and return it.

    Without a passphrase, random ones are kept beside the keys (files 0600): one for the online
    keys, another one in `root/`, which leaves with it. `exclude_dns` forbids the device CA every
    DNS name, and with it every id that has a dot, see `device_constraints`. Raises AuthorityExists.
    """
    for part in ("passphrase", "root", "device-ca", "service-ca"):
        if (directory / part).exists():
            raise AuthorityExists(f"{directory / part} exists: choose another folder")
    for folder in (directory, *(directory / one for one in ("root", "device-ca", "service-ca"))):
        private.directory(folder)
    online = passphrase or _new_passphrase(directory)
    root_key, device_key, service_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    root = _ca_certificate("fleetcert root", root_key, None, now, exclude_dns)
    device = _ca_certificate(
        "fleetcert device CA", device_key, CA(root, root_key), now, exclude_dns
    )
    service = _ca_certificate("fleetcert service CA", service_key, None, now, exclude_dns)
    at_root = passphrase or _new_passphrase(directory / "root")
    _write_ca(directory / "root", "root", root, root_key, at_root)
    _write_ca(directory / "service-ca", "ca", service, service_key, online)
    folder = directory / "device-ca"
    secret = secrets.token_bytes(SECRET_BYTES)
    private.write(folder / "secret", secret)
    private.write(folder / "bundle.pem", _pem(device) + _pem(root))
    _write_ca(folder, "ca", device, device_key, online)
    return Authority(directory, DeviceCA(device, device_key, secret), CA(service, service_key))


def load(directory: Path, passphrase: bytes | None = None) -> Authority:
    """Return the authority of the folder; the root is not read. Raises AuthorityUnreadable.

    Only the issuer, and whoever enrols devices, needs it: it opens the device CA's key.
    """
    try:
        passphrase = passphrase or _passphrase(directory)
        device = _read_ca(directory / "device-ca", passphrase)
        secret = private.read(directory / "device-ca" / "secret")
        former = tuple(
            x509.load_pem_x509_certificate(path.read_bytes())
            for path in sorted((directory / "device-ca" / "former").glob("*.pem"))
        )
        service = _read_ca(directory / "service-ca", passphrase)
    except (OSError, ValueError, TypeError) as error:
        raise AuthorityUnreadable(f"{directory}: {error}; make one with `pki init`") from error
    if len(secret) < SECRET_BYTES:
        raise AuthorityUnreadable(f"{directory}: the secret of the device CA is too short")
    return Authority(directory, DeviceCA(device.certificate, device.key, secret, former), service)


def load_service(directory: Path, passphrase: bytes | None = None) -> CA:
    """Return the service CA; the device CA's key stays closed. Raises AuthorityUnreadable."""
    try:
        return _read_ca(directory / "service-ca", passphrase or _passphrase(directory))
    except (OSError, ValueError, TypeError) as error:
        raise AuthorityUnreadable(f"{directory}: {error}; make one with `pki init`") from error


def issue_service(
    authority: Authority | CA,
    name: str,
    sans: Sequence[str],
    *,
    now: datetime.datetime,
    days: int = SERVICE_DAYS,
    client: bool = True,
    server: bool = True,
    registration: bool = False,
    registrar: bool = False,
) -> tuple[bytes, bytes]:
    """Return a new service certificate and its key, both PEM; the key is not encrypted.

    `sans` are DNS names and IP addresses; without any, `name` is the DNS name. `registration`
    marks a door whose word about a device's session the issuer takes (EST); `registrar` marks an
    operator who may order first certificates, who should be neither client nor server: no door
    lets such a certificate in. Raises ValueError for what has no use at all.
    RFC 5280 sections 4.2.1.3, .6 and .12.
    """
    usages = [
        usage
        for wanted, usage in (
            (server, ExtendedKeyUsageOID.SERVER_AUTH),
            (client, ExtendedKeyUsageOID.CLIENT_AUTH),
            (registration, REGISTRATION_AUTHORITY),
            (registrar, REGISTRAR),
        )
        if wanted
    ]
    if not client and not server and not registrar:
        raise ValueError("a service certificate is for a client, a server or both, or a registrar")
    ca = authority.service if isinstance(authority, Authority) else authority
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(name, key, ca, now - BACKDATE, datetime.timedelta(days=days))
    names = [_general_name(one) for one in sans or (name,)]
    certificate = (
        builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(key_usage(digital_signature=True), critical=True)
        .sign(ca.key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return _pem(certificate), pem


def key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    """Return a key usage (RFC 5280 section 4.2.1.3) with the named bits and no other."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def device_constraints(exclude_dns: bool) -> x509.NameConstraints:
    """Return what the device CA may never certify: IP addresses and, where asked, DNS names.

    RFC 5280 section 4.2.1.10: an empty dNSName covers all. OpenSSL (NAME_CONSTRAINTS_check_CN)
    applies DNS constraints to a CN with a dot in it, too: a device `pump.17` would be refused at
    every OpenSSL door, hence not by default (docs/decisions, *ids with dots*). The CA's EKU forbids
    servers.
    """
    addresses = [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")]
    excluded: list[x509.GeneralName] = [x509.IPAddress(one) for one in addresses]
    return x509.NameConstraints(None, [*([x509.DNSName("")] if exclude_dns else []), *excluded])


def _ca_certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    root: CA | None,
    now: datetime.datetime,
    exclude_dns: bool,
) -> x509.Certificate:
    """Return a CA certificate: the device CA under a root, or a root (RFC 5280 section 4.2.1.9)."""
    is_root = name == "fleetcert root"
    lifetime = ROOT_LIFETIME if is_root else CA_LIFETIME
    builder = (
        _builder(name, key, root, now - CA_BACKDATE, lifetime)
        .add_extension(x509.BasicConstraints(True, 1 if is_root else 0), critical=True)
        .add_extension(key_usage(key_cert_sign=True, crl_sign=True), critical=True)
    )
    if root is not None:
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = builder.add_extension(device_constraints(exclude_dns), critical=True)
        builder = builder.add_extension(usage, critical=False)
    return builder.sign(root.key if root else key, hashes.SHA256())


def _builder(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: CA | None,
    not_before: datetime.datetime,
    lifetime: datetime.timedelta,
) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer = issuer.key.public_key() if issuer else key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_before + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
    )


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _passphrase(directory: Path) -> bytes:
    return private.read(directory / "passphrase").strip()


def _new_passphrase(directory: Path) -> bytes:
    passphrase = secrets.token_hex(32).encode()
    private.write(directory / "passphrase", passphrase)
    return passphrase


def _write_ca(
    folder: Path,
    name: str,
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    passphrase: bytes,
) -> None:
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase),
    )
    private.write(folder / f"{name}.key", pem)
    private.write(folder / f"{name}.pem", _pem(certificate))


def _read_ca(folder: Path, passphrase: bytes) -> CA:
    certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    key = serialization.load_pem_private_key(private.read(folder / "ca.key"), passphrase)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{folder / 'ca.key'} is no EC key")
    if key.public_key() != certificate.public_key():
        raise ValueError(f"{folder / 'ca.key'} is not the key of ca.pem")
    return CA(certificate, key)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
