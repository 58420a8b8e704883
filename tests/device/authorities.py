"""Certificates for the tests: authorities and a broker's certificate."""

import datetime
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from device.provision import DeviceCa

ADDRESS = "127.0.0.1"


def make_ca(name: str) -> DeviceCa:
    """Return a self-signed authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    builder = _builder(subject, subject, key.public_key(), key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return DeviceCa(builder.add_extension(usage, critical=True).sign(key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePublicKey,
) -> x509.CertificateBuilder:
    """Begin a certificate; Python 3.13 refuses a chain without the two key identifiers."""
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
    )


def write_pem(ca: DeviceCa, folder: Path, name: str) -> None:
    """Write an authority's certificate and key as <name>.pem and <name>.key."""
    pem = serialization.Encoding.PEM
    (folder / f"{name}.pem").write_bytes(ca.certificate.public_bytes(pem))
    secret = ca.key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / f"{name}.key").write_bytes(secret)


def issue_server(ca: DeviceCa, folder: Path) -> None:
    """Write server.pem and server.key for the broker's address."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")])
    san = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(ADDRESS))])
    signer = ca.key.public_key()
    builder = _builder(subject, ca.certificate.subject, key.public_key(), signer)
    certificate = builder.add_extension(san, critical=False).sign(ca.key, hashes.SHA256())
    write_pem(DeviceCa(certificate, key), folder, "server")


def server_context(folder: Path) -> ssl.SSLContext:
    """Return the context of a server; its authority's certificate is service.pem in the folder."""
    authority = make_ca("service CA")
    write_pem(authority, folder, "service")
    issue_server(authority, folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    return context
