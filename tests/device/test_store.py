"""The key store: identities beside each other, pointers, and what is refused."""

import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from device import provision
from device.identities import Choice
from device.provision import DeviceCa
from device.store import (
    PENDING_MAX,
    DropRefused,
    InstallRefused,
    NoIdentity,
    Store,
)


def der(certificate: x509.Certificate) -> bytes:
    """Return the certificate as it comes down."""
    return certificate.public_bytes(serialization.Encoding.DER)


def rotated(store: Store, ca: DeviceCa, command_id: str = "r-1") -> bytes:
    """Return a certificate for the pending key of a command."""
    key = store.pending_key(command_id)
    return der(provision.issue(ca, "lamp", key.public_key(), 3600))


def test_an_empty_store_has_no_identity(tmp_path: Path) -> None:
    """Without a certificate `current` raises NoIdentity."""
    with pytest.raises(NoIdentity):
        Store(tmp_path).current()


def test_a_command_keeps_its_key(tmp_path: Path) -> None:
    """The same command redelivered, and after a restart, gets the same key."""
    first = Store(tmp_path).pending_key("r-1").public_key()
    assert Store(tmp_path).pending_key("r-1").public_key() == first
    assert Store(tmp_path).pending_key("r-2").public_key() != first


@pytest.mark.parametrize("command_id", ["..", "../../etc", "a/b", ".hidden", "topic:0:12"])
def test_a_command_id_stays_in_its_folder(tmp_path: Path, command_id: str) -> None:
    """Whatever characters a command id has, its key lies directly below pending/."""
    Store(tmp_path).pending_key(command_id)
    (key_file,) = tmp_path.rglob("key.pem")
    assert key_file.parent.parent == tmp_path / "pending"


def test_only_the_owner_reads_keys(lamp: Path) -> None:
    """Key files have mode 0600 and their folders 0700."""
    Store(lamp).pending_key("r-1")
    for path in lamp.rglob("key.pem"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_pending_keys_are_bounded(tmp_path: Path) -> None:
    """At most PENDING_MAX keys wait; the oldest gives way."""
    store = Store(tmp_path)
    for number in range(PENDING_MAX + 3):
        store.pending_key(f"r-{number}")
    assert len(list((tmp_path / "pending").iterdir())) == PENDING_MAX
    assert not (tmp_path / "pending" / "r-0").exists()


def test_a_new_certificate_lies_beside_the_old_one(lamp: Path, ca: DeviceCa) -> None:
    """After `install` both identities are usable and the old one is still current."""
    store = Store(lamp)
    old = store.current()
    new = store.install(rotated(store, ca), "lamp")
    assert {one.fingerprint for one in store.identities()} == {old.fingerprint, new.fingerprint}
    assert store.current() == old
    assert not list((lamp / "pending").iterdir())


def test_a_makers_certificate_is_marked_and_what_follows_it_is_not(
    tmp_path: Path, ca: DeviceCa
) -> None:
    """The mark stands beside the key for good; the fleet's own certificate has none."""
    store = Store(tmp_path)
    for command, provisioning in (("first", True), ("second", False)):
        key = store.pending_key(command).public_key()
        der = provision.issue(ca, "lamp", key, 60).public_bytes(serialization.Encoding.DER)
        made = store.install(der, "lamp", provisioning=provisioning)
        assert store.install(der, "lamp", provisioning=not provisioning) == made
        found = Store(tmp_path).find(made.fingerprint)
        assert found is not None
        assert found.provisioning is provisioning


def test_installing_twice_changes_nothing(lamp: Path, ca: DeviceCa) -> None:
    """A redelivered certificate is found, not refused."""
    store = Store(lamp)
    certificate = rotated(store, ca)
    assert store.install(certificate, "lamp") == store.install(certificate, "lamp")


def test_certificates_that_are_not_ours_are_refused(lamp: Path, ca: DeviceCa) -> None:
    """Another device's name, a foreign key and garbage are refused, and nothing changes."""
    store = Store(lamp)
    before = store.identities()
    pending = store.pending_key("r-1").public_key()
    foreign = ec.generate_private_key(ec.SECP256R1()).public_key()
    for certificate in (
        der(provision.issue(ca, "kettle", pending, 60)),
        der(provision.issue(ca, "lamp", foreign, 60)),
        b"garbage",
    ):
        with pytest.raises(InstallRefused):
            store.install(certificate, "lamp")
    assert store.identities() == before


def test_the_identity_in_use_is_never_dropped(lamp: Path, ca: DeviceCa) -> None:
    """`drop` removes an old identity, not the current one, not the candidate."""
    store = Store(lamp)
    old = store.current()
    new = store.install(rotated(store, ca), "lamp")
    store.propose(new.fingerprint)
    for kept in (old, new):
        with pytest.raises(DropRefused):
            store.drop(kept.fingerprint)
    store.settle(new.fingerprint)
    store.drop(old.fingerprint)
    store.drop(old.fingerprint)
    assert store.identities() == [store.current()] == [new]


def test_a_damaged_identity_is_not_used(lamp: Path, ca: DeviceCa) -> None:
    """When the current identity's key is spoilt, the store turns to another one."""
    store = Store(lamp)
    old = store.current()
    new = store.install(rotated(store, ca), "lamp")
    old.key_file.write_bytes(b"")
    assert store.current() == new


def test_a_damaged_pending_key_is_made_anew(lamp: Path, ca: DeviceCa) -> None:
    """It stands in nobody's way: not in its own command's, not in that of another certificate."""
    store = Store(lamp)
    spoilt = store.pending_key("spoilt")
    (lamp / "pending" / "spoilt" / "key.pem").write_bytes(bytes(200))
    new = store.install(rotated(store, ca), "lamp")
    assert new in store.identities()
    again = store.pending_key("spoilt")
    assert again.public_key() != spoilt.public_key()
    assert store.pending_key("spoilt").public_key() == again.public_key()


def test_the_old_identity_is_tried_after_refusals(lamp: Path, ca: DeviceCa) -> None:
    """The candidate comes first; after N refusals the old one; then the candidate again."""
    store = Store(lamp)
    old = store.current()
    new = store.install(rotated(store, ca), "lamp")
    store.propose(new.fingerprint)
    choice = Choice(store, refusals_max=2)
    picked = []
    for _ in range(5):
        identity = choice.pick()
        picked.append(identity)
        choice.refused(identity)
    assert picked == [new, new, old, old, new]


def test_what_worked_is_current_and_ends_the_trial(lamp: Path, ca: DeviceCa) -> None:
    """Success is written down, for the new identity as for the old one."""
    store = Store(lamp)
    new = store.install(rotated(store, ca), "lamp")
    store.propose(new.fingerprint)
    Choice(store).worked(new)
    assert Store(lamp).current() == new
    assert Store(lamp).candidate() is None
