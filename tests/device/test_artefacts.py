"""What a device takes for an update: signed by a key it trusts, whole, and not too large."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from device import artefacts as judged
from device.artefacts import BYTES_MAX, Unreached, UpdateFailed
from tests.helpers.artefacts import KEY_ID, Artefacts


def test_ecdsa_over_the_artefact_is_good(artefacts: Artefacts) -> None:
    """As openssl makes it; over another digest, or of another key, it is not."""
    update = artefacts.offer("1", b"one")
    assert judged.objection(update, artefacts.keys) == ""
    assert "not one of key" in judged.objection(replace(update, sha256=b"x" * 32), artefacts.keys)
    assert "not one of key" in judged.objection(replace(update, sha256=b"x"), artefacts.keys)
    assert "not one of key" in judged.objection(replace(update, signature=b""), artefacts.keys)
    other = {KEY_ID: ec.generate_private_key(ec.SECP256R1()).public_key()}
    assert "not one of key" in judged.objection(update, other)
    assert "no key 'release-2'" in judged.objection(
        replace(update, key_id="release-2"), artefacts.keys
    )


def test_openssl_signs_as_the_documentation_says(artefacts: Artefacts, tmp_path: Path) -> None:
    """Both ways of docs/updates.md: `dgst -sign` for ECDSA, `pkeyutl` over the digest else."""
    update = artefacts.offer("1", b"one")
    (tmp_path / "one").write_bytes(b"one")
    (tmp_path / "digest").write_bytes(update.sha256)
    other = ed25519.Ed25519PrivateKey.generate()
    ways = {
        "dgst -sha256 -sign key one": artefacts.key,
        "pkeyutl -sign -inkey key -rawin -in digest": other,
    }
    for words, key in ways.items():
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (tmp_path / "key").write_bytes(pem)
        made = subprocess.run(
            ["openssl", *words.split()], cwd=tmp_path, capture_output=True, check=True
        )
        signed = replace(update, signature=made.stdout)
        assert judged.objection(signed, {KEY_ID: key.public_key()}) == ""


def test_ed25519_over_the_digest_is_good(artefacts: Artefacts) -> None:
    """So that nobody needs the whole artefact in memory."""
    key = ed25519.Ed25519PrivateKey.generate()
    update = artefacts.offer("1", b"one")
    update = replace(update, signature=key.sign(update.sha256))
    assert judged.objection(update, {KEY_ID: key.public_key()}) == ""
    wrong = replace(update, signature=key.sign(b"one"))
    assert judged.objection(wrong, {KEY_ID: key.public_key()}) != ""


def test_only_keys_that_sign_artefacts_are_read(tmp_path: Path) -> None:
    """ECDSA and Ed25519; another kind is named with its file."""
    for key in (ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate(),
                rsa.generate_private_key(65537, 2048)):  # fmt: skip
        path = tmp_path / "key.pem"
        public = key.public_key()
        path.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        if isinstance(key, rsa.RSAPrivateKey):
            with pytest.raises(ValueError, match=r"key\.pem: artefacts are signed with"):
                judged.public_key(path)
        else:
            assert judged.public_key(path) == public


def test_an_artefact_is_fetched_whole(artefacts: Artefacts, tmp_path: Path) -> None:
    """With its size told, or left out."""
    update = artefacts.offer("1", bytes(range(256)) * 1_000)
    for number, size in enumerate((update.size, 0)):
        into = tmp_path / str(number)
        judged.fetch(replace(update, size=size), into, lambda: True)
        assert into.read_bytes() == artefacts.held["/pump-1.bin"]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"sha256": b"x" * 32}, UpdateFailed, "another digest"),
        ({"size": 2}, UpdateFailed, "larger than announced"),
        ({"size": 4}, Unreached, "3 bytes of 4 came"),
        ({"size": -1}, UpdateFailed, "the limit is"),
        ({"size": BYTES_MAX + 1}, UpdateFailed, "the limit is"),
        ({"uri": "file:///etc/passwd"}, UpdateFailed, "neither http"),
        ({"uri": "http://127.0.0.1:1/x"}, Unreached, "ConnectionRefusedError"),
        ({"uri": "http://[::1"}, UpdateFailed, "no address"),
        ({"uri": "http://127.0.0.1:99999/x"}, UpdateFailed, "no address"),
    ],
)
def test_what_is_wrong_is_told(
    artefacts: Artefacts,
    tmp_path: Path,
    change: dict[str, object],
    error: type[UpdateFailed],
    words: str,
) -> None:
    """And whether another try may help."""
    update = replace(artefacts.offer("1", b"one"), **change)  # type: ignore[arg-type] # a table
    with pytest.raises(UpdateFailed, match=words) as raised:
        judged.fetch(update, tmp_path / "x", lambda: True)
    assert raised.type is error


@pytest.mark.parametrize(("status", "error"), [(404, UpdateFailed), (302, UpdateFailed),
                                               (503, Unreached)])  # fmt: skip
def test_only_a_server_that_may_recover_is_asked_again(
    artefacts: Artefacts, tmp_path: Path, status: int, error: type[UpdateFailed]
) -> None:
    """A redirection is not followed."""
    update, artefacts.answers = artefacts.offer("1", b"one"), status
    with pytest.raises(UpdateFailed, match=f"answered {status}") as raised:
        judged.fetch(update, tmp_path / "x", lambda: True)
    assert raised.type is error


def test_a_fetch_that_nobody_wants_any_more_ends(artefacts: Artefacts, tmp_path: Path) -> None:
    """An agent that stops does not wait for the rest."""
    with pytest.raises(Unreached, match="given up"):
        judged.fetch(artefacts.offer("1", b"one"), tmp_path / "x", lambda: False)
