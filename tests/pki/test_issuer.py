"""The issuer's judgement: what it signs, and each of its refusals."""

from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from pki import facts, issuer, path, profile
from pki.authority import Authority
from pki.issuer import Policy, Refusal
from schemas.commands import SignCertificate
from schemas.reasons import Reason
from tests.pki.conftest import AT, LIFETIME, NOW, World

POLICY = Policy()
DAY_MS = 86_400_000


def _judge(
    world: World, request: SignCertificate, revoked: Any = frozenset(), at: int = AT
) -> bytes | Refusal:
    return issuer.judge(request, world.authority.device, POLICY, revoked, at)


def _reason(world: World, request: SignCertificate, **options: Any) -> Reason:
    judged = _judge(world, request, **options)
    assert isinstance(judged, Refusal), "signed"
    return judged.reason


def test_an_honest_request_is_signed(world: World) -> None:
    """The new certificate is a valid one of the device, for the new key, as asked."""
    der = _judge(world, world.request)
    assert isinstance(der, bytes)
    verdict = path.validate_device(der, world.authority.device.anchors, NOW)
    assert (verdict.accepted, verdict.device_id) == (True, "pump-17")
    certificate = x509.load_der_x509_certificate(der)
    assert certificate.public_key() == world.new_key.public_key()
    assert facts.facts(der).not_before_at == world.request.not_before_at


def test_judging_twice_gives_the_same_bytes(world: World) -> None:
    """A crash between signing and publishing is repaired by signing again."""
    assert _judge(world, world.request) == _judge(world, world.request, at=AT + 1000)


def test_garbage_is_malformed(world: World) -> None:
    """A signed request that is none is refused, not raised."""
    assert _reason(world, world.asking(signed_request=b"x")) is Reason.MALFORMED


def test_another_csr_beside_the_signed_one_is_malformed(world: World) -> None:
    """The CSR of the record must be the signed one."""
    assert _reason(world, world.asking(csr=world.request.csr + b"x")) is Reason.MALFORMED


@pytest.mark.parametrize("nonce", [b"other", b""])
def test_another_nonce_is_refused(world: World, nonce: bytes) -> None:
    """The nonce of the record must be the signed one, and there must be one."""
    assert _reason(world, world.asking(nonce=nonce)) is Reason.WRONG_NONCE
    assert _reason(world, world.signed_by(nonce=nonce)) is Reason.WRONG_NONCE


def test_a_csr_for_another_device_is_refused(world: World) -> None:
    """No device asks for another."""
    assert _reason(world, world.signed_by(device_id="pump-18")) is Reason.WRONG_SUBJECT


def test_another_device_s_certificate_is_refused(world: World) -> None:
    """The current certificate must be the device's own."""
    key = ec.generate_private_key(ec.SECP256R1())
    other = profile.issue_device(world.authority, "pump-18", key.public_key(), "o", NOW, LIFETIME)
    request = world.signed_by(current_key=key, current=other)
    assert _reason(world, request) is Reason.WRONG_SUBJECT


def test_a_request_signed_by_another_key_is_refused(world: World) -> None:
    """Only the current key may ask."""
    request = world.signed_by(current_key=ec.generate_private_key(ec.SECP256R1()))
    assert _reason(world, request) is Reason.WRONG_SIGNATURE


def test_another_current_certificate_than_the_signed_one_is_refused(world: World) -> None:
    """The certificate of the record must be that of the signed request."""
    other = profile.issue_device(
        world.authority, "pump-17", world.current_key.public_key(), "o", NOW, LIFETIME
    )
    assert _reason(world, world.asking(current_certificate=other)) is Reason.WRONG_SIGNATURE


@pytest.mark.parametrize(
    "key",
    [rsa.generate_private_key(65537, 1024), ec.generate_private_key(ec.SECP521R1())],
    ids=["RSA-1024", "P-521"],
)
def test_a_weak_new_key_is_refused(world: World, key: Any) -> None:
    """Keys outside the policy are not certified."""
    assert _reason(world, world.signed_by(new_key=key)) is Reason.WEAK_KEY


def test_the_current_key_is_not_certified_again(world: World) -> None:
    """A rotation without a new key is none."""
    assert _reason(world, world.signed_by(new_key=world.current_key)) is Reason.KEY_REUSED


def test_a_foreign_authority_s_device_is_refused(
    world: World, new_authority: Callable[..., Authority]
) -> None:
    """The current certificate must be one of ours."""
    other = new_authority("other")
    foreign = profile.issue_device(
        other, "pump-17", world.current_key.public_key(), "f", NOW, LIFETIME
    )
    assert _reason(world, world.signed_by(current=foreign)) is Reason.FINGERPRINT_UNKNOWN


def test_a_revoked_certificate_asks_in_vain(world: World) -> None:
    """A current certificate on the list is refused."""
    serial = x509.load_der_x509_certificate(world.current).serial_number
    assert _reason(world, world.request, revoked={serial}) is Reason.CERTIFICATE_RETIRED


@pytest.mark.parametrize(("days", "reason"), [(40, None), (61, Reason.EXPIRED)])
def test_an_expired_certificate_asks_within_its_grace(
    world: World, days: int, reason: Reason | None
) -> None:
    """The certificate ends in 30 days; with 30 days of grace it may ask until day 60."""
    at = AT + days * DAY_MS
    request = world.asking(requested_at=at, not_before_at=at)
    judged = _judge(world, request, at=at)
    assert (judged.reason if isinstance(judged, Refusal) else None) is reason


@pytest.mark.parametrize(
    "changes",
    [
        {"requested_at": AT + 2 * DAY_MS, "not_before_at": AT + 2 * DAY_MS},
        {"requested_at": AT - 2 * DAY_MS, "not_before_at": AT - 2 * DAY_MS},
        {"not_before_at": AT + 1},
        {"not_before_at": AT - DAY_MS},
        {"requested_at": 1 << 62, "not_before_at": 1 << 62},
        {"requested_at": -(1 << 62)},
    ],
)
def test_instants_far_from_the_broker_s_are_refused(world: World, changes: dict[str, int]) -> None:
    """Neither the machine nor whoever forges its records chooses the time."""
    assert _reason(world, world.asking(**changes)) is Reason.CLOCK_OFF


def _newcomer(world: World, maker: Authority, device_id: str = "pump-17") -> SignCertificate:
    """Return a request under a certificate of a maker's CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    der = profile.issue_device(maker, device_id, key.public_key(), "made", NOW, LIFETIME)
    return world.signed_by(current_key=key, current=der)


def test_a_maker_s_certificate_gets_a_device_its_first_one(
    world: World, new_authority: Callable[..., Authority]
) -> None:
    """Where its CA is a provisioning anchor: for the device that it names, for a new key."""
    maker = new_authority("maker")
    trusting = Policy(provisioning_anchors=(maker.device.certificate,))
    request = _newcomer(world, maker)
    der = issuer.judge(request, world.authority.device, trusting, frozenset(), AT)
    assert isinstance(der, bytes)
    assert path.validate_device(der, world.authority.device.anchors, NOW).device_id == "pump-17"
    assert _reason(world, request) is Reason.FINGERPRINT_UNKNOWN
    other = issuer.judge(
        _newcomer(world, maker, "pump-18"), world.authority.device, trusting, frozenset(), AT
    )
    assert isinstance(other, Refusal)
    assert other.reason is Reason.WRONG_SUBJECT
    stranger = issuer.judge(
        _newcomer(world, new_authority("stranger")),
        world.authority.device, trusting, frozenset(), AT,
    )  # fmt: skip
    assert isinstance(stranger, Refusal)
    assert stranger.reason is Reason.FINGERPRINT_UNKNOWN
