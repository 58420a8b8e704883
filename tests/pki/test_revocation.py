"""The revocation list: made, written, read."""

import subprocess
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from pki import revocation
from pki.authority import Authority
from pki.revocation import Revocation
from schemas.reasons import Reason
from tests.pki.conftest import AT, NOW, World

WEEK = 7 * 86_400_000
RETIRED = Revocation(0xABC, b"f" * 32, AT - 1000, AT + WEEK, Reason.CERTIFICATE_RETIRED, 1)
ORDERED = Revocation(0xDEF, b"g" * 32, AT - 2000, AT + WEEK, Reason.ORDERED, 1)


def _list(made: Authority, number: int = 7, entries: tuple[Revocation, ...] = (RETIRED,)) -> bytes:
    return revocation.build(made.device, entries, number, AT, AT + WEEK)


def test_a_list_says_what_was_put_in(made: Authority) -> None:
    """Number, instants, serials and revocation instants come back."""
    read = revocation.parse(_list(made, 7, (RETIRED, ORDERED)), made.device.certificate)
    assert (read.number, read.this_update_at, read.next_update_at) == (7, AT, AT + WEEK)
    assert read.revoked == {0xABC: AT - 1000, 0xDEF: AT - 2000}


def test_the_same_list_is_the_same_bytes(made: Authority) -> None:
    """A list is a function of its entries, number and instants."""
    assert _list(made) == _list(made)


def test_only_a_retired_certificate_is_superseded(made: Authority) -> None:
    """RFC 5280 section 5.3.1: superseded where it was replaced, no reason code otherwise."""
    read = x509.load_pem_x509_crl(_list(made, 7, (RETIRED, ORDERED)))
    reasons = [[one.value.reason for one in entry.extensions] for entry in read]
    assert reasons == [[x509.ReasonFlags.superseded], []]


def test_another_ca_s_list_is_refused(
    made: Authority, new_authority: Callable[..., Authority]
) -> None:
    """A list signed by a CA of the same name is not ours."""
    with pytest.raises(revocation.MalformedList, match="not signed by this CA"):
        revocation.parse(_list(new_authority("other")), made.device.certificate)


@given(st.binary(max_size=300))
def test_garbage_is_no_list(data: bytes) -> None:
    """Bytes that are no list raise MalformedList and nothing else."""
    with pytest.raises(revocation.MalformedList):
        revocation.parse(data, None)  # type: ignore[arg-type]


def test_a_lower_number_replaces_nothing(new_authority: Callable[..., Authority]) -> None:
    """A zombie's older list never replaces a newer one; a broken file is replaced."""
    made = new_authority()
    folder, issuer = made.directory / "device-ca", made.device.certificate
    assert revocation.write(folder, _list(made, 8), issuer)
    assert not revocation.write(folder, _list(made, 7), issuer)
    assert not revocation.write(folder, _list(made, 8), issuer)
    assert revocation.parse((folder / "device.crl").read_bytes(), issuer).number == 8
    (folder / "device.crl").write_bytes(b"torn")
    assert revocation.write(folder, _list(made, 7), issuer)


@pytest.mark.parametrize("text", ["", "0", "-1", "xyz", "f" * 41, "1 2"])
def test_what_is_no_serial(text: str) -> None:
    """A serial is positive and has at most 20 octets (RFC 5280 section 4.1.2.2)."""
    assert revocation.serial_number(text) is None


def test_openssl_refuses_the_revoked(new_authority: Callable[..., Authority], world: World) -> None:
    """OpenSSL reads the list and refuses the certificate on it."""
    made = world.authority
    leaf = x509.load_der_x509_certificate(world.current)
    entry = Revocation(leaf.serial_number, b"", AT - 1000, AT + WEEK, Reason.ORDERED, 1)
    folder = new_authority().directory
    (folder / "leaf.pem").write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    bundle = made.directory / "device-ca" / "bundle.pem"
    errors = []
    for entries in ((), (entry,)):
        (folder / "list.pem").write_bytes(_list(made, 9, entries))
        ran = subprocess.run(
            ["openssl", "verify", "-crl_check", "-attime", str(int(NOW.timestamp()) + 60),
             "-CAfile", str(bundle), "-CRLfile", str(folder / "list.pem"),
             str(folder / "leaf.pem")],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        errors.append((ran.returncode, "certificate revoked" in ran.stderr))
    assert errors == [(0, False), (2, True)]
