"""How far the workers are behind: what a group has not committed of a topic yet."""

from confluent_kafka import Consumer, KafkaException, TopicPartition

from client.kafka import settings
from configuration.cluster import Cluster
from streams.engine.log import bounds_of

ASK_SECONDS = 3.0


def lag(cluster: Cluster, group: str, topic: str) -> dict[int, int]:
    """Return per partition the records after the group's committed offset.

    Empty where Kafka does not answer within seconds. The group is asked about, never joined.
    """
    consumer = Consumer(settings(cluster, **{"group.id": group, "enable.auto.commit": False}))
    try:
        name = cluster.named(topic)
        listed = consumer.list_topics(name, timeout=ASK_SECONDS).topics[name].partitions
        places = [TopicPartition(name, one) for one in listed]
        found = consumer.committed(places, timeout=ASK_SECONDS)
        return {
            one.partition: bounds_of(consumer, one, ASK_SECONDS).high - max(0, one.offset)
            for one in sorted(found, key=lambda one: one.partition)
        }
    except KafkaException:
        return {}
    finally:
        consumer.close()
