"""The topics: names, keys, retention. Partition counts are fixed at creation.

All producers partition by murmur2 of the key (`partitioner=murmur2_random` in librdkafka).
"""

from dataclasses import dataclass, field

DEVICE_EVENTS = "device.events"
DEVICE_COMMANDS = "device.commands"
CERTIFICATE_REQUESTS = "certificate.requests"
DECISIONS = "decisions"
DEVICE_STATE = "device.state"
DEAD_LETTERS = "dead.letters"
FLEET_EVENTS = "fleet.events"
FLEET_STATE = "fleet.state"

PARTITIONER = "murmur2_random"
"""librdkafka's name for what Java and aiokafka do by default."""

RECORD_BYTES_MAX = 1_048_576
"""The largest record of any topic."""

_FOR_EVER = {"retention.ms": "-1", "retention.bytes": "-1"}


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. `co_partitioned` topics share the partition count of `device.events`."""

    name: str
    key: str
    holds: str
    written_by: str
    co_partitioned: bool
    history: bool
    config: dict[str, str] = field(default_factory=dict)

    def partitions(self, count: int) -> int:
        """Return the partition count where `device.events` has `count`."""
        return count if self.co_partitioned else 1


TOPICS: tuple[Topic, ...] = (
    Topic(
        DEVICE_EVENTS,
        "device id",
        "the history of devices: source of truth",
        "bridges, operator client, fleet machine, issuer, clock",
        True,
        True,
        {**_FOR_EVER, "message.timestamp.type": "LogAppendTime"},
    ),
    Topic(
        DEVICE_COMMANDS,
        "device id",
        "commands for bridges to deliver",
        "device machine",
        True,
        False,
        {"retention.ms": "604800000", "message.timestamp.type": "LogAppendTime"},
    ),
    Topic(
        CERTIFICATE_REQUESTS,
        "device id",
        "accepted signing and revocation requests",
        "device machine",
        False,
        True,
        {**_FOR_EVER, "message.timestamp.type": "LogAppendTime"},
    ),
    Topic(
        DECISIONS,
        "`device:<id>`, `partition:<n>` or `door:<name>/<share>`",
        "every decision and alert",
        "device machine",
        True,
        True,
        {**_FOR_EVER, "message.timestamp.type": "LogAppendTime"},
    ),
    Topic(
        DEVICE_STATE,
        "device id or `@partition`",
        "the rows, compacted",
        "device machine",
        True,
        False,
        {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.2"},
    ),
    Topic(
        FLEET_EVENTS,
        "fleet id",
        "the history of fleets: source of truth",
        "operator client, device machine, clock",
        True,
        True,
        {**_FOR_EVER, "message.timestamp.type": "LogAppendTime"},
    ),
    Topic(
        FLEET_STATE,
        "`fleet:<id>`, `member:…`, `campaign:…`, `queue:…` or `@partition`",
        "the rows, compacted",
        "fleet machine",
        True,
        False,
        {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.2"},
    ),
    Topic(
        DEAD_LETTERS,
        "original key",
        "what could not be understood or was refused",
        "anyone",
        False,
        False,
        {"retention.ms": "7776000000"},
    ),
)

BY_NAME = {topic.name: topic for topic in TOPICS}
