"""The typed Python client: register devices, order rotations, read rows, alerts and the history.

    with Fleet("127.0.0.1:9092") as fleet:
        fleet.register("pump-7", "pump", certificate=Path("pump-7.pem").read_bytes())
        fleet.rotate("pump-7")
        print(fleet.device("pump-7").certificates)

All methods block, for as long as Timeouts says; `follow` reads on. Errors are FleetError and say
what to do next. What only reads makes no producer. `client/reader.py` says what reading costs.
"""

import secrets
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from client import alerts, enrolment, registration
from client.alerts import Alert
from client.answers import DEVICES, Answers
from client.enrolment import ANSWER_SECONDS, Registrar
from client.errors import FleetError
from client.kafka import Timeouts
from client.reader import Found, Reader
from client.registration import Registration
from client.writer import Writer
from configuration.cluster import LOCAL, Cluster
from pki.facts import device_id as named_device
from pki.facts import load_certificate
from schemas import topics
from schemas.commands import InviteDevice
from schemas.decisions import Decision
from schemas.envelope import BROADCAST_KEY, Position
from schemas.events import (
    DeviceRegistered,
    DeviceTagged,
    PolicyActivated,
    RegistrationApproved,
    RegistrationRejected,
    RetirementOrdered,
    RotationOrdered,
)
from schemas.pending import PendingRow
from schemas.states import PARTITION_KEY, DeviceRow, PartitionRow, Policy
from streams.core import description
from streams.core.policy import objection

__all__ = ["Alert", "Fleet", "FleetError", "Found", "Registrar", "Timeouts"]

FINGERPRINT_DIGITS_MIN = 16
"""What an operator must say of a certificate's SHA-256: 64 bits are not found by trying."""
Asked = (
    DeviceRegistered
    | DeviceTagged
    | RetirementOrdered
    | RegistrationApproved
    | RegistrationRejected
)
LOOK_BACK_MS = 60_000
"""Decisions are looked for from this long before the oldest alert: machine time is not Kafka's."""


class Fleet:
    """A fleet as seen through its topics.

    `read`, `follow`, `partitions` and `size` are the Reader's.
    """

    def __init__(
        self,
        kafka: Cluster | str = LOCAL,
        actor: str = "operator",
        *,
        timeouts: Timeouts | None = None,
    ) -> None:
        cluster = Cluster.of(kafka)
        timeouts = timeouts or Timeouts()
        self.actor = actor
        self._reader = Reader(cluster, timeouts)
        self._writer = Writer(cluster, timeouts)
        self._answers = Answers(cluster, timeouts, DEVICES)
        self.read, self.follow = self._reader.read, self._reader.follow
        self.partitions, self.size = self._reader.partitions, self._reader.size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if kind is None:
            self.flush()
        self.close()

    def close(self) -> None:
        """Close the connections; what was not flushed may be lost."""
        self._reader.close()
        self._answers.close()

    # -- what changes the fleet -----------------------------------------------------------------

    def register(
        self,
        device_id: str,
        device_type: str = "device",
        protocols: tuple[str, ...] = ("mqtt",),
        *,
        certificate: bytes,
        tags: Sequence[str] = (),
        attributes: Mapping[str, str] | None = None,
        wait: bool = True,
    ) -> Position | None:
        """Register a device with the certificate it holds (PEM or DER).

        Returns where the record stands; None with `wait=False`, where `flush` waits for many at
        once. Raises FleetError for an id outside `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`, a certificate
        that is unreadable or names another device, or when Kafka does not take the record.
        """
        document = {
            "id": device_id,
            "type": device_type,
            "protocols": list(protocols),
            "certificates": {"device": certificate},
            "tags": list(tags),
            "attributes": dict(attributes or {}),
        }
        self.write(registration.parse(document))
        return self._acknowledged() if wait else None

    def enrol(
        self,
        device_id: str,
        device_type: str = "device",
        protocols: tuple[str, ...] = ("mqtt",),
        *,
        csr: bytes,
        registrar: Registrar,
        within: float = ANSWER_SECONDS,
    ) -> bytes:
        """Register a device by its CSR (PEM or DER); return its first certificate, in PEM.

        The issuer checks the registrar's order, signs and registers. The same CSR again gives the
        same certificate. Raises FleetError: see client/enrolment.py.
        """
        wanted = enrolment.wanted(device_id, device_type, protocols, csr)
        held = enrolment.held(self.find(device_id), wanted)
        if held is not None:
            return held
        until = time.monotonic() + within
        answers = self.follow(
            topics.DEVICE_EVENTS, device_id=device_id, stopping=lambda: time.monotonic() > until
        )
        record = enrolment.order(device_id, wanted, registrar)
        self._writer.send(topics.CERTIFICATE_REQUESTS, device_id.encode(), record)
        self.flush()
        return enrolment.answer(answers, record, wanted, within)

    def invite(
        self,
        device_id: str,
        device_type: str = "device",
        protocols: tuple[str, ...] = ("mqtt",),
        *,
        registrar: Registrar,
        seconds: float = enrolment.INVITED_SECONDS,
    ) -> str:
        """Let a device enrol by itself, once, at a door of EST; return its token.

        The token is kept nowhere: whoever loses it invites anew, which ends the invitation of
        before. Raises FleetError for a device that is registered.
        """
        if self.find(device_id) is not None:
            raise FleetError(
                f"{device_id} is registered; see `fleetcert device show {device_id}`, and "
                f"`fleetcert device replace {device_id} NEW` where its key is lost"
            )
        token, word = enrolment.invitation_of(device_id, device_type, protocols, seconds, registrar)
        self._send_invitation(word)
        return token

    def withdraw(self, device_id: str) -> None:
        """End the invitation of a device, if it has one."""
        self._send_invitation(InviteDevice(device_id, b""))

    def _send_invitation(self, word: InviteDevice) -> None:
        self._writer.send(topics.DEVICE_INVITATIONS, word.device_id.encode(), word)
        self.flush()

    def write(self, one: Registration) -> None:
        """Hand a registration over; `flush` waits until Kafka has all of them."""
        event = one.event(self.actor)
        self._writer.send(topics.DEVICE_EVENTS, one.device_id.encode(), event)

    def approve(
        self,
        device_id: str,
        fingerprint: str,
        device_type: str = description.UNNAMED_TYPE,
        tags: Sequence[str] = (),
    ) -> None:
        """Register a device that waits with this certificate: its SHA-256, or 16 digits of it.

        Raises FleetError where another one waits, or none: then nothing has changed.
        """
        seen = self._waiting(device_id, fingerprint)
        self.ask(RegistrationApproved(device_id, seen, device_type, tuple(tags), self.actor))

    def reject(self, device_id: str, fingerprint: str) -> None:
        """Keep a device out that waits with this certificate; `approve` lets it in all the same."""
        seen = self._waiting(device_id, fingerprint)
        self.ask(RegistrationRejected(device_id, seen, self.actor))

    def _waiting(self, device_id: str, fingerprint: str) -> bytes:
        """Return the whole SHA-256 of the certificate that waits, where it is the one named."""
        row, said = self._row(device_id), fingerprint.lower().replace(":", "")
        if isinstance(row, DeviceRow):
            raise FleetError(f"{device_id} is registered; see `fleetcert device show {device_id}`")
        if not isinstance(row, PendingRow):
            raise FleetError(f"no device {device_id!r} waits; see `fleetcert device pending`")
        if len(said) < FINGERPRINT_DIGITS_MIN:
            raise FleetError(
                f"{fingerprint!r}: give at least {FINGERPRINT_DIGITS_MIN} digits of the "
                "certificate's SHA-256, as the device's label or its maker says"
            )
        if not row.certificate.fingerprint.hex().startswith(said):
            raise FleetError(
                f"{device_id} waits with another certificate, not with {fingerprint}; see "
                "`fleetcert device pending`"
            )
        return row.certificate.fingerprint

    def ask(self, event: Asked) -> list[Decision]:
        """Write what concerns a device and wait for the machine's answer.

        Raises FleetError with the machine's words where it refuses.
        """
        return self._answers.ask(event.device_id, event)

    def tag(
        self, device_id: str, added: Sequence[str] = (), removed: Sequence[str] = ()
    ) -> tuple[str, ...]:
        """Change a device's tags (`removed` by name or whole, first); return them as they are."""
        if wrong := description.tags_objection(added):
            raise FleetError(f"tags: {wrong}")
        self.device(device_id)
        self.ask(DeviceTagged(device_id, tuple(added), tuple(removed), self.actor))
        return self.device(device_id).tags

    def retire(self, device_id: str, replaced_by: str = "") -> None:
        """Retire a device for good; `replaced_by` gets its tags and its place in the fleet.

        Its certificates are refused at once and revoked. Raises FleetError where one is unknown.
        """
        self.device(device_id)
        if replaced_by == device_id:
            raise FleetError(f"{device_id} cannot take its own place")
        if replaced_by and self.device(replaced_by).retired_at:
            raise FleetError(f"{replaced_by} is retired itself")
        self.ask(RetirementOrdered(device_id, replaced_by, self.actor))

    def rotate(self, device_id: str) -> str:
        """Order a rotation now; return the id of the order."""
        order_id = f"order-{secrets.token_hex(8)}"
        event = RotationOrdered(device_id, order_id, self.actor)
        self._writer.send(topics.DEVICE_EVENTS, device_id.encode(), event)
        self.flush()
        return order_id

    def activate(self, policy: Policy) -> None:
        """Make every partition's machine go by this policy from now on.

        Raises FleetError for one that the machine would refuse.
        """
        if wrong := objection(policy):
            raise FleetError(f"no policy: {wrong}")
        for number in self.partitions(topics.DEVICE_EVENTS):
            row = self.partition_row(number)
            event = PolicyActivated(row.broadcast_number + 1, policy, self.actor)
            self._writer.send(topics.DEVICE_EVENTS, BROADCAST_KEY, event, number)
        self.flush()

    def flush(self) -> None:
        """Wait until Kafka has everything. Raises FleetError when it does not take it."""
        self._writer.flush()

    # -- what is known of it --------------------------------------------------------------------

    def ids(self) -> list[str]:
        """Return the ids of all devices: reads `device.state`, decodes none of it."""
        keys = self._reader.keys(topics.DEVICE_STATE, DeviceRow)
        return sorted(key.decode(errors="replace") for key in keys)

    def pending(self) -> list[PendingRow]:
        """Return who waits for approval, was rejected or has lapsed; who came first stands first.

        Reads all of `device.state` once, and decodes their rows alone.
        """
        rows: list[PendingRow] = self._reader.newest(topics.DEVICE_STATE, PendingRow)
        return sorted(rows, key=lambda one: (one.first_seen_at, one.device_id))

    def devices(self) -> dict[str, DeviceRow]:
        """Return the rows of all devices, by id: reads and decodes all of `device.state`."""
        newest = {found.key: found.record for found in self.read(topics.DEVICE_STATE)}
        rows = [one for one in newest.values() if isinstance(one, DeviceRow)]
        return {one.device_id: one for one in sorted(rows, key=lambda one: one.device_id)}

    def find(self, device_id: str) -> DeviceRow | None:
        """Return one device's row, None where it is not registered.

        Reads the one partition of `device.state` that murmur2 puts the id into, and decodes this
        device's rows only.
        """
        row = self._row(device_id)
        return row if isinstance(row, DeviceRow) else None

    def device(self, device_id: str) -> DeviceRow:
        """Return one device's row, as `find`. Raises FleetError where it is not registered."""
        row = self._row(device_id)
        if isinstance(row, PendingRow):
            raise FleetError(f"{device_id} is not approved; see `fleetcert device pending`")
        if not isinstance(row, DeviceRow):
            raise FleetError(f"no device {device_id!r} is registered; see `fleetcert device list`")
        return row

    def _row(self, device_id: str) -> object:
        row = None
        for found in self.read(topics.DEVICE_STATE, device_id=device_id):
            row = found.record
        return row

    def partition_row(self, partition: int) -> PartitionRow:
        """Return the partition row, as `device.state` holds it."""
        row = PartitionRow()
        for found in self.read(topics.DEVICE_STATE, partition=partition, key=PARTITION_KEY):
            row = found.record
        return row

    def alerts(self) -> list[Alert]:
        """Return the open alerts, oldest first.

        Reads all rows, and the decisions from the oldest open alert on.
        """
        found = [one for row in self.devices().values() for one in alerts.raised(row)]
        found += alerts.doors_away(self.partition_row(0))
        if not found:
            return []
        since = max(0, min(one.since_at for one in found) - LOOK_BACK_MS)
        decided = (one.record for one in self.read(topics.DECISIONS, since=since))
        named = alerts.with_values(found, (one for one in decided if isinstance(one, Decision)))
        return sorted(named, key=lambda one: (one.since_at, one.subject, one.rule))

    def decisions(self, device_id: str = "") -> list[Decision]:
        """Return the decisions, of one device where an id is given, in their order."""
        records = (one.record for one in self.read(topics.DECISIONS, device_id=device_id))
        return [one for one in records if isinstance(one, Decision)]

    def _acknowledged(self) -> Position | None:
        self.flush()
        return self._writer.last


def certificate_names(certificate: bytes) -> str:
    """Return the device that a certificate (PEM or DER) names, "" for none. Raises ValueError."""
    loaded = load_certificate(certificate)
    return named_device(loaded.subject, loaded.extensions)
