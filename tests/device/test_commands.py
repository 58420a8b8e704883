"""What the device answers when it is asked."""

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from device import provision
from device.artefacts import UpdateFailed
from device.commands import Handlers
from device.misbehaviour import BEHAVIOURS
from device.payloads import Command
from device.provision import DeviceCa
from device.store import Store
from pki.requests import examine
from schemas.artefact import Artefact

NONCE = b"n" * 32


def asked(type: str, command_id: str = "c-1", **fields: Any) -> Command:
    """Return a command without expiry."""
    return Command(command_id, type, 0, 0, fields)


def test_rotation_answers_with_a_request_signed_by_the_current_key(lamp: Path) -> None:
    """The issuer's own examination accepts the request, and finds nonce and id in it."""
    store = Store(lamp)
    reply = Handlers("lamp", store).answer(asked("RotateCertificate", nonce=NONCE))
    assert reply.outcome == "done"
    verdict = examine(reply.extra["signing_request"], bytes.fromhex(store.current().fingerprint))
    assert (verdict.nonce, verdict.subject, verdict.key_accepted) == (NONCE, "lamp", True)
    assert verdict.csr_signature_valid
    assert verdict.request_signature_valid


def test_a_redelivered_rotation_asks_for_the_same_key(lamp: Path) -> None:
    """The request may differ in its signature, never in its key."""
    keys = set()
    for _ in range(2):
        reply = Handlers("lamp", Store(lamp)).answer(asked("RotateCertificate", nonce=NONCE))
        keys.add(examine(reply.extra["signing_request"], None).spki_sha256)
    assert len(keys) == 1


def test_installing_proposes_the_new_identity(lamp: Path, ca: DeviceCa) -> None:
    """The reply is `done`, and the handlers say which identity to switch to."""
    store = Store(lamp)
    key = store.pending_key("r-1")
    certificate = provision.issue(ca, "lamp", key.public_key(), 60)
    handlers = Handlers("lamp", store)
    raw = certificate.public_bytes(serialization.Encoding.DER)
    assert handlers.answer(asked("InstallCertificate", certificate=raw)).outcome == "done"
    assert handlers.switch_to is not None
    assert store.find(handlers.switch_to) is not None


@pytest.mark.parametrize(
    "command",
    [
        asked("SelfDestruct"),
        asked("RotateCertificate"),
        asked("RotateCertificate", nonce=b""),
        asked("InstallCertificate", certificate=b"garbage"),
        asked("DropCertificate", fingerprint=b"short"),
        asked("DropCertificate", fingerprint="no base64!"),
    ],
    ids=lambda command: f"{command.type}-{len(command.fields)}",
)
def test_what_makes_no_sense_is_refused(lamp: Path, command: Command) -> None:
    """Unknown commands and malformed fields get `refused` with a detail, no exception."""
    reply = Handlers("lamp", Store(lamp)).answer(command)
    assert reply.outcome == "refused"
    assert reply.detail


def test_the_identity_in_use_is_kept(lamp: Path) -> None:
    """DropCertificate for the only identity is refused; for an unknown one it is done."""
    store = Store(lamp)
    handlers = Handlers("lamp", store)
    current = bytes.fromhex(store.current().fingerprint)
    assert handlers.answer(asked("DropCertificate", fingerprint=current)).outcome == "refused"
    assert handlers.answer(asked("DropCertificate", fingerprint=bytes(32))).outcome == "done"


def test_expiry_is_judged_by_server_times_alone(lamp: Path) -> None:
    """A command is expired when a later command's issue time says so, whatever the clock."""
    handlers = Handlers("lamp", Store(lamp))
    fields = {"nonce": NONCE}
    assert handlers.answer(Command("a", "RotateCertificate", 100, 200, fields)).outcome == "done"
    handlers.answer(Command("b", "RotateCertificate", 300, 400, fields))
    late = handlers.answer(Command("a", "RotateCertificate", 100, 200, fields))
    assert (late.outcome, late.detail) == ("refused", "expired")


@pytest.mark.parametrize(
    ("behaviour", "subject", "nonce_kept", "key_accepted"),
    [
        ("honest", "lamp", True, True),
        ("names-another", "lamp-other", True, True),
        ("wrong-nonce", "lamp", False, True),
        ("weak-key", "lamp", True, False),
    ],
)
def test_each_wrong_request_is_wrong_in_one_way(
    lamp: Path, behaviour: str, subject: str, nonce_kept: bool, key_accepted: bool
) -> None:
    """A misbehaving device's request has exactly its own fault, and valid signatures."""
    handlers = BEHAVIOURS[behaviour].handlers_type("lamp", Store(lamp))
    reply = handlers.answer(asked("RotateCertificate", nonce=NONCE))
    verdict = examine(reply.extra["signing_request"], None)
    assert verdict.subject == subject
    assert (verdict.nonce == NONCE) is nonce_kept
    assert verdict.key_accepted is key_accepted
    assert verdict.request_signature_valid


def test_a_device_may_refuse_rotation(lamp: Path) -> None:
    """`refuses-rotation` answers with `refused`."""
    handlers = BEHAVIOURS["refuses-rotation"].handlers_type("lamp", Store(lamp))
    assert handlers.answer(asked("RotateCertificate", nonce=NONCE)).outcome == "refused"


UPDATE: dict[str, Any] = {
    "kind": "firmware", "name": "pump", "version": "2", "uri": "https://x", "size": 5,
    "sha256": b"d" * 32, "signature": b"s", "key_id": "k",
}  # fmt: skip


def test_a_device_without_an_installer_refuses_updates(lamp: Path) -> None:
    """It says so; nothing else happens."""
    reply = Handlers("lamp", Store(lamp)).answer(asked("InstallUpdate", **UPDATE))
    assert (reply.outcome, reply.detail) == ("refused", "this device takes no updates")


def test_an_update_is_handed_to_the_installer(lamp: Path) -> None:
    """Whole; done when it returns, failed with its words when it cannot."""
    handlers, seen = Handlers("lamp", Store(lamp)), []
    handlers.installer = seen.append
    assert handlers.answer(asked("InstallUpdate", **UPDATE)).outcome == "done"
    assert seen == [Artefact(**UPDATE)]

    def broken(update: Artefact) -> None:
        raise UpdateFailed(f"{update.version}: wrong signature")

    handlers.installer = broken
    reply = handlers.answer(asked("InstallUpdate", **UPDATE))
    assert (reply.outcome, reply.detail) == ("failed", "2: wrong signature")


@pytest.mark.parametrize("change", [{"size": "5"}, {"uri": None}, {"sha256": 5}])
def test_a_malformed_update_is_refused(lamp: Path, change: dict[str, Any]) -> None:
    """The installer is not asked."""
    handlers, seen = Handlers("lamp", Store(lamp)), []
    handlers.installer = seen.append
    assert handlers.answer(asked("InstallUpdate", **(UPDATE | change))).outcome == "refused"
    assert seen == []
