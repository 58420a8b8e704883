"""The authorities and their folder."""

import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from pki.authority import (
    Authority,
    AuthorityExists,
    AuthorityUnreadable,
    create,
    issue_service,
    load,
)
from tests.pki.conftest import NOW

Make = Callable[..., Authority]


def _extension(certificate: x509.Certificate, kind: type[x509.ExtensionType]) -> x509.Extension:
    return certificate.extensions.get_extension_for_class(kind)


def test_what_was_created_is_what_is_loaded(new_authority: Make) -> None:
    """An authority loaded from its folder has the same certificates, keys and secret."""
    made = new_authority()
    read = load(made.directory)
    assert read.device.certificate == made.device.certificate
    assert read.device.secret == made.device.secret
    assert read.device.key.private_numbers() == made.device.key.private_numbers()
    assert read.service.certificate == made.service.certificate


def test_the_root_may_leave(new_authority: Make, tmp_path: Path) -> None:
    """The online authority loads without the root's folder: the root is offline."""
    made = new_authority()
    (made.directory / "root").rename(tmp_path / "safe")
    assert load(made.directory).device.certificate == made.device.certificate


def test_nothing_is_overwritten(new_authority: Make) -> None:
    """A second create in the folder is refused and changes no byte."""
    made = new_authority()
    before = {path: path.read_bytes() for path in made.directory.rglob("*") if path.is_file()}
    with pytest.raises(AuthorityExists, match="choose another folder"):
        create(made.directory, now=NOW)
    assert before == {
        path: path.read_bytes() for path in made.directory.rglob("*") if path.is_file()
    }


def test_only_the_owner_reads(new_authority: Make) -> None:
    """Folders are 0700 and files 0600."""
    made = new_authority()
    for path in [made.directory, *made.directory.rglob("*")]:
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_every_key_is_encrypted_at_rest(new_authority: Make) -> None:
    """No private key file opens without the passphrase."""
    made = new_authority()
    files = sorted(made.directory.rglob("*.key"))
    assert len(files) == 3
    for path in files:
        with pytest.raises(TypeError):
            serialization.load_pem_private_key(path.read_bytes(), None)


def test_a_given_passphrase_is_kept_nowhere(new_authority: Make) -> None:
    """A passphrase of the operator's opens the keys and is in no file."""
    made = new_authority(passphrase=b"by hand")
    assert not list(made.directory.rglob("passphrase"))
    assert load(made.directory, b"by hand").device.secret == made.device.secret
    with pytest.raises(AuthorityUnreadable):
        load(made.directory, b"another")


def test_a_folder_without_authority_says_what_to_do(tmp_path: Path) -> None:
    """Loading an empty folder names the command that makes one."""
    with pytest.raises(AuthorityUnreadable, match="pki init"):
        load(tmp_path)


def test_the_device_ca_is_under_the_root_and_makes_no_ca(new_authority: Make) -> None:
    """The device CA is signed by the root, has path length 0, and signs certificates and lists."""
    made = new_authority()
    root = x509.load_pem_x509_certificate((made.directory / "root" / "root.pem").read_bytes())
    device = made.device.certificate
    device.verify_directly_issued_by(root)
    constraints = _extension(device, x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (
        True,
        True,
        0,
    )
    usage = _extension(device, x509.KeyUsage).value
    assert usage.key_cert_sign
    assert usage.crl_sign
    assert not usage.digital_signature


@pytest.mark.parametrize(("exclude_dns", "names"), [(False, []), (True, [""])])
def test_the_device_ca_excludes_addresses_and_on_request_names(
    new_authority: Make, exclude_dns: bool, names: list[str]
) -> None:
    """The name constraints exclude every IP address, DNS names where asked, and are critical."""
    made = new_authority(exclude_dns=exclude_dns)
    constraints = _extension(made.device.certificate, x509.NameConstraints)
    excluded = [str(one.value) for one in constraints.value.excluded_subtrees]
    assert constraints.critical
    assert sorted(excluded) == [*names, "0.0.0.0/0", "::/0"]


def test_the_service_ca_is_its_own_root(made: Authority) -> None:
    """A chain from the service CA never reaches the device CA's root."""
    service = made.service.certificate
    assert service.issuer == service.subject
    assert service.issuer != made.device.certificate.issuer


def test_secrets_are_not_shown(made: Authority) -> None:
    """The repr of an authority holds neither key nor secret."""
    assert made.device.secret.hex() not in repr(made)
    assert repr(made.device.secret) not in repr(made)


@pytest.mark.parametrize(
    ("client", "server", "usages"),
    [
        (True, True, {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}),
        (False, True, {ExtendedKeyUsageOID.SERVER_AUTH}),
        (True, False, {ExtendedKeyUsageOID.CLIENT_AUTH}),
    ],
)
def test_a_service_certificate_is_for_what_was_asked(
    made: Authority, client: bool, server: bool, usages: set[x509.ObjectIdentifier]
) -> None:
    """Name, addresses and usages of a service certificate are those asked for."""
    pem, key_pem = issue_service(
        made, "broker", ["broker.test", "127.0.0.1"], now=NOW, client=client, server=server
    )
    certificate = x509.load_pem_x509_certificate(pem)
    certificate.verify_directly_issued_by(made.service.certificate)
    key = serialization.load_pem_private_key(key_pem, None)
    assert key.public_key() == certificate.public_key()
    assert set(_extension(certificate, x509.ExtendedKeyUsage).value) == usages
    names = _extension(certificate, x509.SubjectAlternativeName).value
    assert [str(one.value) for one in names] == ["broker.test", "127.0.0.1"]


def test_a_service_certificate_for_nothing_is_refused(made: Authority) -> None:
    """Neither client nor server is no certificate."""
    with pytest.raises(ValueError, match="client, a server or both"):
        issue_service(made, "x", [], now=NOW, client=False, server=False)
