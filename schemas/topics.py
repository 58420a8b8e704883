"""The topics: names, keys, retention. Partition counts are fixed at creation.

All producers partition by murmur2 of the key (`partitioner=murmur2_random` in librdkafka).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

DEVICE_EVENTS = "device.events"
DEVICE_COMMANDS = "device.commands"
CERTIFICATE_REQUESTS = "certificate.requests"
DEVICE_INVITATIONS = "device.invitations"
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
        "accepted signing and revocation requests, orders of first certificates",
        "device machine, operator client, doors of EST",
        False,
        True,
        {**_FOR_EVER, "message.timestamp.type": "LogAppendTime"},
    ),
    Topic(
        DEVICE_INVITATIONS,
        "device id, `answer:<device id>`",
        "who may enrol by a token, and what the issuer answered; no token",
        "operator client, issuer",
        False,
        False,
        {
            "cleanup.policy": "compact,delete",
            "retention.ms": "2678400000",
            "message.timestamp.type": "LogAppendTime",
        },
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


LIST_SECONDS = 5.0


class WrongTopics(RuntimeError):
    """A topic is missing or has another partition count; the message says what to do."""


def check(list_topics: Callable[..., Any], named: Callable[[str], str] = str) -> None:
    """Raise WrongTopics where there is not the catalogue: what every process does at its start.

    `list_topics` is the method of any client of confluent-kafka, whose errors pass: a Kafka that
    is away has no wrong topics. `named` says what a topic is called on Kafka.
    """
    there = list_topics(timeout=LIST_SECONDS).topics.items()
    counts = {name: len(one.partitions) for name, one in there if one.error is None}
    if found := objections(counts, named):
        raise WrongTopics(
            f"{'; '.join(found)}: create what is missing with `python -m client.local.containers "
            "topics`, or let this user describe them; partition counts are fixed at creation"
        )


def objections(counts: Mapping[str, int], named: Callable[[str], str] = str) -> list[str]:
    """Return what is wrong with the topics that are there, given their partition counts.

    A process on wrong topics would put keys where nobody looks for them.
    """
    missing = [one for one in (named(topic.name) for topic in TOPICS) if one not in counts]
    if missing:
        return [f"missing topics: {', '.join(missing)}"]
    count = counts[named(DEVICE_EVENTS)]
    there = [(one, named(one.name)) for one in TOPICS]
    return [
        f"topic {name} has {counts[name]} partitions, not {one.partitions(count)}"
        for one, name in there
        if counts[name] != one.partitions(count)
    ]
