"""Which certificates are those of a device of ours, now."""

import datetime
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from pki import path
from pki.authority import Authority, key_usage
from schemas.reasons import Reason
from tests.pki.conftest import NOW, World

DAY = datetime.timedelta(days=1)
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
ANY = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE
KEY = ec.generate_private_key(ec.SECP256R1())
RSA_1024 = rsa.generate_private_key(65537, 1024)
URI = x509.UniformResourceIdentifier
OURS = (URI("urn:fleetcert:device:pump-17"),)


def _leaf(
    ca: Any,
    *,
    common_name: str = "pump-17",
    sans: Any = OURS,
    usages: Any = (CLIENT,),
    key: Any = KEY,
    start: datetime.datetime = NOW - DAY,
    end: datetime.datetime = NOW + DAY,
    is_ca: bool = False,
    extra: Any = None,
) -> bytes:
    """A certificate that the device CA signs although the profile would not allow it."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .issuer_name(ca.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key()), False
        )
        .add_extension(key_usage(digital_signature=True, key_cert_sign=is_ca), True)
    )
    if sans:
        builder = builder.add_extension(x509.SubjectAlternativeName(list(sans)), False)
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(list(usages)), False)
    if is_ca:
        builder = builder.add_extension(x509.BasicConstraints(True, None), True)
    if extra is not None:
        builder = builder.add_extension(*extra)
    signed = builder.sign(ca.key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.DER)


def _judged(made: Authority, der: bytes, **options: Any) -> path.Verdict:
    return path.validate_device(der, made.device.anchors, NOW, **options)


def test_our_own_certificate_is_accepted(world: World) -> None:
    """A certificate of the profile is accepted and names its device."""
    verdict = _judged(world.authority, world.current)
    assert (verdict.accepted, verdict.device_id) == (True, "pump-17")


def test_anchors_may_be_pem(world: World) -> None:
    """The anchors may be given as one PEM text."""
    pem = world.authority.device.certificate.public_bytes(serialization.Encoding.PEM)
    assert path.validate_device(world.current, pem, NOW).accepted


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"usages": (SERVER,)}, Reason.FINGERPRINT_UNKNOWN),
        ({"usages": (ANY,)}, Reason.FINGERPRINT_UNKNOWN),
        ({"usages": (CLIENT, SERVER)}, Reason.FINGERPRINT_UNKNOWN),
        ({"usages": ()}, Reason.FINGERPRINT_UNKNOWN),
        ({"is_ca": True}, Reason.FINGERPRINT_UNKNOWN),
        ({"end": NOW - datetime.timedelta(seconds=1)}, Reason.EXPIRED),
        ({"start": NOW + datetime.timedelta(seconds=1)}, Reason.CLOCK_OFF),
        ({"key": RSA_1024}, Reason.WEAK_KEY),
        ({"key": ec.generate_private_key(ec.SECP521R1())}, Reason.WEAK_KEY),
        ({"common_name": "pump-18"}, Reason.WRONG_SUBJECT),
        ({"common_name": "a/b", "sans": (URI("urn:fleetcert:device:a/b"),)}, Reason.WRONG_SUBJECT),
        ({"sans": (URI("urn:other:device:pump-17"),)}, Reason.WRONG_SUBJECT),
        (
            {"sans": (URI("urn:fleetcert:device:pump-17"), URI("urn:fleetcert:device:pump-18"))},
            Reason.WRONG_SUBJECT,
        ),
        ({"sans": (x509.DNSName("pump-17"),)}, Reason.WRONG_SUBJECT),
        (
            {"extra": (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\x05\x00"),
                       True)},
            Reason.FINGERPRINT_UNKNOWN,
        ),
    ],
)  # fmt: skip
def test_what_our_ca_should_not_have_signed_is_refused(
    made: Authority, changes: dict[str, Any], reason: Reason
) -> None:
    """Wrong usage, instants, key, name or extension is refused, each with its Reason."""
    assert _judged(made, _leaf(made.device, **changes)).reason is reason


def test_without_san_there_is_no_device(made: Authority) -> None:
    """A CN alone names no device, whatever the library thinks of the path."""
    verdict = _judged(made, _leaf(made.device, sans=()))
    assert (verdict.accepted, verdict.device_id) == (False, "")


def test_a_ca_of_the_same_name_is_not_ours(
    made: Authority, new_authority: Callable[..., Authority]
) -> None:
    """The key signs, not the name: another authority's certificates are unknown."""
    other = new_authority("other")
    assert other.device.certificate.subject == made.device.certificate.subject
    verdict = _judged(made, _leaf(other.device))
    assert verdict.reason is Reason.FINGERPRINT_UNKNOWN


def test_a_service_certificate_is_no_device(made: Authority) -> None:
    """A certificate under the service CA is not accepted as a device's."""
    assert _judged(made, _leaf(made.service)).reason is Reason.FINGERPRINT_UNKNOWN


def test_a_revoked_serial_is_refused(world: World) -> None:
    """A serial on the list is refused."""
    serial = x509.load_der_x509_certificate(world.current).serial_number
    verdict = _judged(world.authority, world.current, refused_serials={serial})
    assert verdict.reason is Reason.CERTIFICATE_RETIRED


def test_the_end_of_validity_is_inclusive(made: Authority) -> None:
    """RFC 5280 section 4.1.2.5: the last second of validity still counts."""
    assert _judged(made, _leaf(made.device, end=NOW)).accepted


@pytest.mark.parametrize(("late", "accepted"), [(DAY, True), (3 * DAY, False)])
def test_grace_lengthens_the_end(made: Authority, late: datetime.timedelta, accepted: bool) -> None:
    """Within the grace an expired certificate counts, behind it no more."""
    leaf = _leaf(made.device, start=NOW - 9 * DAY, end=NOW - late)
    assert _judged(made, leaf, grace=2 * DAY).accepted is accepted


def test_an_expired_ca_vouches_for_no_one(made: Authority, world: World) -> None:
    """Grace is for devices: under an expired CA nothing is accepted."""
    later = made.device.certificate.not_valid_after_utc + DAY
    verdict = path.validate_device(
        world.current, made.device.anchors, later, grace=datetime.timedelta(days=10_000)
    )
    assert verdict.reason is Reason.FINGERPRINT_UNKNOWN


def test_bits_of_a_signature_that_are_called_unused_make_no_second_certificate(
    made: Authority,
) -> None:
    """The libraries verify it all the same, and its fingerprint is another."""
    der = next(der for der in iter(lambda: _leaf(made.device), b"") if not der[-1] % 2)
    changed = bytearray(der)
    changed[-len(x509.load_der_x509_certificate(der).signature) - 1] = 1
    read = x509.load_der_x509_certificate(bytes(changed))
    read.verify_directly_issued_by(made.device.certificate)
    assert _judged(made, der).accepted
    assert _judged(made, bytes(changed)).reason is Reason.MALFORMED


@given(st.binary(max_size=400))
def test_garbage_is_refused(data: bytes) -> None:
    """Bytes that are no certificate are malformed, never an exception."""
    assert path.validate_device(data, [], NOW).reason is Reason.MALFORMED
