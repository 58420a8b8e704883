"""Quix Streams: state in RocksDB, with a changelog topic."""

import io

import fastavro
from quixstreams import Application, State
from work import (
    BOOTSTRAP,
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

SCHEMA_PARSED = fastavro.parse_schema(SCHEMA)
app = Application(
    broker_address=BOOTSTRAP,
    consumer_group=GROUP,
    auto_offset_reset="earliest",
    state_dir=STATE_DIR,
    commit_interval=COMMIT_SECONDS,
    loglevel="ERROR",
    producer_extra_config=PRODUCER,
    use_changelog_topics=True,
)
stepped = 0


def stepping(value: bytes, state: State) -> None:
    """Step one reading."""
    global stepped
    if not stepped:
        tell("first")
    event = fastavro.schemaless_reader(io.BytesIO(value), SCHEMA_PARSED, None)
    state.set_bytes("state", step(state.get_bytes("state", None), event["at"], event["latency"]))
    stepped += 1
    if stepped == EVENTS:
        tell("done")


readings = app.topic(TOPIC, key_deserializer="bytes", value_deserializer="bytes")
app.dataframe(readings).update(stepping, stateful=True)
app.run()
