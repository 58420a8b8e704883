"""An authority in a temporary folder, and a world of one device under it."""

import datetime
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pki import authority, profile, requests
from schemas.commands import SignCertificate

NOW = datetime.datetime(2026, 11, 24, 12, 0, tzinfo=datetime.UTC)
AT = int(NOW.timestamp() * 1000)
LIFETIME = datetime.timedelta(days=90)


@dataclass(frozen=True)
class World:
    """One device that asks for a new certificate."""

    authority: authority.Authority
    device_id: str
    current_key: ec.EllipticCurvePrivateKey
    current: bytes
    new_key: ec.EllipticCurvePrivateKey
    request: SignCertificate

    def asking(self, **changes: Any) -> SignCertificate:
        """The request with these fields changed."""
        return replace(self.request, **changes)

    def signed_by(
        self,
        *,
        device_id: str | None = None,
        new_key: Any = None,
        current_key: Any = None,
        current: bytes | None = None,
        nonce: bytes = b"n" * 32,
    ) -> SignCertificate:
        """A request whose signed part is made with these instead."""
        signed = requests.make_signing_request(
            device_id or self.device_id,
            new_key or self.new_key,
            current_key or self.current_key,
            current or self.current,
            nonce,
        )
        examined = requests.examine(signed, None)
        return replace(
            self.request,
            signed_request=signed,
            csr=examined.csr,
            current_certificate=current or self.current,
        )


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> authority.Authority:
    """One authority for all tests that only read it."""
    return authority.create(tmp_path_factory.mktemp("pki") / "authority", now=NOW)


@pytest.fixture
def new_authority(tmp_path: Path) -> Callable[..., authority.Authority]:
    """Make further authorities, each in its own folder."""

    def make(name: str = "authority", **options: Any) -> authority.Authority:
        return authority.create(tmp_path / name, now=NOW, **options)

    return make


@pytest.fixture(scope="session")
def world(made: authority.Authority) -> World:
    """A device `pump-17` whose certificate is valid, and its honest request."""
    current_key, new_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    start = NOW - datetime.timedelta(days=60)
    current = profile.issue_device(
        made, "pump-17", current_key.public_key(), "first", start, LIFETIME
    )
    nonce = b"n" * 32
    signed = requests.make_signing_request("pump-17", new_key, current_key, current, nonce)
    csr = requests.examine(signed, hashlib.sha256(current).digest()).csr
    request = SignCertificate("sign-1", "pump-17", signed, csr, nonce, current, AT - 300_000, AT)
    return World(made, "pump-17", current_key, current, new_key, request)
