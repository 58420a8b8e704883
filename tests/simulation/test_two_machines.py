"""Both machines, each on its own log, and devices that answer: from creation to the last proof."""

import json
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

from schemas import commands, events
from schemas import fleet_events as fleets
from schemas.decisions import Decision
from schemas.envelope import BROADCAST_KEY, Evidence, Numbering
from schemas.states import DeviceRow, PartitionRow
from schemas.topics import DEVICE_EVENTS, FLEET_EVENTS
from streams.core import certificate, device, fleet, ring, wide
from streams.core.deadlines import Deadlines
from streams.core.machine import fold
from streams.core.partition import Entry, Partition
from streams.core.rows import Ordered
from streams.core.turn import Output
from tests.helpers.fleets import DAY, HOUR, NOON, update
from tests.helpers.folding import facts, fingerprint

FLEET = "pumps"


def lasting(number: int, now: int, lives_ms: int) -> events.CertificateFacts:
    """Return a certificate that lives so long from now on."""
    return replace(facts(number), not_before_at=now, not_after_at=now + lives_ms)


@dataclass
class Side:
    """One machine: its rows, its partition and its log's next offset."""

    rows: Ordered = field(default_factory=Ordered)
    offset: int = 0

    def __post_init__(self) -> None:
        self.partition: Partition[Any] = Partition(
            0, PartitionRow(), self.rows.get, Deadlines(), self.rows.scan
        )

    def keep(self, rows: dict[bytes, Any]) -> None:
        """Take what a fold changed."""
        for key, row in rows.items():
            if row is None:
                self.rows.delete(key)
            else:
                self.rows.put(key, row)


@dataclass
class World:
    """Two logs, the records on their way, and devices that answer at once."""

    devices: Side = field(default_factory=Side)
    fleets: Side = field(default_factory=Side)
    now: int = NOON
    outputs: list[Output] = field(default_factory=list)
    sequences: dict[str, int] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    waiting: deque[tuple[str, bytes, Any]] = field(default_factory=deque)
    lives_ms: int = 0
    """How long a certificate lives that is issued, zero for long."""

    def add(self, topic: str, event: Any, key: bytes = b"") -> None:
        """Append an event to a log, and all that follows from it."""
        key = key or (event.device_id if topic == DEVICE_EVENTS else event.fleet_id).encode()
        self.waiting.append((topic, key, event))
        while self.waiting:
            self.step(*self.waiting.popleft())

    def step(self, topic: str, key: bytes, event: Any) -> None:
        """Fold one record of one log."""
        side = self.devices if topic == DEVICE_EVENTS else self.fleets
        entry = Entry(side.offset, self.now, key, b"", event)
        side.offset += 1
        if side is self.devices:
            folded = fold(device.MACHINE, side.partition, [entry])
        else:
            folded = wide.fold(fleet.MACHINE, side.partition, [entry])
        assert folded.set_aside == 0, folded.outputs
        side.keep(folded.rows)
        for output in folded.outputs:
            self.outputs.append(output)
            if output.topic in (DEVICE_EVENTS, FLEET_EVENTS):
                self.waiting.append((output.topic, output.key, output.record))
            else:
                self.answer(output.record)

    def wait(self, milliseconds: int) -> None:
        """Let time pass by hours, in both logs."""
        until = self.now + milliseconds
        while self.now < until:
            self.now = min(until, self.now + HOUR // 4)
            tick = events.ClockTicked(self.now, self.now, b"r" * 32)
            for topic in (DEVICE_EVENTS, FLEET_EVENTS):
                self.add(topic, tick, BROADCAST_KEY)

    def row(self, device_id: str) -> DeviceRow:
        """Return a device's row."""
        row: DeviceRow = self.devices.rows.get(device_id.encode())
        return row

    def evidence(self, device_id: str, used: bytes) -> dict[str, Any]:
        """Return what a door saw of a device, and the device's next number."""
        number = self.sequences[device_id] = self.sequences.get(device_id, 0) + 1
        seen = Evidence(used, "10.0.0.1", used.hex()[:8], number, "mqtt", self.now)
        return {"device_id": device_id, "evidence": seen, "numbering": Numbering(1, number)}

    def say(self, event: Any) -> None:
        """Let a device say something, after what is on its way."""
        self.waiting.append((DEVICE_EVENTS, event.device_id.encode(), event))

    def answer(self, record: Any) -> None:
        """Answer a command as a device, or a request as the issuer."""
        if isinstance(record, commands.SignCertificate):
            number = int(record.csr.decode()) % 250
            held = facts(number, (self.now - NOON) // DAY + 200)
            if self.lives_ms:
                held = lasting(number, self.now, self.lives_ms)
            event = events.CertificateIssued(record.device_id, record.request_id, held)
            self.say(event)
            return
        name = getattr(record, "device_id", "")
        if not isinstance(record, commands.ForDevice) or name in self.broken:
            return
        used = certificate.active(self.row(name)).fingerprint
        if isinstance(record, commands.RotateCertificate):
            number = used[0] + 1
            self.say(
                events.SigningRequested(
                    **self.evidence(name, used),
                    command_id=record.command_id,
                    nonce=record.nonce,
                    signed_request=b"",
                    csr=str(number).encode(),
                    subject=name,
                    key="P-256",
                    spki_sha256=bytes([(100 + number) % 256]) * 32,
                    key_accepted=True,
                    csr_signature_valid=True,
                    request_signature_valid=True,
                    verifier="tests",
                )
            )
        elif isinstance(record, commands.InstallCertificate | commands.InstallUpdate):
            said = self.evidence(name, used)
            self.say(events.CommandAnswered(**said, command_id=record.command_id,
                                            outcome="done", detail=""))  # fmt: skip
            if isinstance(record, commands.InstallCertificate):
                seen = self.evidence(name, fingerprint(used[0] + 1))
                self.say(events.SessionOpened(name, seen["evidence"]))


def populated(count: int, config: dict[str, Any], days: float) -> World:
    """Return a world whose devices are registered and members of the fleet."""
    world = World()
    world.wait(1)
    patch = json.dumps(
        {"updatePolicy": {"timeWindow": {"start": "00:00", "end": "24:00"}}, **config}
    )
    world.add(FLEET_EVENTS, fleets.FleetCreated(FLEET, "P", (), (), patch, "", None, "t"))
    for number in range(count):
        name = f"d{number}"
        held = facts(1, (NOON - 1_800_000_000_000) / DAY + days)
        world.add(DEVICE_EVENTS, events.DeviceRegistered(name, "pump", ("mqtt",), held, "t"))
        world.add(FLEET_EVENTS, fleets.DeviceAdded(FLEET, name, "operator", "t"))
    return world


def test_a_fleet_rotates_itself_as_its_certificates_near_their_end() -> None:
    """Watch, order, saga, proof, and the fleet's rows know the new certificates."""
    world = populated(20, {}, days=40)
    row = world.fleets.rows.get(ring.fleet_key(FLEET))
    assert (row.members, row.confirmed) == (20, 20)
    world.wait(35 * DAY)
    for number in range(20):
        held = world.row(f"d{number}")
        assert certificate.active(held).fingerprint == fingerprint(2)
        member = world.fleets.rows.get(ring.member_key(FLEET, f"d{number}"))
        assert (member.last.outcome, member.order) == ("succeeded", None)
        assert member.not_after_at == certificate.active(held).not_after_at
    ordered = [one for one in world.outputs if isinstance(one.record, events.RotationOrdered)]
    assert len(ordered) == 20
    assert world.fleets.rows.get(ring.fleet_key(FLEET)).in_work == 0


def test_certificates_of_eight_hours_never_end_and_are_not_renewed_all_the_time() -> None:
    """With windows at night and daysBeforeExpiry 30, in a fleet and without one."""
    world = World(lives_ms=8 * HOUR)
    world.wait(1)
    world.add(FLEET_EVENTS, fleets.FleetCreated(FLEET, "P", (), (), "{}", "", None, "t"))
    for name in ("d0", "d1", "lone"):
        held = lasting(1, world.now, world.lives_ms)
        world.add(DEVICE_EVENTS, events.DeviceRegistered(name, "pump", ("mqtt",), held, "t"))
    for name in ("d0", "d1"):
        world.add(FLEET_EVENTS, fleets.DeviceAdded(FLEET, name, "operator", "t"))
    world.wait(4 * DAY)
    said = [one.record.name for one in world.outputs if isinstance(one.record, Decision)]
    assert "CertificateExpired" not in said
    for name in ("d0", "d1", "lone"):
        assert 12 <= world.row(name).rotations <= 18


def test_an_update_reaches_every_device() -> None:
    """Those that are broken time out; the campaign knows the difference."""
    world = populated(10, {"updatePolicy": {"failureThreshold": 0.5}}, days=90)
    world.broken = {"d3", "d7"}
    order = fleets.CampaignOrdered(FLEET, "fw", update(any_time=True), None, "t")
    world.add(FLEET_EVENTS, order)
    world.wait(3 * HOUR)
    row = world.fleets.rows.get(ring.campaign_key(FLEET, "fw"))
    assert row.state == "completed"
    counts = row.groups[-1]
    assert (counts.succeeded, counts.timed_out) == (8, 2)


def test_no_word_between_the_machines_is_lost_or_doubled() -> None:
    """Every cause that was sent was heard, in its order, and none twice."""
    world = populated(5, {}, days=40)
    world.wait(35 * DAY)
    for side, topic in ((world.fleets, DEVICE_EVENTS), (world.devices, FLEET_EVENTS)):
        to = FLEET_EVENTS if topic == DEVICE_EVENTS else DEVICE_EVENTS
        sent = [
            (one.record.cause.position.offset, one.record.cause.index)
            for one in world.outputs
            if one.topic == to and one.record.cause.position.topic == topic
        ]
        assert sent == sorted(set(sent))
        if side is world.fleets:
            heard = {one.topic: one.mark for one in side.partition.row.sources}
            assert heard[topic] == sent[-1][0] * 1_000 + sent[-1][1]
    refused = [
        one.record
        for one in world.outputs
        if isinstance(one.record, Decision) and one.record.name == "EventRefused"
    ]
    assert refused == []
