"""A world for the machine: devices, doors and an issuer that fail as real ones do.

No clock and no network: time is what the world's ticks say, and what travels lies in lists that
a test delivers, drops, repeats or reorders. Devices lose what they had not stored when they
crash; what they store (identities, numbers, answered commands) is what the reference agent stores.
"""

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from schemas import codec, commands, events
from schemas.envelope import BROADCAST_KEY, Evidence, Numbering
from schemas.states import DeviceRow, PartitionRow, Policy
from streams.core import certificate
from streams.core.deadlines import Deadlines
from streams.core.device import MACHINE
from streams.core.machine import fold
from streams.core.partition import Entry, Partition
from streams.core.turn import Output

START = 1_800_000_000_000
DAY = 86_400_000
POLICY = Policy(
    stagger_ms=60_000,
    answer_within_ms=60_000,
    issue_within_ms=20_000,
    prove_within_ms=60_000,
    grace_ms=20_000,
    backoff_ms=5_000,
    backoff_max_ms=40_000,
)


def certify(spki: bytes, serial: str, days: int, now: int = START) -> events.CertificateFacts:
    """Return what a certificate for this key says; its DER is its key, for the device to read."""
    fingerprint = sha256(spki + serial.encode()).digest()
    return events.CertificateFacts(
        fingerprint, spki, serial, now - 60 * DAY, now + days * DAY, fingerprint
    )


@dataclass
class Device:
    """A device: `identities` are fingerprints, newest first; `heard` are its stored answers."""

    device_id: str
    identities: list[bytes]
    boot: int = 1
    sequence: int = 0
    sessions: int = 0
    session: str = ""
    under: bytes = b""
    counter: int = 0
    keys: int = 0
    heard: dict[str, events.Keyed] = field(default_factory=dict)

    def evidence(self) -> Evidence:
        """Return the evidence of the open session."""
        self.counter += 1
        return Evidence(self.under, "10.0.0.1", self.session, self.counter, "mqtt", START)

    def numbering(self) -> Numbering:
        """Return the next number."""
        self.sequence += 1
        return Numbering(self.boot, self.sequence)

    def crash(self) -> None:
        """Lose the session and all that is not stored."""
        self.session, self.boot, self.sequence = "", self.boot + 1, 0

    def connect(self, refused: set[bytes]) -> events.Keyed | None:
        """Open a session under the newest identity that the doors accept."""
        accepted = [one for one in self.identities if one not in refused]
        if not accepted:
            return None
        self.sessions += 1
        self.under, self.session, self.counter = accepted[0], f"session-{self.sessions}", 0
        return events.SessionOpened(self.device_id, self.evidence())

    def report(self) -> events.Keyed:
        """Report a reading."""
        return events.DeviceReported(
            self.device_id, self.evidence(), self.numbering(), "reading", "", b"21"
        )

    def obey(self, command: commands.ForDevice) -> events.Keyed | None:
        """Do what is asked, once; return the answer."""
        match command:
            case commands.RotateCertificate():
                return self._request(command)
            case commands.InstallCertificate():
                if command.certificate not in self.identities:
                    self.identities.insert(0, command.certificate)
            case commands.DropCertificate():
                others = [one for one in self.identities if one != command.fingerprint]
                self.identities = others or self.identities
        return events.CommandAnswered(
            self.device_id, self.evidence(), self.numbering(), command.command_id, "done", ""
        )

    def renew(self, *, new_key: bool = True) -> events.Keyed:
        """Ask for the next certificate by itself; without a new key, once more on the last one."""
        self.keys += new_key
        return self._signing("", b"door", None)

    def _request(self, command: commands.RotateCertificate) -> events.Keyed:
        self.keys += command.command_id not in self.heard
        asked = self._signing(command.command_id, command.nonce, self.numbering())
        self.heard[command.command_id] = asked
        return asked

    def _signing(
        self, command_id: str, nonce: bytes, numbering: Numbering | None
    ) -> events.SigningRequested:
        spki = sha256(f"{self.device_id}/{self.keys}".encode()).digest()
        return events.SigningRequested(
            device_id=self.device_id,
            evidence=self.evidence(),
            numbering=numbering,
            command_id=command_id,
            nonce=nonce,
            signed_request=b"cose",
            csr=spki,
            subject=self.device_id,
            key="P-256",
            spki_sha256=spki,
            key_accepted=True,
            csr_signature_valid=True,
            request_signature_valid=True,
            verifier="world",
        )


class World:
    """One partition, its devices, and what is on its way.

    `up` holds events for the log, `down` commands for devices, `asked` requests for the issuer.
    """

    def __init__(self, count: int, days: int = 20, policy: Policy = POLICY) -> None:
        self.now = START
        self.rows: dict[bytes, DeviceRow] = {}
        self.partition: Partition[DeviceRow] = Partition(
            0, PartitionRow(policy=policy), self.rows.get, Deadlines()
        )
        self.entries: list[Entry] = []
        self.outputs: list[Output] = []
        self.up: list[events.Keyed] = []
        self.down: list[commands.ForDevice] = []
        self.asked: list[commands.ForIssuer] = []
        self.refused: set[bytes] = set()
        self.signed: dict[str, events.CertificateIssued] = {}
        self.devices: dict[str, Device] = {}
        self.ticks = 0
        self.tick(0)
        for number in range(count):
            self._register(f"device-{number}", days)

    def _register(self, device_id: str, days: int) -> None:
        first = certify(sha256(device_id.encode()).digest(), f"first-{device_id}", days)
        self.devices[device_id] = Device(device_id, [first.fingerprint])
        self.append(events.DeviceRegistered(device_id, "pump", ("mqtt",), first, "world"))

    def append(self, event: Any) -> None:
        """Write one event to the log, fold it, and put its outputs on their way."""
        keyed = not isinstance(event, events.Broadcast)
        key = event.device_id.encode() if keyed else BROADCAST_KEY
        entry = Entry(len(self.entries), self.now, key, b"", event)
        self.entries.append(entry)
        folded = fold(MACHINE, self.partition, [entry])
        assert folded.set_aside == 0, folded.outputs
        self.rows.update(folded.rows)
        self.outputs.extend(folded.outputs)
        for record in (one.record for one in folded.outputs):
            if isinstance(record, commands.ForDevice):
                self.down.append(record)
            elif isinstance(record, commands.ForIssuer):
                self.asked.append(record)
            elif isinstance(record, commands.RefuseCertificate):
                self._refuse(record.fingerprint)

    def _refuse(self, fingerprint: bytes) -> None:
        """Let the doors close what is open under a certificate."""
        self.refused.add(fingerprint)
        for device in self.devices.values():
            if device.under == fingerprint:
                device.session = ""

    def tick(self, milliseconds: int) -> None:
        """Let time pass, and write it to the log."""
        self.now += milliseconds
        self.ticks += 1
        self.append(events.ClockTicked(self.ticks, self.now, sha256(b"%d" % self.ticks).digest()))

    def deliver_up(self, index: int = 0) -> None:
        """Let an event reach the log."""
        self.append(self.up.pop(index))

    def deliver_down(self, index: int = 0) -> None:
        """Let a command reach its device, where that is connected and the command not expired."""
        command = self.down.pop(index)
        device = self.devices[command.device_id]
        if not device.session or self.now >= command.expires_at:
            return
        answer = device.obey(command)
        if answer is not None:
            self.up.append(answer)
        if isinstance(command, commands.InstallCertificate):
            self.connect(device)

    def deliver_asked(self, index: int = 0) -> None:
        """Let a request reach the issuer, which answers the same request always the same."""
        request = self.asked.pop(index)
        if isinstance(request, commands.RevokeCertificate):
            self.up.append(
                events.CertificateRevoked(
                    request.device_id, request.fingerprint, request.serial, len(self.refused)
                )
            )
            return
        if request.request_id not in self.signed:
            made = certify(request.csr, request.request_id, 90, self.now + 60 * DAY)
            self.signed[request.request_id] = events.CertificateIssued(
                request.device_id, request.request_id, made
            )
        self.up.append(self.signed[request.request_id])

    def connect(self, device: Device) -> None:
        """Let a device connect anew."""
        opened = device.connect(self.refused)
        if opened is not None:
            self.up.append(opened)

    def settle(self) -> None:
        """Deliver all that is on its way, in order, until nothing is."""
        for device in self.devices.values():
            if not device.session:
                self.connect(device)
        while self.up or self.down or self.asked:
            for waiting, deliver in (
                (self.up, self.deliver_up),
                (self.asked, self.deliver_asked),
                (self.down, self.deliver_down),
            ):
                for _ in range(len(waiting)):
                    deliver()

    def row(self, device: Device) -> DeviceRow:
        """Return what the machine knows of a device."""
        return self.rows[device.device_id.encode()]

    def locked_out(self) -> list[str]:
        """Return the devices that hold no identity which the machine accepts."""
        out = []
        for device in self.devices.values():
            held = [certificate.find(self.row(device), one) for one in device.identities]
            accepted = (certificate.ACTIVE, certificate.CANDIDATE)
            if not any(one is not None and one.status in accepted for one in held):
                out.append(device.device_id)
        return out

    def encoded(self) -> dict[bytes, bytes]:
        """Return every row, and the partition's, in bytes."""
        rows = {key: codec.encode(row) for key, row in self.rows.items()}
        return rows | {b"@partition": codec.encode(self.partition.row)}
