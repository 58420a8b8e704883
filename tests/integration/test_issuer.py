"""The issuer on real Kafka: killed, stopped, lied to, flooded; one certificate per request."""

import signal
import stat
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from client.fleet import Fleet
from client.local.topics import create_topics
from configuration.cluster import Cluster
from pki import authority, facts, issuer, revocation
from schemas.commands import RevokeCertificate, SignCertificate
from schemas.events import CertificateIssued, CertificateRevoked, SigningRefused
from schemas.reasons import Reason
from schemas.topics import CERTIFICATE_REQUESTS, DEAD_LETTERS, DEVICE_EVENTS
from tests.helpers.issuer import Applicant, IssuerRun, now_ms, put
from tests.helpers.issuer import issuer as running
from tests.helpers.kafka import kafka_broker
from tests.helpers.wait import until

WITHIN = 20.0
DAY_MS = 86_400_000


@dataclass(frozen=True)
class World:
    """A Kafka and an authority; all tests use devices of their own."""

    bootstrap: str
    made: authority.Authority

    @property
    def pki(self) -> Path:
        """The authority's folder."""
        return self.made.directory

    def all_answers(self) -> dict[str, list[CertificateIssued | SigningRefused]]:
        """What the issuer said of each device's requests, in order."""
        found: dict[str, list[CertificateIssued | SigningRefused]] = defaultdict(list)
        for one in Fleet(self.bootstrap).read(DEVICE_EVENTS):
            if isinstance(one.record, CertificateIssued | SigningRefused):
                found[one.record.device_id].append(one.record)
        return found

    def answers(self, device_id: str) -> list[CertificateIssued | SigningRefused]:
        """What the issuer said of one device's requests, in order."""
        return self.all_answers()[device_id]

    def expected(self, request: SignCertificate) -> bytes:
        """The certificate that the request leads to, by the pure judgement."""
        (found,) = (
            one for one in Fleet(self.bootstrap).read(CERTIFICATE_REQUESTS) if one.record == request
        )
        judged = issuer.judge(request, self.made.device, issuer.Policy(), set(), found.at)
        assert isinstance(judged, bytes), judged
        return judged


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A Kafka with the topics, and an authority."""
    folder = tmp_path_factory.mktemp("issuer")
    made = authority.create(folder / "pki", now=datetime.now(UTC))
    with kafka_broker(folder / "kafka") as broker:
        create_topics(Cluster(broker.bootstrap), 1)
        yield World(broker.bootstrap, made)


def until_answered(world: World, device_id: str, count: int = 1, within: float = WITHIN) -> None:
    """Wait until a device has so many answers."""
    until(lambda: len(world.answers(device_id)) >= count, within, f"an answer to {device_id}")


def assert_one_certificate(world: World, request: SignCertificate) -> None:
    """Every answer is the certificate that the request leads to: one serial, the same bytes."""
    answers = world.answers(request.device_id)
    ders = {one.certificate.der for one in answers if isinstance(one, CertificateIssued)}
    assert ders == {world.expected(request)}
    assert all(isinstance(one, CertificateIssued) for one in answers)


def revocation_of(applicant: Applicant, **changes: object) -> RevokeCertificate:
    """Return the machine's order to revoke what a device holds."""
    held = facts.facts(applicant.certificate)
    record = RevokeCertificate(
        f"revoke-{applicant.device_id}", applicant.device_id, held.fingerprint, held.serial,
        held.not_after_at, now_ms(), Reason.CERTIFICATE_RETIRED.value,
    )  # fmt: skip
    return replace(record, **changes)  # type: ignore[arg-type]


def dies(run: IssuerRun) -> bool:
    """Tell whether the issuer was killed."""
    return run.process.poll() == -signal.SIGKILL


@pytest.mark.parametrize("point", ["after-sign", "after-publish"])
def test_killed_between_signing_and_committing_it_gives_the_same_bytes(
    world: World, point: str
) -> None:
    """Killed with -9 at the point and started anew: one certificate, byte for byte, at once."""
    applicant = Applicant(f"killed-{point}", world.made)
    request = applicant.asks()
    with running(world.bootstrap, world.pki, fault=f"issuer:{point}") as first:
        put(world.bootstrap, request)
        until(lambda: dies(first), WITHIN, "the issuer's death")
    with running(world.bootstrap, world.pki) as second:
        until_answered(world, applicant.device_id, 2 if point == "after-publish" else 1)
        until(lambda: second.metric("issuer_answer_seconds_count") >= 1, WITHIN, "the commit")
    assert_one_certificate(world, request)


def test_a_revocation_survives_a_kill_behind_the_list(world: World) -> None:
    """Killed with the list written and nothing said: the list stands, and its number is told."""
    applicant = Applicant("killed-revoking", world.made)
    record = revocation_of(applicant)
    with running(world.bootstrap, world.pki, fault="issuer:after-list") as first:
        put(world.bootstrap, record)
        until(lambda: dies(first), WITHIN, "the issuer's death")
    there = revocation.parse(
        (world.pki / "device-ca" / revocation.FILE).read_bytes(), world.made.device.certificate
    )
    assert int(record.serial, 16) in there.revoked
    with running(world.bootstrap, world.pki):
        (told,) = until(
            lambda: [
                one.record
                for one in Fleet(world.bootstrap).read(DEVICE_EVENTS)
                if isinstance(one.record, CertificateRevoked)
                and one.record.device_id == applicant.device_id
            ],
            WITHIN,
            "CertificateRevoked",
        )
    assert told.crl_number <= there.number


def test_the_standby_takes_over_from_a_killed_one(world: World) -> None:
    """Two run, the active one is killed: the other answers within seconds."""
    first, second = Applicant("before-takeover", world.made), Applicant("takeover", world.made)
    with running(world.bootstrap, world.pki, "a") as active:
        until(lambda: active.said("issuer.active"), WITHIN, "the first is active")
        with running(world.bootstrap, world.pki, "b") as standby:
            until(lambda: standby.said("issuer.started"), WITHIN, "the second stands by")
            put(world.bootstrap, first.asks())
            until_answered(world, first.device_id)
            active.process.kill()
            request = second.asks()
            put(world.bootstrap, request)
            until_answered(world, second.device_id, within=10.0)
            assert standby.metric("issuer_active") == 1
    assert_one_certificate(world, request)


def test_a_stopped_issuer_that_wakes_doubles_nothing(world: World) -> None:
    """Stopped after signing, replaced, woken: what it publishes is what its successor did."""
    applicant, later = Applicant("asleep", world.made), Applicant("awake", world.made)
    request = applicant.asks()
    with running(world.bootstrap, world.pki, "a", "issuer:after-sign:stop") as sleeper:
        until(lambda: sleeper.said("issuer.active"), WITHIN, "the sleeper is active")
        with running(world.bootstrap, world.pki, "b") as second:
            put(world.bootstrap, request)
            until_answered(world, applicant.device_id)
            assert second.metric("issuer_signed_total") == 1
            sleeper.process.send_signal(signal.SIGCONT)
            until_answered(world, applicant.device_id, 2)
            last = later.asks()
            put(world.bootstrap, last)
            until_answered(world, later.device_id)
    assert_one_certificate(world, request)
    assert_one_certificate(world, last)


def forgeries(world: World, pki_of_another: authority.Authority) -> dict[str, SignCertificate]:
    """Return what somebody could write who may write to Kafka, by the Reason it is refused for."""
    thief, now = ec.generate_private_key(ec.SECP256R1()), now_ms()

    def one(name: str) -> Applicant:
        return Applicant(f"forged-{name}", world.made)

    foreign = Applicant("forged-foreign", pki_of_another)
    victim = one("revoked")
    return {
        "a COSE signature of another key": one("cose").asks(current_key=thief),
        "a CSR that names another device": one("csr").asks(device_id="somebody-else"),
        "another device's certificate": replace(
            one("current").asks(), device_id="forged-current-2"
        ),
        "a certificate of another authority": foreign.asks(),
        "a revoked certificate": victim.asks(),
        "a weak key": one("weak").asks(new_key=rsa.generate_private_key(65537, 1024)),
        "the key it has": (same := one("same")).asks(new_key=same.key),
        "a nonce of its own": one("nonce").asks_with("n", nonce=b"other"),
        "another CSR beside the signed one": one("beside").asks_with("b", csr=b"csr"),
        "garbage for a request": one("garbage").asks_with("g", signed_request=b"garbage"),
        "notBefore in a year": one("late").asks_with("l", not_before_at=now + 365 * DAY_MS),
        "notBefore a year ago": one("early").asks_with("e", not_before_at=now - 365 * DAY_MS),
        "asked for a year ago": one("old").asks_with("o", requested_at=now - 365 * DAY_MS),
    }


REFUSED_FOR = {
    "a COSE signature of another key": Reason.WRONG_SIGNATURE,
    "a CSR that names another device": Reason.WRONG_SUBJECT,
    "another device's certificate": Reason.WRONG_SUBJECT,
    "a certificate of another authority": Reason.FINGERPRINT_UNKNOWN,
    "a revoked certificate": Reason.CERTIFICATE_RETIRED,
    "a weak key": Reason.WEAK_KEY,
    "the key it has": Reason.KEY_REUSED,
    "a nonce of its own": Reason.WRONG_NONCE,
    "another CSR beside the signed one": Reason.MALFORMED,
    "garbage for a request": Reason.MALFORMED,
    "notBefore in a year": Reason.CLOCK_OFF,
    "notBefore a year ago": Reason.CLOCK_OFF,
    "asked for a year ago": Reason.CLOCK_OFF,
}


def test_a_forged_request_is_refused_and_counted(world: World, tmp_path: Path) -> None:
    """Whoever may write to the topic gets no certificate: each lie has its Reason and its count."""
    forged = forgeries(world, authority.create(tmp_path / "other", now=datetime.now(UTC)))
    assert set(forged) == set(REFUSED_FOR)
    victim = Applicant("forged-revoked", world.made)
    listed = facts.facts(forged["a revoked certificate"].current_certificate)
    with running(world.bootstrap, world.pki) as run:
        put(
            world.bootstrap,
            revocation_of(victim, serial=listed.serial, fingerprint=listed.fingerprint),
            b"no record of the language",
            *forged.values(),
        )
        answered = len(forged) + 2
        until(lambda: run.metric("issuer_answer_seconds_count") >= answered, WITHIN, "all answers")
        answers = world.all_answers()
        for what, request in forged.items():
            (answer,) = answers[request.device_id]
            assert isinstance(answer, SigningRefused), what
            assert answer.reason == REFUSED_FOR[what].value, what
            assert answer.detail
        for reason in set(REFUSED_FOR.values()):
            count = run.metric(f'issuer_refused_total{{reason="{reason.value}"}}')
            assert count == list(REFUSED_FOR.values()).count(reason), reason
        assert run.metric(f'issuer_refused_total{{reason="{Reason.UNDECODABLE.value}"}}') == 1
        assert run.metric("issuer_queue") == 0
        assert run.metric("issuer_seconds_count") == len(forged) + 1
    letters = [one.record for one in Fleet(world.bootstrap).read(DEAD_LETTERS)]
    assert b"no record of the language" in [one.payload for one in letters]


def test_a_flood_meets_the_issuer_s_own_limit(world: World) -> None:
    """Two certificates at once, the third request is refused for its rate and counted."""
    applicant = Applicant("flood", world.made)
    with running(world.bootstrap, world.pki, device_burst=2, device_per_hour=1) as run:
        put(world.bootstrap, *[applicant.asks(f"flood-{number}") for number in range(3)])
        until_answered(world, "flood", 3)
        kinds = [type(one) for one in world.answers("flood")]
        assert kinds == [CertificateIssued, CertificateIssued, SigningRefused]
        assert run.metric(f'issuer_refused_total{{reason="{Reason.MESSAGE_RATE.value}"}}') == 1


def test_the_list_is_renewed_before_its_end_and_never_goes_back(world: World) -> None:
    """Numbers rise over renewals and restarts, nextUpdate lies ahead, an older file is mended."""
    path = world.pki / "device-ca" / revocation.FILE
    short = {"crl_refresh_hours": 1 / 3600, "crl_validity_hours": 4 / 3600}
    read: list[revocation.RevocationList] = []

    def look(after: int) -> bool:
        """Read the list; tell whether it has a higher number than `after`."""
        read.append(revocation.parse(path.read_bytes(), world.made.device.certificate))
        assert read[-1].number >= read[-2].number if read[1:] else True
        return read[-1].number > after

    for _ in range(2):
        with running(world.bootstrap, world.pki, **short) as run:
            until(lambda: run.said("issuer.listed"), WITHIN, "a list")
            for _ in range(2):
                until(lambda: look(read[-1].number if read else 0), WITHIN, "a renewed list")
                assert read[-1].next_update_at > now_ms()
            older = path.read_bytes()
            until(lambda: look(read[-1].number), WITHIN, "a renewed list")
            behind = read[-1].number - 1
            path.write_bytes(older)  # what a zombie would do
            read.clear()
            until(partial(look, behind), WITHIN, "the newest list again")


def test_secrets_stay_where_they_are(world: World, tmp_path: Path) -> None:
    """The passphrase is in no argument, variable or log, no core is dumped, loose files refused."""
    secret = "correct horse battery staple"
    file = tmp_path / "credential"
    file.write_text(secret + "\n")
    file.chmod(0o600)
    made = authority.create(tmp_path / "pki", now=datetime.now(UTC), passphrase=secret.encode())
    proc = Path("/proc")
    with running(world.bootstrap, made.directory, "secret", passphrase_file=file) as run:
        until(lambda: run.said("issuer.started"), WITHIN, "the issuer's start")
        here = proc / str(run.process.pid)
        said = (here / "cmdline").read_bytes() + (here / "environ").read_bytes()
        assert secret.encode() not in said + run.log.read_bytes()
        limits = (here / "limits").read_text().splitlines()
        assert next(one.split()[4] for one in limits if one.startswith("Max core")) == "0"
    for path in (made.directory / "device-ca" / "ca.key", made.directory / "device-ca" / "secret"):
        path.chmod(0o644)
        with running(world.bootstrap, made.directory, "loose", passphrase_file=file) as run:
            until(lambda: run.process.poll() is not None, WITHIN, "the refusal")
            assert run.process.returncode == 1
            assert "chmod 600" in run.log.read_text()
        path.chmod(stat.S_IRUSR | stat.S_IWUSR)
