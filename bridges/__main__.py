"""`python -m bridges mqtt`, `coap` and `est`: one bridge."""

import argparse
import asyncio
import contextlib
import gc
import os
import sys
from functools import partial
from pathlib import Path

import structlog
from confluent_kafka import KafkaException

from bridges import run, suites
from bridges.coap import process as coap
from bridges.est import process as est
from bridges.est.renewals import Unmarked
from bridges.kafka import Recorder
from bridges.meter import Meter
from bridges.mqtt import settings
from bridges.mqtt.bridge import MqttBridge
from configuration import look
from configuration import options as shared
from configuration.model import Configuration
from configuration.source import InvalidConfiguration, unusable
from pki import anchors
from protocols.exposition import Endpoint, Registry
from schemas import topics

EXAMPLES = """examples:
  python -m bridges mqtt --config fleetcert.yaml
  python -m bridges mqtt --bootstrap 127.0.0.1:9092 --mqtt-host localhost --mqtt-port 8884 \\
      --ca service-ca.pem --cert bridge.pem --key bridge.key --secret-file stamp.secret
  python -m bridges coap --bootstrap 127.0.0.1:9092 --host 0.0.0.0 \\
      --cert coap.pem --key coap.key --device-ca device-ca.pem
  python -m bridges est --bootstrap 127.0.0.1:9092 --host 0.0.0.0 \\
      --cert est.pem --key est.key --device-ca device-ca.pem \\
      --ca-certificates service-ca.pem device-chain.pem
"""
GC_THRESHOLD = 50_000
"""Records in flight are many and in no cycle: looking at them often took a tenth of the time."""
SHARED = {
    "--bootstrap": "kafka.bootstrap",
    "--metrics-port": "metrics.port",
    "--metrics-host": "metrics.host",
}
MQTT = SHARED | {
    "--mqtt-host": "iot.mqtt.host",
    "--mqtt-port": "iot.mqtt.servicePort",
    "--ca": "iot.mqtt.tls.ca",
    "--cert": "iot.mqtt.tls.cert",
    "--key": "iot.mqtt.tls.key",
    "--secret-file": "iot.mqtt.secretFile",
    "--buckets": "iot.mqtt.buckets",
    "--group": "iot.mqtt.group",
    "--bridge-id": "iot.mqtt.clientId",
    "--session-timeout-seconds": "kafka.sessionTimeout",
    "--keep-alive-seconds": "iot.mqtt.bridgeKeepalive",
    "--heartbeat-seconds": "iot.mqtt.heartbeatInterval",
    "--waiting-mebibytes": "iot.mqtt.waiting",
    "--provisioning-ca": "iot.security.provisioning.ca",
}
COAP = SHARED | coap.OPTIONS
EST = SHARED | est.OPTIONS


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bridges",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    protocols = parser.add_subparsers(required=True, metavar="protocol")
    for name, process, what, names, work in (
        ("mqtt", "bridge", "between a broker and Kafka", MQTT, _mqtt),
        ("coap", "coap", "between CoAP devices and Kafka", COAP, coap.run),
        ("est", "est", "renewals of certificates over HTTPS", EST, est.run),
    ):
        one = protocols.add_parser(name, help=what)
        shared.add(one, names)
        one.set_defaults(work=work, names=names, process=process)
    return parser.parse_args(argv)


def _mqtt(found: Configuration, registry: Registry) -> None:
    own, meter = found.iot.mqtt, Meter(registry)
    door = settings.door(own)
    if own.secret_file is None:
        raise unusable("iot.mqtt.secretFile", "missing: the secret that the stamps are made with")
    secret = Path(own.secret_file).read_bytes()
    provisioning = anchors.named(found.iot.security.provisioning.ca)
    bridge_id = own.client_id or f"bridge-{os.getpid()}"
    group = run.GroupSettings(
        found.cluster,
        own.group,
        own.buckets,
        found.kafka.session_timeout,
        bridge_id,
        own.heartbeat_interval,
    )

    def make(recorder: Recorder) -> MqttBridge:
        meter.recorder.watch(recorder)
        bridge = MqttBridge(door, bridge_id, secret, recorder, meter, provisioning)
        meter.watch(own.buckets, lambda: len(bridge.served()))
        return bridge

    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 50, 50)
    recorder = Recorder(found.cluster, own.waiting << 20, bridge_id)
    asyncio.run(run.run(group, recorder, make))


def main(argv: list[str] | None = None) -> None:
    """Read the options and run until SIGTERM."""
    options = _options(argv)
    found = shared.read_or_exit(options, options.names, options.process).configuration
    suites.hold(found.iot.security.tls.cipher_suites)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    registry = Registry()
    if found.metrics.port:
        Endpoint(registry, found.metrics.port, found.metrics.host)
    try:
        with contextlib.suppress(KafkaException):
            cluster = found.cluster
            topics.check(partial(look.list_topics, cluster), cluster.named)
        options.work(found, registry)
    except (topics.WrongTopics, look.Refused, InvalidConfiguration, Unmarked) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
