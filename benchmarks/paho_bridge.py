"""MQTT to Kafka with paho and manual acknowledgement: a peer of our bridge in benchmarks.bridge.

It passes bytes on: no identity is verified, nothing is encoded, nothing is bounded.
"""

import os

import paho.mqtt.client as mqtt
from confluent_kafka import KafkaError
from paho.mqtt.enums import CallbackAPIVersion

from benchmarks import passing

POLL_EVERY = 50


def main() -> None:
    """Run until killed."""
    environment = os.environ
    host, port = environment["MQTT"].split(":")
    producer = passing.producer()
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2,
        client_id=environment["CLIENT_ID"],
        protocol=mqtt.MQTTv311,
        clean_session=False,
        manual_ack=True,
    )
    client.tls_set_context(passing.tls())
    taken = 0

    def on_message(_client: mqtt.Client, _user: object, message: mqtt.MQTTMessage) -> None:
        nonlocal taken

        def delivered(error: KafkaError | None, _message: object) -> None:
            if error is None:
                client.ack(message.mid, message.qos)

        key = message.topic.split("/", 4)[3]
        producer.produce(environment["TOPIC"], message.payload, key, on_delivery=delivered)
        taken += 1
        if taken % POLL_EVERY == 0:
            producer.poll(0)

    def on_connect(*_: object) -> None:
        client.subscribe("bucket/#", 1)

    client.on_message = on_message
    client.on_connect = on_connect
    client.connect(host, int(port))
    while True:
        client.loop(0.005)
        producer.poll(0)


if __name__ == "__main__":
    main()
