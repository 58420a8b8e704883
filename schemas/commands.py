"""What is asked of devices and doors (`device.commands`, `device.invitations`) and of the issuer.

Commands are imperative, carry their own id, an expiry and a counter per device. An expired one
is never delivered.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RotateCertificate:
    """Make a new key, and answer with a CSR and this nonce, signed by the current key."""

    command_id: str
    device_id: str
    counter: int
    issued_at: int
    expires_at: int
    nonce: bytes


@dataclass(frozen=True, slots=True)
class InstallCertificate:
    """Install this certificate beside the old one and reconnect with it."""

    command_id: str
    device_id: str
    counter: int
    issued_at: int
    expires_at: int
    certificate: bytes


@dataclass(frozen=True, slots=True)
class DropCertificate:
    """The old certificate is retired: remove it and its key. Sent when the new one is proven."""

    command_id: str
    device_id: str
    counter: int
    issued_at: int
    expires_at: int
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class InstallUpdate:
    """Fetch, check and install this artefact; answer `accepted`, then `done` or `failed`.

    `size` is bytes. `sha256` is the artefact's digest, `signature` that of `key_id` over it.
    """

    command_id: str
    device_id: str
    counter: int
    issued_at: int
    expires_at: int
    kind: str
    name: str
    version: str
    uri: str
    size: int
    sha256: bytes
    signature: bytes
    key_id: str


@dataclass(frozen=True, slots=True)
class RefuseCertificate:
    """For doors: refuse new sessions under this certificate, close the open ones. Never expires."""

    command_id: str
    device_id: str
    counter: int
    issued_at: int
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class RefuseRenewal:
    """For doors: whoever waits for a certificate on this key gets none. `reason` is a Reason's.

    A renewal that succeeds is told by InstallCertificate. Never expires: nobody waits for long.
    """

    command_id: str
    device_id: str
    counter: int
    issued_at: int
    spki_sha256: bytes
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class SignCertificate:
    """For the issuer: the accepted request, with all it needs to check everything again.

    `signed_request` is signed by the current certificate's key, or by a door that vouches for it.
    """

    request_id: str
    device_id: str
    signed_request: bytes
    csr: bytes
    nonce: bytes
    current_certificate: bytes
    not_before_at: int
    requested_at: int


@dataclass(frozen=True, slots=True)
class RevokeCertificate:
    """For the issuer: put this certificate on the list; `reason` is the value of a Reason."""

    request_id: str
    device_id: str
    fingerprint: bytes
    serial: str
    not_after_at: int
    revoked_at: int
    reason: str


@dataclass(frozen=True, slots=True)
class SignFirstCertificate:
    """For the issuer: a registrar orders a device's first certificate, and that it be registered.

    All that is ordered stands in `signed_order` (pki/registrar.py), signed by the registrar.
    """

    request_id: str
    device_id: str
    signed_order: bytes


@dataclass(frozen=True, slots=True)
class SignInvited:
    """For the issuer: an invited device came to a door of EST with its token and its request.

    All of it stands in `signed_order` (pki/invitation.py), signed by the door.
    """

    request_id: str
    device_id: str
    signed_order: bytes


@dataclass(frozen=True, slots=True)
class InviteDevice:
    """For doors of EST: this device may enrol once, with the token of the invitation.

    `invitation` is signed by a registrar (pki/invitation.py); an empty one withdraws what was.
    """

    device_id: str
    invitation: bytes


@dataclass(frozen=True, slots=True)
class AnswerInvited:
    """For doors of EST: the issuer's answer to an invited device's request.

    `verifier` is what the invitation keeps of its token, `spki_sha256` the key that used it;
    `certificate` is empty where it was refused, and `reason` a Reason's value.
    """

    request_id: str
    device_id: str
    verifier: bytes
    spki_sha256: bytes
    certificate: bytes
    reason: str
    detail: str


ForDevice = RotateCertificate | InstallCertificate | DropCertificate | InstallUpdate
ForDoor = RefuseCertificate | RefuseRenewal
ForIssuer = SignCertificate | RevokeCertificate | SignFirstCertificate | SignInvited
ForEnrolment = InviteDevice | AnswerInvited
Command = ForDevice | ForDoor
