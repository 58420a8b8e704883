"""A device that holds no certificate yet enrols by a token, once: RFC 7030 section 3.2.3.

    invitation  COSE_Sign1 (RFC 9052) by a registrar: whom it invites, until when, with what token
      payload   CBOR {4: device type, 5: protocols, 6: invited at, 7: device id, 8: expires at,
                      9: verifier}
    order       COSE_Sign1 by a door of EST (id-kp-cmcRA): the device came and showed the token
      payload   CBOR {1: PKCS #10 in DER (RFC 2986), 10: invitation, 11: proof}

    proof = SHA-256(device id, token)      verifier = SHA-256(proof)

Rules of this file: nobody keeps the token. The invitation holds the verifier, so that who reads it
cannot enrol; a door learns the proof when the device comes, so that a stolen door cannot enrol a
device that never came to it. The issuer believes neither alone, and checks all of it. `judge` reads
no clock and keeps nothing; that an invitation is used once is the ledger's to know.
"""

import base64
import datetime
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import Any

import cbor2
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from pki import cose, facts, issuer, keys, path, registrar, requests
from pki.authority import DeviceCA
from pki.registrar import CSR, DEVICE_TYPE, PROTOCOLS
from schemas.commands import SignInvited
from schemas.events import DeviceRegistered
from schemas.reasons import Reason

INVITED_AT, DEVICE_ID, EXPIRES_AT, VERIFIER, INVITATION, PROOF = 6, 7, 8, 9, 10, 11
"""The labels of the payloads, beside those of a registrar's order."""
LIFETIME_MAX = datetime.timedelta(days=30)
TOKEN_BYTES = 20
"""160 bits: whoever guesses a thousand tokens a second finds none in the life of the sun."""
DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class Invited:
    """What an invitation says. Instants are milliseconds since 1970."""

    device_id: str
    device_type: str
    protocols: tuple[str, ...]
    invited_at: int
    expires_at: int
    verifier: bytes


@dataclass(frozen=True, slots=True)
class Order:
    """What a door's order says, and who signed its two parts; nothing of it is judged yet."""

    csr: bytes
    proof: bytes
    invited: Invited
    by_door: cose.Sign1
    by_registrar: cose.Sign1

    @property
    def proven(self) -> bool:
        """Tell whether the device showed the token that the invitation is for."""
        return hmac.compare_digest(hashlib.sha256(self.proof).digest(), self.invited.verifier)

    @property
    def spki(self) -> bytes:
        """The digest of the CSR's key. Raises requests.MalformedRequest."""
        return keys.spki_sha256(requests.load_csr(self.csr)[1])


def new_token() -> str:
    """Return a token: 32 letters and digits, for HTTP Basic as it is."""
    return base64.b32encode(secrets.token_bytes(TOKEN_BYTES)).decode().lower()


def proof(device_id: str, token: str) -> bytes:
    """Return what a door shows of a token."""
    return hashlib.sha256(f"fleetcert invitation\0{device_id}\0{token}".encode()).digest()


def verifier(device_id: str, token: str) -> bytes:
    """Return what is kept of a token."""
    return hashlib.sha256(proof(device_id, token)).digest()


def invite(invited: Invited, leaf: bytes, key: PrivateKeyTypes) -> bytes:
    """Return the invitation, signed by a registrar's key; `leaf` is its certificate in DER."""
    payload = {
        DEVICE_TYPE: invited.device_type,
        PROTOCOLS: list(invited.protocols),
        INVITED_AT: invited.invited_at,
        DEVICE_ID: invited.device_id,
        EXPIRES_AT: invited.expires_at,
        VERIFIER: invited.verifier,
    }
    return cose.sign(cbor2.dumps(payload), leaf, key)


def order(csr: bytes, invitation: bytes, shown: bytes, leaf: bytes, key: PrivateKeyTypes) -> bytes:
    """Return a door's order: this CSR (DER) came with the proof `shown` of this invitation."""
    return cose.sign(cbor2.dumps({CSR: csr, INVITATION: invitation, PROOF: shown}), leaf, key)


def read_invitation(signed: bytes) -> tuple[Invited, cose.Sign1]:
    """Return what an invitation says, whoever signed it. Raises requests.MalformedRequest only."""
    wanted = {DEVICE_TYPE, PROTOCOLS, INVITED_AT, DEVICE_ID, EXPIRES_AT, VERIFIER}
    content, message = _content(signed, wanted)
    protocols = content[PROTOCOLS]
    sound = (
        registrar.is_description(content[DEVICE_TYPE], protocols)
        and registrar.is_text(content[DEVICE_ID])
        and type(content[INVITED_AT]) is int
        and type(content[EXPIRES_AT]) is int
        and _is_digest(content[VERIFIER])
    )
    if not sound:
        raise requests.MalformedRequest("a part of the invitation has the wrong type or length")
    invited = Invited(
        content[DEVICE_ID],
        content[DEVICE_TYPE],
        tuple(protocols),
        content[INVITED_AT],
        content[EXPIRES_AT],
        content[VERIFIER],
    )
    return invited, message


def read(signed: bytes) -> Order:
    """Return what a door's order says, whoever signed it. Raises requests.MalformedRequest only."""
    content, message = _content(signed, {CSR, INVITATION, PROOF})
    csr, invitation = content[CSR], content[INVITATION]
    if not isinstance(csr, bytes) or not isinstance(invitation, bytes):
        raise requests.MalformedRequest("a CSR or an invitation that is no byte string")
    if not _is_digest(content[PROOF]):
        raise requests.MalformedRequest(f"the proof is not of {DIGEST_BYTES} bytes")
    invited, by_registrar = read_invitation(invitation)
    return Order(csr, content[PROOF], invited, message, by_registrar)


def judge(
    record: SignInvited, ca: DeviceCA, policy: issuer.Policy, first_at: int, at: int
) -> DeviceRegistered | issuer.Refusal:
    """Return the device as registered with its first certificate, or why there is none.

    `at` is the broker's time of the record, `first_at` that of the first one with this invitation:
    the same key gets the same certificate, byte for byte.
    """
    try:
        asked = read(record.signed_order)
        door = facts.load_certificate(asked.by_door.chain[0])
        operator = facts.load_certificate(asked.by_registrar.chain[0])
        csr, key = requests.load_csr(asked.csr)
    except (requests.MalformedRequest, facts.MalformedCertificate) as error:
        return issuer.Refusal(Reason.MALFORMED, str(error))
    invited, now, anchors = asked.invited, facts.instant(at), policy.door_anchors
    checks = (
        (
            path.is_registration_authority(door, anchors, now)
            and registrar.signed_by(asked.by_door, door),
            Reason.WRONG_SIGNATURE,
            "no door of ours signed the order",
        ),
        (
            path.is_service(operator, path.REGISTRAR, anchors, now)
            and registrar.signed_by(asked.by_registrar, operator),
            Reason.WRONG_SIGNATURE,
            "no registrar of ours signed the invitation",
        ),
        (
            invited.device_id == record.device_id,
            Reason.WRONG_SUBJECT,
            "the invitation is another device's",
        ),
        (asked.proven, Reason.INVITATION_UNKNOWN, "the token is another"),
        (
            invited.invited_at - _ms(policy.lead_max) <= at <= invited.expires_at
            and invited.expires_at - invited.invited_at <= _ms(LIFETIME_MAX),
            Reason.INVITATION_EXPIRED,
            "the record's broker time lies outside of the invitation",
        ),
    )
    for holds, reason, why in checks:
        if not holds:
            return issuer.Refusal(reason, why)
    refusal = registrar.unfit(record.device_id, csr, key)
    if refusal is not None:
        return refusal
    actor = (
        f"{registrar.name_of(operator)}, by invitation {invited.verifier.hex()[:8]} "
        f"at {registrar.name_of(door)}"
    )
    described = (invited.device_type, invited.protocols)
    return registrar.registered(record.device_id, key, described, actor, ca, policy, first_at)


def _content(signed: bytes, labels: set[int]) -> tuple[dict[int, Any], cose.Sign1]:
    try:
        message = cose.parse(signed)
        content = cose.decode(message.payload)
    except cose.Malformed as error:
        raise requests.MalformedRequest(str(error)) from error
    if not cose.is_map(content) or set(content) != labels:
        raise requests.MalformedRequest(f"the payload must be a map of {sorted(labels)}")
    return content, message


def _is_digest(value: object) -> bool:
    return isinstance(value, bytes) and len(value) == DIGEST_BYTES


def _ms(span: datetime.timedelta) -> int:
    return span // datetime.timedelta(milliseconds=1)
