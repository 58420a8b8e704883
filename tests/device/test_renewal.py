"""A device renews at a renewal door by itself: when, how often, and what it installs."""

import asyncio
import contextlib
import datetime
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from device import provision
from device.agent import Agent
from device.door import CoapDoor, HttpsDoor, door
from device.provision import DeviceCa
from device.renewal import Denied, Later, Pace, Renewal, due_at
from device.store import Identity, Store
from pki.requests import make_csr
from tests.coap.rig import Authorities
from tests.device.authorities import ADDRESS, make_ca
from tests.device.conftest import Bridge, Broker
from tests.device.test_agent_over_mqtt import QUICK, Notes
from tests.est.rig import running
from tests.helpers.wait import printed, until_async

CA = make_ca("a device CA")


class Answers:
    """A door: raises what it is told to raise, then certifies for `seconds`."""

    def __init__(self, ca: DeviceCa, *problems: Exception, names: str = "lamp") -> None:
        self.ca, self.problems, self.names = ca, list(problems), names
        self.asked: list[tuple[str, bytes]] = []

    async def renew(self, identity: Identity, csr: bytes) -> bytes:
        """Answer."""
        request = x509.load_der_x509_csr(csr)
        spki = request.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.asked.append((identity.fingerprint, spki))
        if self.problems:
            raise self.problems.pop(0)
        made = provision.issue(self.ca, self.names, request.public_key(), 365 * 86_400)  # type: ignore[arg-type]
        return made.public_bytes(serialization.Encoding.DER)


class Watched(Store):
    """Counts how often it was looked at."""

    looks = 0

    def identities(self) -> list[Identity]:
        """Count, and return them."""
        self.looks += 1
        return super().identities()

    async def looked_at(self) -> None:
        """Wait until it was looked at a few times more."""
        enough = self.looks + 5
        await until_async(lambda: self.looks >= enough, describe="it looks again")


def lamp_store(folder: Path, seconds: int = 60) -> Watched:
    """Return the store of device `lamp`, whose certificate ends in `seconds`."""
    provision.provision(CA, "lamp", folder, seconds)
    return Watched(folder)


@contextlib.asynccontextmanager
async def renewing(store: Store, at: Answers, pace: Pace) -> AsyncIterator[list[Identity]]:
    """Renew for the time of the block; yields what was installed."""
    installed: list[Identity] = []
    task = asyncio.create_task(Renewal("lamp", store, at, installed.append, pace).run())
    try:
        yield installed
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


SOON = Pace(0.4, 0.0, again_seconds=0.01, again_seconds_max=0.05, look_seconds=0.01)
"""`lamp_store` backdates by a minute: of two minutes, the half has passed."""


async def test_it_asks_again_with_the_same_key_until_there_is_a_certificate(tmp_path: Path) -> None:
    """Under the certificate in use; the new one lies beside the old one, and is not due."""
    store = lamp_store(tmp_path)
    old = store.current().fingerprint
    at = Answers(CA, Later("away"), Later("made", 0.0), Denied("no"), Later("away"))
    async with renewing(store, at, SOON) as installed:
        await until_async(lambda: installed, describe="installed")
        await store.looked_at()
    assert [fingerprint for fingerprint, _ in at.asked] == [old] * 5
    assert len({spki for _, spki in at.asked}) == 1
    assert {one.fingerprint for one in store.identities()} == {old, installed[0].fingerprint}
    assert store.current().fingerprint == old
    assert list((tmp_path / "pending").iterdir()) == []


async def test_a_certificate_that_is_not_due_is_left_alone(tmp_path: Path) -> None:
    """Nobody is asked."""
    at, store = Answers(CA), lamp_store(tmp_path, 3_600)
    async with renewing(store, at, Pace(look_seconds=0.01)):
        await store.looked_at()
    assert at.asked == []


async def test_what_is_not_for_this_device_is_not_installed(tmp_path: Path) -> None:
    """Another name, or bytes that are no certificate: asked again, the old one stays."""
    store, at = lamp_store(tmp_path), Answers(CA, names="another")
    async with renewing(store, at, SOON) as installed:
        await until_async(lambda: len(at.asked) >= 3, describe="asked again")
    assert installed == []
    assert len(store.identities()) == 1


@given(
    days=st.integers(1, 800),
    serial=st.integers(1, 2**120),
    share=st.floats(0.5, 0.9),
    spread=st.floats(0.0, 0.09),
)
def test_it_is_due_before_the_end_and_after_the_fleet_s_own_order(
    days: int, serial: int, share: float, spread: float
) -> None:
    """At the share or up to the spread later, wherever in it."""
    began = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC)
    made = certificate(began, datetime.timedelta(days=days), serial)
    passed = (due_at(made, Pace(share, spread)) - began.timestamp()) / (days * 86_400)
    assert share - 1e-6 <= passed <= share + spread + 1e-6
    usual = (due_at(made, Pace()) - began.timestamp()) / (days * 86_400)
    assert 2 / 3 < usual < 1


def certificate(
    began: datetime.datetime, lifetime: datetime.timedelta, serial: int
) -> x509.Certificate:
    """Return a certificate of this time and serial number."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    return x509.CertificateBuilder(
        name, name, key.public_key(), serial, began, began + lifetime
    ).sign(key, hashes.SHA256())


async def test_the_agent_changes_to_the_new_certificate(
    lamp: Path, broker: Broker, bridge: Bridge, ca: DeviceCa
) -> None:
    """The session under the old one ends, the next begins under the new: as in a rotation."""
    old, notes, at = Store(lamp).current().fingerprint, Notes(), Answers(ca, Later("away"))
    agent = Agent(
        "lamp", lamp, ADDRESS, broker.port, broker.ca_file,
        settings=QUICK, observer=notes, renewal_door=at, pace=Pace(0.01, 0.0, 0.3),
    )  # fmt: skip
    async with agent.running():
        await until_async(lambda: len(set(notes.sessions)) == 2, describe="both were used")
        agent.stop()
    assert notes.sessions[0] == old
    assert Store(lamp).current().fingerprint == notes.sessions[-1] != old
    assert old in {one.fingerprint for one in Store(lamp).identities()}


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Authorities:
    """A PKI whose door may vouch for devices."""
    return Authorities(tmp_path_factory.mktemp("est"))


async def test_the_https_door_is_a_client_of_est(authorities: Authorities, tmp_path: Path) -> None:
    """A certificate; 202 and Retry-After while it is made; refusals in the door's words; away."""
    async with running(authorities, tmp_path) as est:
        device = authorities.device("lamp")
        identity = Identity("", device.key_file, device.certificate_file)
        at = door(f"https://localhost:{est.port}", authorities.service_ca)
        key = ec.generate_private_key(ec.SECP256R1())
        csr = make_csr("lamp", key)
        made = x509.load_der_x509_certificate(await at.renew(identity, csr))
        assert made.public_key() == key.public_key()
        est.bridge._renewals._patience_seconds, est.machine.silent = 0.05, True
        with pytest.raises(Later) as later:
            await at.renew(identity, csr)
        assert later.value.seconds == 5.0
        with pytest.raises(Denied, match="400: malformed"):
            await at.renew(identity, b"no CSR")
    with pytest.raises(Later):
        await at.renew(identity, csr)


def test_a_door_has_an_address(tmp_path: Path) -> None:
    """Of one of three schemes, with its usual port."""
    assert isinstance(door("https://est.example", tmp_path), HttpsDoor)
    assert isinstance(door("coaps://[::1]:5685", tmp_path), CoapDoor)
    for wrong in ("est.example:8443", "http://est.example", "https://", "https://a/b"):
        with pytest.raises(ValueError, match="coaps\\+tcp"):
            door(wrong, tmp_path)


async def test_an_invited_device_enrols_by_the_program(
    authorities: Authorities, tmp_path: Path
) -> None:
    """`enrol`, the token from standard input: a store with its first certificate; again the same.

    A wrong token and a door that is away are one line each, and exit code 1.
    """
    async with running(authorities, tmp_path) as est:
        token = await est.invite("lamp")
        address = f"https://localhost:{est.port}"

        async def enrol(shown: str, *options: str) -> tuple[int, str, str]:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "device", "enrol", "--id", "lamp"),
                *("--dir", str(tmp_path / "lamp"), "--door", address),
                *("--ca", str(authorities.service_ca), *options),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            said, errors = await printed(process, 30, f"{shown}\n".encode())
            return process.returncode or 0, said.decode().strip(), errors.decode()

        status, _, errors = await enrol("wrong")
        assert (status, errors.count("\n")) == (1, 1)
        assert errors.startswith("error: 401: invitation-unknown")
        assert not Store(tmp_path / "lamp").identities()
        status, fingerprint, errors = await enrol(token)
        assert (status, errors) == (0, "")
        assert Store(tmp_path / "lamp").current().fingerprint == fingerprint
        assert await enrol(token) == (0, fingerprint, "")
        (tmp_path / "lamp").rename(tmp_path / "elsewhere")
        status, _, errors = await enrol(token)
        assert (status, errors.startswith("error: 403: invitation-spent")) == (1, True)
        assert token not in "".join(
            one.read_text() for one in (tmp_path / "elsewhere").rglob("*") if one.is_file()
        )
    status, _, errors = await enrol(token, "--within", "0")
    assert (status, errors.startswith("error: ConnectionRefusedError")) == (1, True)
