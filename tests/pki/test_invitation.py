"""An invited device's first certificate: who may invite and order, and what a token is worth."""

import dataclasses
import datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pki import invitation, ledger, path, requests
from pki.authority import Authority
from pki.issuer import Policy
from schemas.commands import SignInvited
from schemas.events import DeviceRegistered, SigningRefused
from schemas.reasons import Reason
from tests.pki.conftest import AT, NOW
from tests.pki.test_registrar import service

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
KEYS = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]
TOKEN = invitation.new_token()
Signer = tuple[bytes, Any]


@dataclasses.dataclass(frozen=True)
class World:
    """An authority, a registrar, and a door of EST."""

    made: Authority
    operator: Signer
    door: Signer

    def invited(self, device_id: str = "lamp-1", token: str = TOKEN, **changes: Any) -> bytes:
        """Return an invitation, by a registrar of ours."""
        verifier = invitation.verifier(device_id, token)
        one = invitation.Invited(device_id, "lamp", ("mqtt",), AT, AT + DAY_MS, verifier)
        by = changes.pop("by", self.operator)
        return invitation.invite(dataclasses.replace(one, **changes), *by)

    def order(
        self,
        invited: bytes | None = None,
        device_id: str = "lamp-1",
        *,
        csr: bytes | None = None,
        token: str = TOKEN,
        by: Signer | None = None,
    ) -> SignInvited:
        """Return a door's order."""
        csr = csr if csr is not None else requests.make_csr(device_id, KEYS[0])
        proof = invitation.proof(device_id, token)
        signed = invitation.order(csr, invited or self.invited(), proof, *(by or self.door))
        return SignInvited("invited-1", device_id, signed)

    def asked(self, record: SignInvited, at: int = AT, state: ledger.State | None = None) -> Any:
        """Return the issuer's answer, by the same two steps as its process."""
        state = ledger.State() if state is None else state
        policy = Policy(door_anchors=(self.made.service.certificate,))
        noted = ledger.note(state, record, state.next_offset, at)
        return ledger.answer(state, record, noted, at, self.made.device, policy)

    def reason(self, record: SignInvited, at: int = AT, state: ledger.State | None = None) -> str:
        """Return why the issuer refuses."""
        refused = self.asked(record, at, state)
        assert isinstance(refused, SigningRefused)
        return refused.reason


@pytest.fixture(scope="module")
def world(made: Authority) -> World:
    """Whom the issuer knows."""
    alice = service(made, client=False, server=False, registrar=True)
    return World(made, alice, service(made, client=False, registration=True))


def test_an_invited_device_is_registered_with_its_first_certificate(world: World) -> None:
    """One event: the device, its certificate, who invited it, by which invitation, where."""
    given = world.asked(world.order())
    assert isinstance(given, DeviceRegistered)
    assert (given.device_id, given.device_type, given.protocols) == ("lamp-1", "lamp", ("mqtt",))
    mark = invitation.verifier("lamp-1", TOKEN).hex()[:8]
    assert given.actor == f"alice, by invitation {mark} at alice"
    verdict = path.validate_device(given.certificate.der, world.made.device.anchors, NOW)
    assert (verdict.accepted, verdict.device_id) == (True, "lamp-1")
    held = x509.load_der_x509_certificate(given.certificate.der)
    assert held.public_key() == KEYS[0].public_key()


def test_no_record_holds_the_token(world: World) -> None:
    """Neither what the operator writes nor what the door does; and none gives it away."""
    order = world.order()
    for written in (world.invited(), order.signed_order, repr(world.asked(order)).encode()):
        assert TOKEN.encode() not in written
    assert invitation.proof("lamp-1", TOKEN) not in world.invited()
    assert invitation.verifier("lamp-1", TOKEN) != invitation.verifier("lamp-2", TOKEN)
    assert len({invitation.new_token() for _ in range(100)}) == 100


def test_the_same_key_again_gets_the_same_certificate_and_another_key_none(world: World) -> None:
    """As long as the invitation lasts; what was refused for its key was not used."""
    state = ledger.State()
    first = world.asked(world.order(), state=state)
    assert world.asked(world.order(), AT + HOUR_MS, state) == first
    other = world.order(csr=requests.make_csr("lamp-1", KEYS[1]))
    assert world.reason(other, AT + HOUR_MS, state) == Reason.INVITATION_SPENT
    assert world.reason(world.order(), AT + 2 * DAY_MS, state) == Reason.INVITATION_EXPIRED


def test_a_standby_that_reads_from_the_start_answers_alike(world: World) -> None:
    """Folding without answering leaves the same memory; it is forgotten when nothing is lost."""
    first, second = ledger.State(), ledger.State()
    given = world.asked(world.order(), state=first)
    ledger.note(second, world.order(), 0, AT)
    assert world.asked(world.order(), AT + 5_000, second) == given
    assert first.spent == second.spent
    later = AT + 32 * DAY_MS
    fresh = world.invited(token="another", invited_at=later, expires_at=later + 1_000)
    world.asked(world.order(fresh, token="another"), later, first)
    assert list(first.spent) == [invitation.verifier("lamp-1", "another")]


def test_a_key_that_did_not_sign_orders_and_invites_nothing(world: World) -> None:
    """Certificates of registrars and doors are public; their keys are not."""
    for stolen in ((world.door[0], KEYS[2]), world.operator):
        assert world.reason(world.order(by=stolen)) == Reason.WRONG_SIGNATURE
    for stolen in ((world.operator[0], KEYS[2]), world.door):
        forged = world.invited(by=stolen)
        assert world.reason(world.order(forged)) == Reason.WRONG_SIGNATURE


def test_a_door_that_never_saw_the_token_enrols_nobody(world: World) -> None:
    """It reads every invitation, and holds a key that is believed: that is not enough."""
    state = ledger.State()
    verifier = invitation.verifier("lamp-1", TOKEN)
    csr = requests.make_csr("lamp-1", KEYS[1])
    replayed = invitation.order(csr, world.invited(), verifier, *world.door)
    record = SignInvited("invited-1", "lamp-1", replayed)
    assert world.reason(record, state=state) == Reason.INVITATION_UNKNOWN
    assert isinstance(world.asked(world.order(), state=state), DeviceRegistered)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"csr": requests.make_csr("lamp-2", KEYS[0])}, Reason.WRONG_SUBJECT),
        ({"device_id": "lamp-2"}, Reason.WRONG_SUBJECT),
        (
            {"csr": requests.make_csr("lamp-1", rsa.generate_private_key(65_537, 1_024))},
            Reason.WEAK_KEY,
        ),
        ({"csr": b"no CSR"}, Reason.MALFORMED),
        ({"invited": b"no invitation"}, Reason.MALFORMED),
        ({"token": "another"}, Reason.INVITATION_UNKNOWN),
    ],
)
def test_what_is_refused(world: World, changes: dict[str, Any], reason: Reason) -> None:
    """A Reason each, and nothing is signed."""
    assert world.reason(world.order(**changes)) == reason


@pytest.mark.parametrize(
    ("changes", "at"),
    [
        ({}, AT + DAY_MS + 1),
        ({"invited_at": AT + HOUR_MS}, AT),
        ({"expires_at": AT + 31 * DAY_MS}, AT),
    ],
    ids=["over", "not yet", "too long"],
)
def test_an_invitation_has_its_time(world: World, changes: dict[str, Any], at: int) -> None:
    """By the broker's clock, whatever a door thinks; and no longer than thirty days."""
    refused = world.reason(world.order(world.invited(**changes)), at)
    assert refused == Reason.INVITATION_EXPIRED


def test_a_removed_registrar_s_invitations_are_worth_nothing(world: World) -> None:
    """The mark counts while its certificate is valid."""
    later = NOW + datetime.timedelta(days=4_000)
    at = int(later.timestamp() * 1_000)
    order = world.order(world.invited(invited_at=at, expires_at=at + 1_000))
    assert world.reason(order, at) == Reason.WRONG_SIGNATURE


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=st.tuples(st.integers(0, 2_000), st.integers(1, 255)), cut=st.integers(0, 3))
def test_a_damaged_order_is_refused_with_a_reason(
    world: World, damage: tuple[int, int], cut: int
) -> None:
    """Whatever byte is another: no exception, no certificate, and the true one still gets its."""
    state, whole = ledger.State(), world.order()
    broken = bytearray(whole.signed_order)
    broken[damage[0] % len(broken)] ^= damage[1]
    record = dataclasses.replace(whole, signed_order=bytes(broken[: len(broken) - cut]))
    assert isinstance(world.asked(record, state=state), SigningRefused)


ATTEMPT = st.tuples(
    st.sampled_from(["lamp-1", "lamp-2"]),
    st.sampled_from(["right", "wrong"]),
    st.integers(0, 2),
    st.integers(0, 36),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(attempts=st.lists(ATTEMPT, max_size=8))
def test_one_invitation_never_makes_two_certificates(
    world: World, attempts: list[tuple[str, str, int, int]]
) -> None:
    """Whoever comes, in whatever order: the first key with the token has it, within its day."""
    state, made = ledger.State(), set()
    invited, expected = world.invited(token="right"), None
    for device_id, token, key, hour in sorted(attempts, key=lambda one: one[3]):
        csr = requests.make_csr(device_id, KEYS[key])
        order = world.order(invited, device_id, csr=csr, token=token)
        given = world.asked(order, AT + hour * HOUR_MS, state)
        right = (device_id, token) == ("lamp-1", "right") and hour <= 24
        if right and expected is None:
            expected = key
        assert isinstance(given, DeviceRegistered) == (right and key == expected)
        if isinstance(given, DeviceRegistered):
            made.add(given.certificate.der)
    assert len(made) <= 1


def test_doors_are_told_of_answers(world: World) -> None:
    """Which invitation, which key, and the certificate or why not; of nothing else."""
    record, other = world.order(), world.order(token="another")
    good, bad = (ledger.told(one, world.asked(one)) for one in (record, other))
    assert good is not None
    assert bad is not None
    verifier = invitation.verifier("lamp-1", TOKEN)
    assert (good.request_id, good.verifier, good.reason) == ("invited-1", verifier, "none")
    assert x509.load_der_x509_certificate(good.certificate).public_key() == KEYS[0].public_key()
    assert good.spki_sha256 == invitation.read(record.signed_order).spki
    assert (bad.certificate, bad.reason) == (b"", Reason.INVITATION_UNKNOWN)
    torn = SignInvited("invited-2", "lamp-1", b"")
    answer = ledger.told(torn, world.asked(torn))
    assert answer is not None
    assert (answer.verifier, answer.reason) == (b"", Reason.MALFORMED)
