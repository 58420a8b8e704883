"""Create the topics of the catalogue, and check that what is there is what we need."""

import time
from collections.abc import Callable, Collection

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
)

from client.local.errors import LocalError
from configuration import look
from configuration.cluster import NOTICE, Cluster
from schemas.topics import DEAD_LETTERS, DEVICE_EVENTS, TOPICS, objections

REQUEST_SECONDS = 30.0
RETENTION_DAYS = 90
DAY_MS = 86_400_000
VISIBLE_SECONDS = 10.0
"""A topic just created shows up in the metadata a moment later."""
VISIBLE_POLL_SECONDS = 0.1


def create_topics(
    cluster: Cluster, partitions: int, replication: int = 1, retention_days: int = RETENTION_DAYS
) -> None:
    """Create what is missing; raise LocalError where a partition count differs.

    `retention_days` is for what is no history: the dead letters.
    """
    admin = AdminClient(cluster.settings(NOTICE))
    there = _there(cluster)
    wanted = [
        NewTopic(
            cluster.named(one.name),
            one.partitions(partitions),
            replication,
            config=one.config | retention(one.name, retention_days),
        )
        for one in TOPICS
        if cluster.named(one.name) not in there
    ]
    made = admin.create_topics(wanted, operation_timeout=REQUEST_SECONDS) if wanted else {}
    for name, future in made.items():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise LocalError(
                    f"topic {name} cannot be created: {error.args[0].str()}"
                ) from error
    check_topics(admin, partitions, cluster.named)


def _there(cluster: Cluster) -> Collection[str]:
    """Return the topics that this client may see. Raises LocalError where Kafka is away."""
    try:
        listed = look.list_topics(cluster, timeout=REQUEST_SECONDS).topics
    except look.Refused as error:
        raise LocalError(str(error)) from error
    except KafkaException as error:
        raise LocalError(f"Kafka at {cluster} does not answer: {error.args[0].str()}") from error
    return [name for name, one in listed.items() if one.error is None]


def retention(topic: str, days: int) -> dict[str, str]:
    """Return what a topic's configuration says of retention, where days govern it."""
    return {"retention.ms": str(days * DAY_MS)} if topic == DEAD_LETTERS else {}


def keep(cluster: Cluster, days: int) -> bool:
    """Let the topics that days govern keep their records for so long; False where they do.

    Raises LocalError where Kafka does not answer.
    """
    admin = AdminClient(cluster.settings(NOTICE))
    resource = ConfigResource(ConfigResource.Type.TOPIC, cluster.named(DEAD_LETTERS))
    wanted = retention(DEAD_LETTERS, days)
    try:
        (described,) = admin.describe_configs([resource], request_timeout=REQUEST_SECONDS).values()
        if all(described.result()[name].value == value for name, value in wanted.items()):
            return False
        for name, value in wanted.items():
            entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
            resource.add_incremental_config(entry)
        (altered,) = admin.incremental_alter_configs([resource]).values()
        altered.result(REQUEST_SECONDS)
    except KafkaException as error:
        raise LocalError(f"{DEAD_LETTERS} cannot be altered: {error.args[0].str()}") from error
    return True


def check_topics(admin: AdminClient, partitions: int, named: Callable[[str], str] = str) -> None:
    """Raise LocalError where a topic is missing or has another partition count."""
    until = time.monotonic() + VISIBLE_SECONDS
    there = admin.list_topics(timeout=REQUEST_SECONDS).topics
    while any(named(one.name) not in there for one in TOPICS) and time.monotonic() < until:
        time.sleep(VISIBLE_POLL_SECONDS)
        there = admin.list_topics(timeout=REQUEST_SECONDS).topics
    counts = {name: len(one.partitions) for name, one in there.items()}
    found, history = objections(counts, named), named(DEVICE_EVENTS)
    if not found and counts[history] != partitions:
        found = [f"topic {history} has {counts[history]} partitions, not {partitions}"]
    if found:
        raise LocalError(
            f"{'; '.join(found)}: partition counts are fixed at creation; start with --partitions "
            "as created, or with another --data-dir"
        )
