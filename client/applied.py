"""What of the configuration lives in the logs and the topics: policy, fleets' defaults, retention.

Rules of this file: the machines are deterministic, so what they go by is recorded, as broadcasts;
nothing is recorded that holds already; a broadcast counts when the machine's own row says so, for
another author may have taken its number.
"""

import json
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from typing import Any

from client.errors import FleetError
from client.kafka import Timeouts
from client.local import topics as catalogue
from client.reader import Reader
from client.writer import Writer
from configuration.cluster import Cluster
from configuration.model import Configuration
from schemas.envelope import BROADCAST_KEY
from schemas.events import PolicyActivated
from schemas.fleet_events import FleetDefaultsActivated
from schemas.fleet_states import FleetDefaultsRow
from schemas.states import PARTITION_KEY, PartitionRow, Policy
from schemas.topics import DEAD_LETTERS, DEVICE_EVENTS, DEVICE_STATE, FLEET_EVENTS, FLEET_STATE
from streams.core import fleet_config, ring

ACTOR = "configuration"
MISSED_CHECKS = 3
DAY_MS = 86_400_000
"""Health checks that a device may miss before it is silent."""
ATTEMPT_SECONDS = 10.0
LOOK_SECONDS = 0.2
ATTEMPTS = 3
RECENT_SECONDS = 60.0


def apply(cluster: Cluster, configuration: Configuration) -> list[str]:
    """Let everything hold that needs no restart; return a line for each thing that changed.

    Raises FleetError where Kafka or the workers do not answer, LocalError where Kafka refuses.
    """
    timeouts = Timeouts()
    days = configuration.iot.monitoring.retention_days
    said = [f"{DEAD_LETTERS}: kept for {days} days"] if catalogue.keep(cluster, days) else []
    with closing(Reader(cluster, timeouts)) as reader:
        recorded = _Recorded(reader, Writer(cluster, timeouts))
        for number in reader.partitions(DEVICE_EVENTS):
            said += recorded.policy(number, configuration)
        for number in reader.partitions(FLEET_EVENTS):
            said += recorded.defaults(number, configuration)
    return list(dict.fromkeys(said))


def policy_of(configuration: Configuration, before: Policy) -> Policy:
    """Return the policy of devices: what the configuration says, all else as before."""
    iot = configuration.iot
    return replace(
        before,
        days_before_expiry=iot.security.tls.cert_rotation,
        silent_after_ms=MISSED_CHECKS * 1_000 * iot.fleet.health_check_interval,
        anomaly_detection=iot.monitoring.anomaly_detection,
        just_in_time=iot.security.provisioning.just_in_time,
        pending_ms=DAY_MS * iot.security.provisioning.pending_days,
    )


def defaults_of(configuration: Configuration) -> str:
    """Return what all fleets inherit, as a patch in the fleets' own names and units."""
    iot = configuration.iot
    values = {
        "maxDevices": iot.fleet.max_devices,
        "updatePolicy.batchSize": iot.fleet.update_batch_size,
        "certRotation.daysBeforeExpiry": iot.security.tls.cert_rotation,
        "monitoring.healthCheckInterval": 1_000 * iot.fleet.health_check_interval,
        "monitoring.metricsInterval": 1_000 * iot.monitoring.metrics_interval,
    }
    return fleet_config.nested(values)


class _Recorded:
    """The rows that say what the machines go by, and the way to change them."""

    def __init__(self, reader: Reader, writer: Writer) -> None:
        self._reader, self._writer = reader, writer

    def policy(self, number: int, configuration: Configuration) -> list[str]:
        """Let a partition's devices go by the configuration."""

        def row() -> PartitionRow:
            found = self._row(DEVICE_STATE, number, PARTITION_KEY)
            return found if isinstance(found, PartitionRow) else PartitionRow()

        def event(before: PartitionRow) -> PolicyActivated | None:
            wanted = policy_of(configuration, before.policy)
            differs = wanted != before.policy
            return PolicyActivated(before.broadcast_number + 1, wanted, ACTOR) if differs else None

        before = row().policy
        after = self._until(DEVICE_EVENTS, number, row, event).policy
        return _told("devices", asdict(before), asdict(after))

    def defaults(self, number: int, configuration: Configuration) -> list[str]:
        """Let a partition's fleets inherit the configuration."""
        patch = defaults_of(configuration)

        def row() -> FleetDefaultsRow:
            found = self._row(FLEET_STATE, number, ring.DEFAULTS_KEY)
            return found if isinstance(found, FleetDefaultsRow) else FleetDefaultsRow()

        def event(before: FleetDefaultsRow) -> FleetDefaultsActivated | None:
            wanted = fleet_config.patched(before.overrides, patch)
            if fleet_config.resolved(wanted) == fleet_config.resolved(before.overrides):
                return None
            return FleetDefaultsActivated(before.number + 1, wanted, before.zone, ACTOR)

        before = row().overrides
        after = self._until(FLEET_EVENTS, number, row, event).overrides
        plain = (fleet_config.plain(fleet_config.resolved(one)) for one in (before, after))
        return _told("fleets", *plain)

    def _until(
        self,
        topic: str,
        partition: int,
        row: Callable[[], Any],
        event: Callable[[Any], Any | None],
    ) -> Any:
        """Record the event that the row lacks until it lacks none; return the row."""
        for _ in range(ATTEMPTS):
            before = row()
            wanted = event(before)
            if wanted is None:
                return before
            self._writer.send(topic, BROADCAST_KEY, wanted, partition)
            self._writer.flush()
            deadline = time.monotonic() + ATTEMPT_SECONDS
            while event(row()) is not None and time.monotonic() < deadline:
                time.sleep(LOOK_SECONDS)
        raise FleetError(
            f"{type(wanted).__name__} is recorded in {topic}[{partition}], but no worker has "
            "answered; see `fleetcert status`"
        )

    def _row(self, topic: str, partition: int, key: bytes) -> Any:
        """Return a row; one that a worker writes at every tick stands near the end."""
        record = None
        recent = int((time.time() - RECENT_SECONDS) * 1_000) if key == PARTITION_KEY else None
        for since in (recent, None) if recent else (None,):
            for found in self._reader.read(topic, partition=partition, key=key, since=since):
                record = found.record
            if record is not None:
                break
        return record


def _told(subject: str, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [
        f"{subject}: {name} {json.dumps(before[name])} -> {json.dumps(value)}"
        for name, value in after.items()
        if before[name] != value
    ]
