"""A first certificate: who may order one, for which request, and what a repeat gets."""

import datetime
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from pki import authority, ledger, path, registrar, requests
from pki.authority import Authority
from pki.issuer import Policy
from schemas.commands import SignFirstCertificate
from schemas.events import DeviceRegistered, SigningRefused
from schemas.reasons import Reason
from tests.pki.conftest import AT, NOW

DAY_MS = 86_400_000
KEY = ec.generate_private_key(ec.SECP256R1())


def service(made: Authority, **uses: bool) -> tuple[bytes, Any]:
    """Return a service certificate (DER) of these uses, and its key."""
    pem, key = authority.issue_service(made, "alice", [], now=NOW, **uses)
    der = x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)
    return der, serialization.load_pem_private_key(key, None)


def spoilt(csr: bytes) -> bytes:
    """Return a CSR with the last bit of its signature turned."""
    return csr[:-1] + bytes((csr[-1] ^ 1,))


def order(
    by: tuple[bytes, Any], device_id: str = "lamp-1", csr: bytes = b"", **changes: Any
) -> SignFirstCertificate:
    """Return an order of a device's first certificate."""
    csr = csr or requests.make_csr("lamp-1", KEY)
    wanted = replace(registrar.Order(csr, "lamp", ("mqtt",), AT), **changes)
    return SignFirstCertificate("first-1", device_id, registrar.order(wanted, *by))


@pytest.fixture(scope="module")
def alice(made: Authority) -> tuple[bytes, Any]:
    """A registrar."""
    return service(made, client=False, server=False, registrar=True)


def asked(
    made: Authority,
    record: SignFirstCertificate,
    at: int = AT,
    state: ledger.State | None = None,
) -> Any:
    """Return the issuer's answer, by the same two steps as its process."""
    state = ledger.State() if state is None else state
    policy = Policy(door_anchors=(made.service.certificate,))
    noted = ledger.note(state, record, state.next_offset, at)
    return ledger.answer(state, record, noted, at, made.device, policy)


def test_a_registrar_registers_a_device_with_its_first_certificate(
    made: Authority, alice: tuple[bytes, Any]
) -> None:
    """One event: the device, its certificate under the device CA, who ordered it."""
    given = asked(made, order(alice))
    assert isinstance(given, DeviceRegistered)
    assert (given.device_id, given.device_type, given.protocols) == ("lamp-1", "lamp", ("mqtt",))
    assert given.actor == "alice"
    verdict = path.validate_device(given.certificate.der, made.device.anchors, NOW)
    assert (verdict.accepted, verdict.device_id) == (True, "lamp-1")
    held = x509.load_der_x509_certificate(given.certificate.der)
    assert held.public_key() == KEY.public_key()
    assert held.not_valid_after_utc - held.not_valid_before_utc == Policy().lifetime


def test_an_order_repeated_gives_the_same_certificate(
    made: Authority, alice: tuple[bytes, Any]
) -> None:
    """Within a day, whenever it was signed; another key of the device is another certificate."""
    state = ledger.State()
    first = asked(made, order(alice), state=state)
    later = AT + DAY_MS // 2
    assert asked(made, order(alice, ordered_at=later), later, state) == first
    other = requests.make_csr("lamp-1", ec.generate_private_key(ec.SECP256R1()))
    assert asked(made, order(alice, csr=other), AT, state) != first
    fresh = asked(made, order(alice, ordered_at=AT + 3 * DAY_MS), AT + 3 * DAY_MS, state)
    assert fresh.certificate.not_before_at > first.certificate.not_before_at
    assert fresh.certificate.serial != first.certificate.serial


def test_a_standby_that_reads_from_the_start_answers_alike(
    made: Authority, alice: tuple[bytes, Any]
) -> None:
    """Folding without answering leaves the same memory."""
    first, second = ledger.State(), ledger.State()
    given = asked(made, order(alice), state=first)
    ledger.note(second, order(alice), 0, AT)
    assert asked(made, order(alice, ordered_at=AT + 5_000), AT + 5_000, second) == given
    assert first.ordered == second.ordered


@pytest.mark.parametrize(
    "uses",
    [{"client": True, "server": True}, {"client": False, "registration": True}],
    ids=["a service", "a door"],
)
def test_no_other_service_may_order(made: Authority, uses: dict[str, bool]) -> None:
    """Neither a bridge nor a door that vouches for devices: the mark is the registrar's own."""
    refused = asked(made, order(service(made, **uses)))
    assert isinstance(refused, SigningRefused)
    assert refused.reason == Reason.WRONG_SIGNATURE


def test_a_registrar_of_another_authority_may_not_order(
    made: Authority, new_authority: Any
) -> None:
    """The mark counts under our service CA only; without an anchor nobody's does."""
    theirs = service(new_authority("theirs"), client=False, server=False, registrar=True)
    assert asked(made, order(theirs)).reason == Reason.WRONG_SIGNATURE
    ours = service(made, client=False, server=False, registrar=True)
    alone = registrar.judge(order(ours), made.device, Policy(), AT, AT)
    assert alone.reason == Reason.WRONG_SIGNATURE


def test_a_key_that_is_not_the_certificates_orders_nothing(
    made: Authority, alice: tuple[bytes, Any]
) -> None:
    """A registrar's certificate is public; its key is not."""
    stolen = (alice[0], ec.generate_private_key(ec.SECP256R1()))
    assert asked(made, order(stolen)).reason == Reason.WRONG_SIGNATURE


def test_a_registrar_is_let_in_nowhere_and_vouches_for_nobody(
    made: Authority, alice: tuple[bytes, Any]
) -> None:
    """Its certificate is for neither side of TLS, and is no door's."""
    leaf, anchors = x509.load_der_x509_certificate(alice[0]), (made.service.certificate,)
    uses = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(uses) == [path.REGISTRAR]
    assert not path.is_registration_authority(leaf, anchors, NOW)
    assert not path.is_service(leaf, path.REGISTRAR, anchors, NOW + datetime.timedelta(days=4_000))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device_id": "lamp-2"}, Reason.WRONG_SUBJECT),
        ({"csr": requests.make_csr("lamp-2", KEY)}, Reason.WRONG_SUBJECT),
        (
            {"csr": requests.make_csr("lamp-1", rsa.generate_private_key(65_537, 1_024))},
            Reason.WEAK_KEY,
        ),
        ({"csr": spoilt(requests.make_csr("lamp-1", KEY))}, Reason.WRONG_SIGNATURE),
        ({"csr": b"garbage"}, Reason.MALFORMED),
        ({"device_type": "x" * 65}, Reason.MALFORMED),
        ({"protocols": ("mqtt",) * 9}, Reason.MALFORMED),
        ({"ordered_at": AT - 2 * DAY_MS}, Reason.CLOCK_OFF),
        ({"ordered_at": AT + DAY_MS}, Reason.CLOCK_OFF),
    ],
)
def test_what_the_issuer_refuses_has_its_reason(
    made: Authority, alice: tuple[bytes, Any], changes: dict[str, Any], reason: Reason
) -> None:
    """A request for another device above all: CSR, order and record name one."""
    refused = asked(made, order(alice, **changes))
    assert isinstance(refused, SigningRefused)
    assert (refused.reason, refused.request_id) == (reason.value, "first-1")


@pytest.mark.parametrize("signed", [b"", b"\xd2\x84", b"garbage" * 9])
def test_garbage_is_refused_and_nothing_else(made: Authority, signed: bytes) -> None:
    """The issuer goes on."""
    refused = asked(made, SignFirstCertificate("first-1", "lamp-1", signed))
    assert refused.reason == Reason.MALFORMED
