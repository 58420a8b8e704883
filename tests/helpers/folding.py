"""A log for the pure tests: append events and ticks, fold them with the device machine, look."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from schemas import codec, commands, events
from schemas.decisions import Decision
from schemas.envelope import BROADCAST_KEY, Evidence, Numbering
from schemas.states import DeviceRow, PartitionRow, Policy
from streams.core.deadlines import Deadlines
from streams.core.device import MACHINE
from streams.core.machine import fold
from streams.core.partition import Entry, Folded, Partition
from streams.core.turn import Output

START = 1_800_000_000_000
DAY = 86_400_000
DEVICE = "pump-1"
POLICY = Policy(stagger_ms=0)


def fingerprint(number: int) -> bytes:
    """Return a certificate's SHA-256 for tests."""
    return bytes([number]) * 32


def facts(number: int, days: float = 90) -> events.CertificateFacts:
    """Return a certificate that ends `days` after START."""
    end = START + int(days * DAY)
    return events.CertificateFacts(
        fingerprint(number), fingerprint(100 + number), f"{number:x}", end - 90 * DAY, end, b"der"
    )


def scan_of(rows: dict[bytes, Any]) -> Callable[[bytes, bytes, int], list[tuple[bytes, Any]]]:
    """Return how rows in a dictionary are gone through, in the order of their keys."""

    def scan(prefix: bytes, after: bytes, limit: int) -> list[tuple[bytes, Any]]:
        found = [one for one in rows.items() if one[0].startswith(prefix) and one[0] > after]
        return sorted(found, key=lambda one: one[0])[:limit]

    return scan


@dataclass
class Log:
    """One partition's history, its rows and its outputs so far."""

    rows: dict[bytes, DeviceRow] = field(default_factory=dict)
    outputs: list[Output] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    now: int = START
    counter: int = 0
    sequence: int = 0

    def __post_init__(self) -> None:
        row = PartitionRow(policy=POLICY)
        self.partition: Partition[DeviceRow] = Partition(
            0, row, self.rows.get, Deadlines(), scan_of(self.rows)
        )

    @property
    def row(self) -> DeviceRow:
        """The row of DEVICE."""
        return self.rows[DEVICE.encode()]

    def fold(self, entry: Entry) -> list[Output]:
        """Fold one entry and return its outputs."""
        self.entries.append(entry)
        folded: Folded[DeviceRow] = fold(MACHINE, self.partition, [entry])
        assert folded.set_aside == 0, folded.outputs
        self.rows.update(folded.rows)
        self.outputs.extend(folded.outputs)
        return folded.outputs

    def add(self, event: Any, key: bytes = DEVICE.encode()) -> list[Output]:
        """Append one event and fold it."""
        return self.fold(Entry(len(self.entries), self.now, key, b"", event))

    def tick(self, milliseconds: int = 0, off: int = 0) -> list[Output]:
        """Let time pass; `off` is how far the tick lies off its broker time."""
        self.now += milliseconds
        tick = events.ClockTicked(self.now, self.now, b"r" * 32)
        entry = Entry(len(self.entries), self.now + off, BROADCAST_KEY, b"", tick)
        return self.fold(entry)

    def registered(self, days: float = 90) -> "Log":
        """Start the clock and register DEVICE with certificate 1."""
        self.tick()
        self.add(events.DeviceRegistered(DEVICE, "pump", ("mqtt",), facts(1, days), "tests"))
        return self

    def evidence(self, certificate: int, address: str = "10.0.0.1", session: str = "") -> Evidence:
        """Return the evidence of a session under a certificate."""
        self.counter += 1
        name = session or f"session-{certificate}"
        return Evidence(fingerprint(certificate), address, name, self.counter, "mqtt", START)

    def opened(self, certificate: int, **where: str) -> list[Output]:
        """Open a session under a certificate."""
        return self.add(events.SessionOpened(DEVICE, self.evidence(certificate, **where)))

    def numbering(self) -> Numbering:
        """Return the next number of the device."""
        self.sequence += 1
        return Numbering(1, self.sequence)

    def reported(self, certificate: int, kind: str = "reading", size: int = 10) -> list[Output]:
        """Report something under a certificate."""
        event = events.DeviceReported(
            DEVICE, self.evidence(certificate), self.numbering(), kind, "", b"x" * size
        )
        return self.add(event)

    def said(self, said_at: int) -> list[Output]:
        """Report something with the device's own clock; its door's is START."""
        event = events.DeviceReported(
            DEVICE, self.evidence(1), self.numbering(), "reading", "", b"", said_at
        )
        return self.add(event)

    def answered(
        self, certificate: int, outcome: str, command_id: str, progress: str = ""
    ) -> list[Output]:
        """Answer a command under a certificate."""
        event = events.CommandAnswered(
            DEVICE, self.evidence(certificate), self.numbering(), command_id, outcome, "", progress
        )
        return self.add(event)

    def requested(self, certificate: int, **changes: Any) -> list[Output]:
        """Answer RotateCertificate with a good request, but for the changes."""
        command = self.last(commands.RotateCertificate)
        values = {
            "numbering": self.numbering(),
            "command_id": command.command_id,
            "nonce": command.nonce,
        }
        return self.add(self.signing(certificate, **(values | changes)))

    def renewed(self, certificate: int, **changes: Any) -> list[Output]:
        """Let the device ask by itself, with a good request but for the changes."""
        return self.add(self.signing(certificate, **changes))

    def signing(self, certificate: int, **changes: Any) -> events.SigningRequested:
        """Return a good request but for the changes: without a command, the device's own."""
        values: dict[str, Any] = {
            "device_id": DEVICE,
            "evidence": self.evidence(certificate),
            "numbering": None,
            "command_id": "",
            "nonce": b"door",
            "signed_request": b"cose",
            "csr": b"csr",
            "subject": DEVICE,
            "key": "P-256",
            "spki_sha256": fingerprint(100 + certificate + 1),
            "key_accepted": True,
            "csr_signature_valid": True,
            "request_signature_valid": True,
            "verifier": "tests",
        }
        return events.SigningRequested(**(values | changes))

    def issued(self, number: int) -> list[Output]:
        """Let the issuer answer the last request with certificate `number`."""
        request = self.last(commands.SignCertificate)
        return self.add(events.CertificateIssued(DEVICE, request.request_id, facts(number, 180)))

    def last(self, kind: type) -> Any:
        """Return the last output of a kind."""
        return next(one.record for one in reversed(self.outputs) if isinstance(one.record, kind))

    def decisions(self) -> list[tuple[str, str]]:
        """Return (name, reason) of every decision, in order."""
        all_records = [one.record for one in self.outputs]
        return [(one.name, one.reason) for one in all_records if isinstance(one, Decision)]

    def state(self) -> str:
        """Return the name of the saga's state."""
        return type(self.row.rotation).__name__

    def bytes(self) -> dict[bytes, bytes]:
        """Return every row encoded."""
        return {key: codec.encode(row) for key, row in self.rows.items()}
