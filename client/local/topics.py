"""Create the topics of the catalogue, and check that what is there is what we need."""

import time

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from client.local.errors import LocalError
from schemas.topics import DEVICE_EVENTS, TOPICS, objections

REQUEST_SECONDS = 30.0
VISIBLE_SECONDS = 10.0
"""A topic just created shows up in the metadata a moment later."""
VISIBLE_POLL_SECONDS = 0.1


def create_topics(bootstrap: str, partitions: int, replication: int = 1) -> None:
    """Create what is missing; raise LocalError where a partition count differs."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    wanted = [
        NewTopic(one.name, one.partitions(partitions), replication, config=dict(one.config))
        for one in TOPICS
    ]
    for name, future in admin.create_topics(wanted, operation_timeout=REQUEST_SECONDS).items():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise LocalError(
                    f"topic {name} cannot be created: {error.args[0].str()}"
                ) from error
    check_topics(admin, partitions)


def check_topics(admin: AdminClient, partitions: int) -> None:
    """Raise LocalError where a topic is missing or has another partition count."""
    until = time.monotonic() + VISIBLE_SECONDS
    there = admin.list_topics(timeout=REQUEST_SECONDS).topics
    while any(one.name not in there for one in TOPICS) and time.monotonic() < until:
        time.sleep(VISIBLE_POLL_SECONDS)
        there = admin.list_topics(timeout=REQUEST_SECONDS).topics
    counts = {name: len(one.partitions) for name, one in there.items()}
    found = objections(counts)
    if not found and counts[DEVICE_EVENTS] != partitions:
        found = [f"topic {DEVICE_EVENTS} has {counts[DEVICE_EVENTS]} partitions, not {partitions}"]
    if found:
        raise LocalError(
            f"{'; '.join(found)}: partition counts are fixed at creation; start with --partitions "
            "as created, or with another --data-dir"
        )
