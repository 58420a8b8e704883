"""`python -m bridges mqtt`, `coap` and `est`: one bridge."""

import argparse
import asyncio
import contextlib
import gc
import os
import sys
from pathlib import Path

import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from bridges import run
from bridges.coap import process as coap
from bridges.est import process as est
from bridges.est.renewals import Unmarked
from bridges.kafka import Recorder
from bridges.meter import Meter
from bridges.mqtt import settings
from bridges.mqtt.bridge import MqttBridge
from bridges.mqtt.client import KEEP_ALIVE_SECONDS, Door
from protocols.exposition import Endpoint, Registry
from schemas import topics

EXAMPLES = """examples:
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


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bridges",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    protocols = parser.add_subparsers(required=True, metavar="protocol")
    mqtt = protocols.add_parser("mqtt", help="between a broker and Kafka")
    _mqtt_options(mqtt)
    mqtt.set_defaults(work=_mqtt)
    constrained = protocols.add_parser("coap", help="between CoAP devices and Kafka")
    coap.add_options(constrained)
    constrained.set_defaults(work=coap.run)
    enrolment = protocols.add_parser("est", help="renewals of certificates over HTTPS")
    est.add_options(enrolment)
    enrolment.set_defaults(work=est.run)
    for one in (mqtt, constrained, enrolment):
        one.add_argument("--bootstrap", default="127.0.0.1:9092", help="Kafka's host:port")
        one.add_argument("--metrics-port", type=int, default=0, help="0: no endpoint")
        one.add_argument("--metrics-host", default="127.0.0.1", help="who may ask: this machine")
    return parser.parse_args(argv)


def _mqtt_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", type=Path, help="YAML: host, port, clientId, tls; or:")
    parser.add_argument("--mqtt-host", default="localhost")
    parser.add_argument("--mqtt-port", type=int, default=8884, help="the service listener")
    for name, what in (
        ("--ca", "who signed the broker"),
        ("--cert", "our certificate"),
        ("--key", "our key"),
    ):
        parser.add_argument(name, type=Path, default=Path(name[2:] + ".pem"), help=what)
    what = "the stamp's secret, shared with the plugin"
    parser.add_argument("--secret-file", type=Path, required=True, help=what)
    parser.add_argument("--buckets", type=int, default=8, help="as the plugin has them")
    parser.add_argument("--group", default="mqtt-bridges")
    parser.add_argument("--bridge-id", default=f"bridge-{os.getpid()}")
    parser.add_argument("--session-timeout-seconds", type=float, default=6.0)
    parser.add_argument("--keep-alive-seconds", type=int, default=KEEP_ALIVE_SECONDS)
    parser.add_argument("--heartbeat-seconds", type=float, default=10.0, help="0: none")
    parser.add_argument(
        "--waiting-mebibytes", type=int, default=32, help="for Kafka, before no more is taken"
    )


def _mqtt(options: argparse.Namespace, registry: Registry) -> None:
    secret, meter = options.secret_file.read_bytes(), Meter(registry)
    bridge_id, door = options.bridge_id, _door(options)
    if options.settings is not None:
        bridge_id, door = settings.read(options.settings)
    group = run.GroupSettings(
        options.bootstrap,
        options.group,
        options.buckets,
        options.session_timeout_seconds,
        bridge_id,
        options.heartbeat_seconds,
    )

    def make(recorder: Recorder) -> MqttBridge:
        meter.recorder.watch(recorder)
        bridge = MqttBridge(door, bridge_id, secret, recorder, meter)
        meter.watch(options.buckets, lambda: len(bridge.served()))
        return bridge

    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 50, 50)
    asyncio.run(run.run(group, Recorder(options.bootstrap, options.waiting_mebibytes << 20), make))


def _door(options: argparse.Namespace) -> Door:
    return Door(
        options.mqtt_host,
        options.mqtt_port,
        (options.ca,),
        options.cert,
        options.key,
        options.keep_alive_seconds,
    )


def main(argv: list[str] | None = None) -> None:
    """Read the options and run until SIGTERM."""
    options = _options(argv)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    registry = Registry()
    if options.metrics_port:
        Endpoint(registry, options.metrics_port, options.metrics_host)
    try:
        with contextlib.suppress(KafkaException):
            topics.check(AdminClient({"bootstrap.servers": options.bootstrap}).list_topics)
        options.work(options, registry)
    except (topics.WrongTopics, settings.InvalidSettings, Unmarked) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
