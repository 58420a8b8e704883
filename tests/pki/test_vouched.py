"""A door's word for a device (EST): what the issuer takes, and whose word it never takes."""

import datetime
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pki import authority, issuer, path, profile, requests
from pki.issuer import Policy, Refusal
from schemas.commands import SignCertificate
from schemas.reasons import Reason
from tests.pki.conftest import AT, NOW, World

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Door:
    """A door with its certificate and key."""

    leaf: bytes
    key: Any

    def vouches(self, world: World, **changes: Any) -> SignCertificate:
        """Return the request that it vouches for, with these fields of the signed part changed."""
        parts = {"csr": world.request.csr, "nonce": b"door", "current_certificate": world.current}
        signed = requests.vouch(**(parts | changes), leaf=self.leaf, key=self.key)
        return world.asking(signed_request=signed, nonce=b"door")


def door(made: authority.Authority, **options: Any) -> Door:
    """Return a door that the service CA has marked, unless told otherwise."""
    wanted = {"registration": True, "client": False, "now": NOW} | options
    certificate, key = authority.issue_service(made, "est", ["localhost"], **wanted)
    leaf = x509.load_pem_x509_certificate(certificate)
    return Door(
        leaf.public_bytes(serialization.Encoding.DER),
        serialization.load_pem_private_key(key, None),
    )


def judge(world: World, request: SignCertificate, *, trusting: bool = True) -> bytes | Refusal:
    """Let the issuer judge; not `trusting`, it knows no CA of doors."""
    anchors = (world.authority.service.certificate,) if trusting else ()
    return issuer.judge(
        request, world.authority.device, Policy(door_anchors=anchors), frozenset(), AT
    )


def reason(world: World, request: SignCertificate, **how: Any) -> Reason:
    """Return why the issuer refuses."""
    judged = judge(world, request, **how)
    assert isinstance(judged, Refusal), "signed"
    return judged.reason


def test_a_door_of_ours_may_vouch(world: World) -> None:
    """The certificate is that of an honest request, for the key of the CSR."""
    der = judge(world, door(world.authority).vouches(world))
    assert isinstance(der, bytes)
    verdict = path.validate_device(der, world.authority.device.anchors, NOW)
    assert (verdict.accepted, verdict.device_id) == (True, world.device_id)
    made = x509.load_der_x509_certificate(der)
    assert made.public_key() == world.new_key.public_key()


@pytest.mark.parametrize(
    "options",
    [
        {"registration": False},
        {"now": NOW - 100 * DAY},
        {"now": NOW + 2 * DAY},
    ],
    ids=["not marked", "expired", "not yet valid"],
)
def test_a_service_that_is_no_registration_authority_may_not(
    world: World, options: dict[str, Any]
) -> None:
    """A bridge's key alone is worth nothing: the mark and its time are looked at."""
    request = door(world.authority, **options).vouches(world)
    assert reason(world, request) is Reason.WRONG_SIGNATURE


def test_another_service_ca_s_door_may_not(world: World, new_authority: Any) -> None:
    """The issuer believes the doors of its own service CA, and none where it is told of none."""
    request = door(new_authority("other")).vouches(world)
    assert reason(world, request) is Reason.WRONG_SIGNATURE
    ours = door(world.authority).vouches(world)
    assert reason(world, ours, trusting=False) is Reason.WRONG_SIGNATURE


def test_a_device_may_not_vouch_for_itself(world: World) -> None:
    """A device's certificate is no door's, whatever labels it signs."""
    request = Door(world.current, world.current_key).vouches(world)
    assert reason(world, request) is Reason.WRONG_SIGNATURE


def test_a_forged_signature_is_none(world: World) -> None:
    """The door's certificate under somebody else's signature."""
    stolen = Door(door(world.authority).leaf, ec.generate_private_key(ec.SECP256R1()))
    assert reason(world, stolen.vouches(world)) is Reason.WRONG_SIGNATURE


def test_the_word_is_about_one_certificate(world: World) -> None:
    """What was vouched for under one certificate is worth nothing under another."""
    request = door(world.authority).vouches(world, current_certificate=b"another")
    assert reason(world, request) is Reason.WRONG_SIGNATURE


def test_the_current_certificate_is_judged_as_always(world: World) -> None:
    """A door's word does not replace the device CA's signature or the revocation list."""
    request = door(world.authority).vouches(world)
    serial = x509.load_der_x509_certificate(world.current).serial_number
    anchors = (world.authority.service.certificate,)
    judged = issuer.judge(
        request, world.authority.device, Policy(door_anchors=anchors), {serial}, AT
    )
    assert isinstance(judged, Refusal)
    assert judged.reason is Reason.CERTIFICATE_RETIRED


def test_a_door_s_form_is_no_device_s_answer(world: World) -> None:
    """Over MQTT a device cannot send a door's form: it is malformed there, and the other way."""
    vouched = door(world.authority).vouches(world).signed_request
    fingerprint = hashlib.sha256(world.current).digest()
    with pytest.raises(requests.MalformedRequest):
        requests.examine(vouched, fingerprint)
    with pytest.raises(requests.MalformedRequest):
        requests.examine_vouched(world.request.signed_request, fingerprint, lambda _: True)
    assert requests.is_vouched(vouched)
    assert not requests.is_vouched(world.request.signed_request)
    assert not requests.is_vouched(b"garbage")


def test_a_door_may_vouch_for_a_maker_s_certificate(
    world: World, new_authority: Callable[..., authority.Authority]
) -> None:
    """Where its CA is a provisioning anchor; the door's word alone is not enough."""
    maker, key = new_authority("maker"), ec.generate_private_key(ec.SECP256R1())
    made = profile.issue_device(maker, world.device_id, key.public_key(), "made", NOW, 90 * DAY)
    request = replace(
        door(world.authority).vouches(world, current_certificate=made), current_certificate=made
    )
    assert reason(world, request) is Reason.FINGERPRINT_UNKNOWN
    trusting = Policy(
        door_anchors=(world.authority.service.certificate,),
        provisioning_anchors=(maker.device.certificate,),
    )
    der = issuer.judge(request, world.authority.device, trusting, frozenset(), AT)
    assert isinstance(der, bytes)
    assert path.validate_device(der, world.authority.device.anchors, NOW).accepted
