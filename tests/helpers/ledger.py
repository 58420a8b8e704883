"""What devices wrote down, against what the topics and rows say."""

import json
from collections import Counter, defaultdict
from pathlib import Path

from client.fleet import Fleet
from configuration.cluster import Cluster
from device.observer import KEPT, RECORDED
from device.store import Store
from schemas.decisions import Decision
from schemas.events import CertificateIssued, SigningRequested
from schemas.topics import DECISIONS, DEVICE_EVENTS
from streams import replay
from streams.core import certificate

Number = tuple[str, int, int]


def told(ledgers: list[Path], what: str) -> set[Number]:
    """Return the numbers that the devices wrote down under `kept` or `recorded`."""
    found: set[Number] = set()
    for path in ledgers:
        for line in path.read_text().splitlines():
            one = json.loads(line)
            if one["what"] == what:
                found.add((one["device"], one["boot"], one["sequence"]))
    return found


def assert_nothing_lost_or_doubled(fleet: Fleet, ledgers: list[Path], hint: str) -> None:
    """All that devices kept is in the history; every effect of it is there once."""
    events = [one.record for one in fleet.read(DEVICE_EVENTS)]
    numbered = [one for one in events if getattr(one, "numbering", None) is not None]
    there = {(one.device_id, one.numbering.boot, one.numbering.sequence) for one in numbered}
    for what in (RECORDED, KEPT):
        lost = told(ledgers, what) - there
        assert not lost, f"{len(lost)} {what} events are lost: {sorted(lost)[:5]} ({hint})"
    certificates: dict[str, set[bytes]] = defaultdict(set)
    keys: dict[str, set[bytes]] = defaultdict(set)
    for one in events:
        if isinstance(one, CertificateIssued):
            certificates[one.request_id].add(one.certificate.der)
        elif isinstance(one, SigningRequested) and one.command_id:  # none: it asked by itself
            keys[one.command_id].add(one.spki_sha256)
    for what, found in (("certificates of a request", certificates), ("keys of a command", keys)):
        doubled = {name: len(values) for name, values in found.items() if len(values) > 1}
        assert not doubled, f"several {what}: {doubled} ({hint})"
    decisions = Counter(
        one.record.decision_id for one in fleet.read(DECISIONS) if isinstance(one.record, Decision)
    )
    doubled = {name: count for name, count in decisions.items() if count > 1}
    assert not doubled, f"decisions made twice: {doubled} ({hint})"


def assert_rows_are_the_replay(fleet: Fleet, bootstrap: str, hint: str) -> None:
    """The live rows are those of the history, byte for byte."""
    for number in fleet.partitions(DEVICE_EVENTS):
        verdict = replay.verify(Cluster(bootstrap), number)
        assert verdict.identical, f"partition {number}: {verdict.difference} ({hint})"


def assert_no_device_is_locked_out(fleet: Fleet, directory: Path, hint: str) -> None:
    """Each device holds the certificate that its row calls active, and uses it."""
    for device_id, row in fleet.devices().items():
        if (directory / device_id).exists():
            current = Store(directory / device_id).current().fingerprint
            assert current == certificate.active(row).fingerprint.hex(), f"{device_id} ({hint})"
