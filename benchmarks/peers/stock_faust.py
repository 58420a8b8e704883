"""Stock Faust: a table on RocksDB, message by message."""

import io
import sys

import fastavro
import faust
from work import BOOTSTRAP, COMMIT_SECONDS, EVENTS, GROUP, SCHEMA, STATE_DIR, TOPIC, step, tell

SCHEMA_PARSED = fastavro.parse_schema(SCHEMA)
app = faust.App(
    GROUP,
    broker=f"kafka://{BOOTSTRAP}",
    store="rocksdb://?driver=rocksdict",
    topic_partitions=4,
    topic_replication_factor=1,
    datadir=STATE_DIR,
    broker_commit_interval=COMMIT_SECONDS,
    broker_max_poll_records=5_000,
    consumer_auto_offset_reset="earliest",
    producer_compression_type="lz4",
    producer_linger_ms=20,
    producer_max_batch_size=262_144,
    stream_buffer_maxsize=8_192,
    stream_wait_empty=False,
    topic_disable_leader=True,
    web_enabled=False,
)
readings = app.topic(TOPIC, key_serializer="raw", value_serializer="raw")
states = app.Table("state", key_type=bytes, value_type=bytes, partitions=4)


@app.agent(readings)
async def stepping(stream) -> None:
    """Step every reading."""
    stepped = 0
    async for key, value in stream.items():
        if not stepped:
            tell("first")
        event = fastavro.schemaless_reader(io.BytesIO(value), SCHEMA_PARSED, None)
        states[key] = step(states.get(key), event["at"], event["latency"])
        stepped += 1
        if stepped == EVENTS:
            tell("done")


if __name__ == "__main__":
    sys.argv = ["faust", "worker", "-l", "error", "--without-web"]
    app.main()
