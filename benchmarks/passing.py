"""What the Python peers of benchmarks.bridge share: TLS to the broker, and a producer for Kafka."""

import os
import ssl

from confluent_kafka import Producer


def tls() -> ssl.SSLContext:
    """Return mutual TLS by the files that the environment names."""
    context = ssl.create_default_context(cafile=os.environ["CA"])
    context.load_cert_chain(os.environ["CERT"], os.environ["KEY"])
    return context


def producer() -> Producer:
    """Return a producer that batches and compresses as our bridge's does."""
    return Producer(
        {
            "bootstrap.servers": os.environ["BOOTSTRAP"],
            "linger.ms": 5,
            "compression.type": "lz4",
            "enable.idempotence": True,
            "queue.buffering.max.messages": 0,
        }
    )
