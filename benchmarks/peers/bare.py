"""The floor: a consumer, a dict, RocksDB and a coalesced changelog; no rebalance, no recovery."""

import io
import sys
import time

import fastavro
from confluent_kafka import Consumer, Producer
from rocksdict import Options, Rdict, WriteBatch
from work import (
    BOOTSTRAP,
    CHANGELOG,
    COMMIT_SECONDS,
    EVENTS,
    GROUP,
    PRODUCER,
    SCHEMA,
    STATE_DIR,
    TOPIC,
    step,
    tell,
)

BATCH_MAX = 5_000


def main() -> None:
    """Consume, step, write the batch's rows to changelog and store, commit once a second."""
    consumer = Consumer(
        {
            "bootstrap.servers": BOOTSTRAP,
            "group.id": GROUP,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "fetch.min.bytes": 65_536,
            "max.partition.fetch.bytes": 4_194_304,
            "queued.max.messages.kbytes": 131_072,
        }
    )
    consumer.subscribe([TOPIC])
    producer = Producer(
        {
            "bootstrap.servers": BOOTSTRAP,
            "enable.idempotence": True,
            "queue.buffering.max.messages": 1_000_000,
            **PRODUCER,
        }
    )
    store = Rdict(f"{STATE_DIR}/bare", Options(raw_mode=True))
    schema, read, buffer = fastavro.parse_schema(SCHEMA), fastavro.schemaless_reader, io.BytesIO
    states: dict[bytes, bytes] = {}
    stepped, committed_at = 0, time.monotonic()
    while stepped < EVENTS:
        messages = consumer.consume(BATCH_MAX, 1.0)
        if not messages:
            continue
        if not stepped:
            tell("first")
        changed: dict[bytes, tuple[bytes, int]] = {}
        for message in messages:
            event, key = read(buffer(message.value()), schema, None), message.key()
            states[key] = state = step(states.get(key), event["at"], event["latency"])
            changed[key] = (state, message.partition())
        batch = WriteBatch(raw_mode=True)
        for key, (state, partition) in changed.items():
            producer.produce(CHANGELOG, state, key, partition)
            batch.put(key, state)
        producer.poll(0)
        store.write(batch)
        stepped += len(messages)
        if stepped >= EVENTS or time.monotonic() - committed_at > COMMIT_SECONDS:
            producer.flush()
            consumer.commit(asynchronous=False)
            committed_at = time.monotonic()
    tell("done")
    sys.stdin.readline()


main()
