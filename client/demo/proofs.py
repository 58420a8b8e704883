"""The demo's proofs: taken from the topics and the revocation list, never from the simulator."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from client.demo.fleet import EXPECTED_ALERTS, EXPECTED_FAILURES, Member
from client.fleet import Fleet, Found
from configuration.cluster import Cluster
from schemas import events
from schemas.decisions import Decision, DecisionName
from schemas.partition import partition_of
from schemas.reasons import Reason
from schemas.states import DeviceRow, Idle
from schemas.topics import DEVICE_EVENTS
from streams import replay
from streams.core import certificate

SPOKEN = (events.SessionOpened, events.DeviceReported, events.CommandAnswered,
          events.SigningRequested)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Proof:
    """What one device's rotation is proven by."""

    device_id: str
    behaviour: str
    partition: int
    old: str
    new: str
    first_used_offset: int
    closed_offset: int
    refused_after: int
    accepted_after: int
    in_crl: bool

    @property
    def holds(self) -> bool:
        """Tell whether nothing is missing."""
        used_then_closed = 0 <= self.first_used_offset < self.closed_offset
        return used_then_closed and not self.accepted_after and self.in_crl


@dataclass(slots=True)
class Evidence:
    """All that the proofs are judged on."""

    rows: dict[str, DeviceRow]
    events: dict[str, list[Found]]
    decisions: list[Decision]
    verdicts: list[replay.Verdict]
    serials: set[str]
    ended_at: int
    partitions: int
    crl_signed: bool
    recorded: set[tuple[str, int, int]] = field(default_factory=set)

    def alerts(self) -> set[tuple[str, str]]:
        """Return (device id, reason) of every alert raised while the fleet was alive."""
        return raised([one for one in self.decisions if one.decided_at <= self.ended_at])

    def failures(self) -> set[tuple[str, str]]:
        """Return (device id, reason) of every rotation that failed for good."""
        return abandoned(self.decisions)


def raised(decisions: Iterable[Decision]) -> set[tuple[str, str]]:
    """Return (device id, reason) of the alerts among the decisions."""
    return _told(decisions, DecisionName.ALERT_RAISED)


def abandoned(decisions: Iterable[Decision]) -> set[tuple[str, str]]:
    """Return (device id, reason) of the rotations that were given up."""
    return _told(decisions, DecisionName.ROTATION_ABANDONED)


def gather(
    fleet: Fleet, cluster: Cluster, device_ca: Path, ledger: Path, ended_at: int
) -> Evidence:
    """Read everything once; `ended_at` is when the fleet was told to stop.

    `device_ca` is the folder with the device CA's certificate and its revocation list.
    """
    by_device: dict[str, list[Found]] = defaultdict(list)
    for found in fleet.read(DEVICE_EVENTS):
        if isinstance(found.record, events.Keyed):
            by_device[found.record.device_id].append(found)
    numbers = fleet.partitions(DEVICE_EVENTS)
    crl = x509.load_pem_x509_crl((device_ca / "device.crl").read_bytes())
    ca = x509.load_pem_x509_certificate((device_ca / "ca.pem").read_bytes())
    key = ca.public_key()
    evidence = Evidence(
        rows=fleet.devices(),
        events=by_device,
        decisions=fleet.decisions(),
        verdicts=[replay.verify(cluster, number) for number in numbers],
        serials={f"{one.serial_number:x}" for one in crl},
        ended_at=ended_at,
        partitions=len(numbers),
        crl_signed=isinstance(key, ec.EllipticCurvePublicKey) and crl.is_signature_valid(key),
    )
    for line in ledger.read_text().splitlines():
        said = json.loads(line)
        if said["what"] == "recorded":
            evidence.recorded.add((said["device"], said["boot"], said["sequence"]))
    return evidence


def rotated(row: DeviceRow | None) -> bool:
    """Tell whether a device's rotation is complete, down to the revocation list."""
    if row is None or not row.rotations or not isinstance(row.rotation, Idle):
        return False
    old = [one for one in row.certificates if one.status == certificate.RETIRED]
    return bool(old) and all(one.crl_number for one in old)


def prove(evidence: Evidence, member: Member) -> Proof:
    """Return the proof of one device's rotation."""
    row = evidence.rows[member.device_id]
    old = certificate.find(row, member.fingerprint)
    new = certificate.active(row)
    closed = old.closed_offset if old else -1
    refused = {
        one.cause.offset
        for one in evidence.decisions
        if one.subject == f"device:{member.device_id}" and one.name == DecisionName.EVENT_REFUSED
    }
    after = [
        found.offset
        for found in evidence.events[member.device_id]
        if isinstance(found.record, SPOKEN)
        and found.record.evidence.certificate_sha256 == member.fingerprint
        and found.offset > closed >= 0
    ]
    door = [
        found
        for found in evidence.events[member.device_id]
        if isinstance(found.record, events.SessionRefused) and found.offset > closed >= 0
    ]
    return Proof(
        device_id=member.device_id,
        behaviour=member.behaviour,
        partition=partition_of(member.device_id.encode(), evidence.partitions),
        old=member.fingerprint.hex()[:16],
        new=new.fingerprint.hex()[:16],
        first_used_offset=new.first_used_offset,
        closed_offset=closed,
        refused_after=len(door) + sum(one in refused for one in after),
        accepted_after=sum(one not in refused for one in after),
        in_crl=old is not None and _listed(old.serial, evidence.serials),
    )


def losses(evidence: Evidence) -> int:
    """Count the events that a device was told are recorded and that are not in the history."""
    there = {
        (device_id, found.record.numbering.boot, found.record.numbering.sequence)
        for device_id, all_found in evidence.events.items()
        for found in all_found
        if getattr(found.record, "numbering", None) is not None
    }
    return len(evidence.recorded - there)


def duplicates(evidence: Evidence) -> int:
    """Count decisions that were published more than once, and second certificates of a request."""
    ids = Counter(one.decision_id for one in evidence.decisions)
    issued: dict[str, set[bytes]] = defaultdict(set)
    for all_found in evidence.events.values():
        for found in all_found:
            if isinstance(found.record, events.CertificateIssued):
                issued[found.record.request_id].add(found.record.certificate.fingerprint)
    twice = sum(count - 1 for count in ids.values())
    return twice + sum(len(fingerprints) - 1 for fingerprints in issued.values())


def wronged(evidence: Evidence, members: list[Member]) -> list[str]:
    """Return, a line each, what honest devices said and the machine refused.

    What was still under way under the old certificate is recorded within its grace, and no wrong.
    """
    honest = {f"device:{one.device_id}" for one in members if one.behaviour == "honest"}
    return [
        f"{one.subject.removeprefix('device:')}: refused, {one.reason}"
        for one in evidence.decisions
        if one.name == DecisionName.EVENT_REFUSED
        and one.subject in honest
        and one.reason != Reason.UNDER_RETIRED
    ]


def missing(evidence: Evidence, members: list[Member]) -> list[str]:
    """Return what was expected of the misbehaving devices and is not in the history."""
    return unanswered(evidence.alerts(), evidence.failures(), members)


def unanswered(
    alerts: set[tuple[str, str]], failures: set[tuple[str, str]], members: list[Member]
) -> list[str]:
    """Return, a line each, the misbehaviour that no alert and no failure names yet."""
    absent = []
    for one in members:
        alert = EXPECTED_ALERTS.get(one.behaviour)
        failure = EXPECTED_FAILURES.get(one.behaviour)
        if alert and (one.device_id, alert.value) not in alerts:
            absent.append(f"{one.device_id} ({one.behaviour}): no alert {alert.value}")
        if failure and (one.device_id, failure.value) not in failures:
            absent.append(f"{one.device_id} ({one.behaviour}): no failure {failure.value}")
    return absent


def _told(decisions: Iterable[Decision], name: DecisionName) -> set[tuple[str, str]]:
    return {
        (one.subject.removeprefix("device:"), one.reason) for one in decisions if one.name == name
    }


def _listed(serial: str, serials: set[str]) -> bool:
    return serial.lstrip("0").lower() in {one.lstrip("0").lower() for one in serials}
