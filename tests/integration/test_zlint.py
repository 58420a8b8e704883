"""zlint, written by nobody here, on everything that the authorities sign."""

import datetime
import json
import subprocess
import tomllib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from pki import authority, ledger, profile
from tests.helpers.zlint import zlint as build_zlint

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime.datetime(2026, 11, 24, 12, 0, tzinfo=datetime.UTC)
BAD = {"warn", "error", "fatal"}
PUBLIC_ONLY = "CABF_BR,CABF_EV,CABF_CS_BR,CABF_SMIME_BR,Mozilla,Apple,ETSI_ESI"
"""Sources for certificates of public authorities; ours are private."""

KEYS = {
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
    "RSA-2048": rsa.generate_private_key(65537, 2048),
}


@pytest.fixture(scope="session")
def zlint() -> Path:
    """The linter."""
    return build_zlint()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> authority.Authority:
    """An authority."""
    return authority.create(tmp_path_factory.mktemp("zlint") / "pki", now=NOW)


def _complaints(zlint: Path, pem: bytes, kind: str, *options: str) -> dict[str, str]:
    """The lints that complain and are no exception of ours."""
    ran = subprocess.run(
        [str(zlint), *options], input=pem, capture_output=True, check=True, timeout=60
    )
    results = json.loads(ran.stdout)
    assert sum(one["result"] == "pass" for one in results.values()) > 10, "it linted nothing"
    exceptions = tomllib.loads((ROOT / "pki" / "zlint-exceptions.toml").read_text())[kind]
    return {
        name: one["result"]
        for name, one in results.items()
        if one["result"] in BAD and name not in exceptions
    }


@pytest.mark.parametrize("key", KEYS)
def test_a_device_certificate_passes_every_lint(
    zlint: Path, made: authority.Authority, key: str
) -> None:
    """No lint of any source complains about a device certificate."""
    der = profile.issue_device(
        made, "pump-17", KEYS[key].public_key(), "r", NOW, datetime.timedelta(days=90)
    )
    pem = x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
    assert _complaints(zlint, pem, "device") == {}


@pytest.mark.parametrize("device_id", ["plant.example.com", "10.0.0.1", "x" * 64])
def test_every_device_id_passes_every_lint(
    zlint: Path, made: authority.Authority, device_id: str
) -> None:
    """Nor about one whose id looks like a DNS name or an address."""
    der = profile.issue_device(
        made, device_id, KEYS["P-256"].public_key(), "r", NOW, datetime.timedelta(days=90)
    )
    pem = x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
    assert _complaints(zlint, pem, "device") == {}


def test_a_service_certificate_passes_the_rfc_lints(zlint: Path, made: authority.Authority) -> None:
    """No lint complains but those for public authorities, which ours is not."""
    pem, _ = authority.issue_service(made, "broker", ["broker.test", "127.0.0.1"], now=NOW)
    assert _complaints(zlint, pem, "service", "-excludeSources", PUBLIC_ONLY) == {}


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("device-ca", "device-ca/ca.pem"),
        ("service-ca", "service-ca/ca.pem"),
        ("root", "root/root.pem"),
    ],
)
def test_a_ca_certificate_passes_the_rfc_lints(
    zlint: Path, made: authority.Authority, kind: str, path: str
) -> None:
    """No lint complains but those for public authorities."""
    pem = (made.directory / path).read_bytes()
    assert _complaints(zlint, pem, kind, "-excludeSources", PUBLIC_ONLY) == {}


def test_the_revocation_list_passes_every_lint(zlint: Path, made: authority.Authority) -> None:
    """No lint of any source complains about the list."""
    pem = ledger.crl(ledger.State(), made.device, int(NOW.timestamp() * 1000))
    ran = subprocess.run([str(zlint)], input=pem, capture_output=True, check=True, timeout=60)
    results = json.loads(ran.stdout)
    assert any(one["result"] == "pass" for one in results.values())
    assert {name for name, one in results.items() if one["result"] in BAD} == set()
