"""`python -m bridges coap`: the options of one CoAP bridge, and its life."""

import argparse
import asyncio
import gc
import logging
from pathlib import Path

from bridges import run as life
from bridges.coap.bridge import CoapBridge
from bridges.coap.listeners import LOGGER, Settings
from bridges.coap.meter import Meter
from bridges.coap.tcp import narrow_buffers
from bridges.commands import AllCommands
from bridges.heartbeat import Rhythm
from bridges.kafka import Recorder
from protocols.exposition import Registry

GC_THRESHOLDS = (50_000, 50, 1_000)
"""Messages are many and in no cycle: by default, collecting takes a third of the time."""
SHARES = 1
"""Of this door: a device may connect to any process."""
BLOCK_SIZES = (16, 32, 64, 128, 256, 512, 1024)
VERSIONS = ("1.3", "1.2")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what a CoAP bridge can be told."""
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=5684, help="coaps+tcp and coaps")
    for name, what in (
        ("--cert", "our certificate, PEM"),
        ("--key", "our key, ECDSA P-256 or P-384 for DTLS 1.3"),
        ("--device-ca", "the device CA, and those before it"),
    ):
        parser.add_argument(name, type=Path, required=True, help=what)
    parser.add_argument("--revocation-list", type=Path, help="read again when it changes")
    parser.add_argument(
        "--dtls",
        nargs="*",
        choices=VERSIONS,
        default=["1.3"],
        help="the versions of coaps over UDP, by name; none: coaps+tcp alone",
    )
    parser.add_argument("--plain-port", type=int, default=0, help="discovery; 0: none, else 5683")
    parser.add_argument("--plain-host", default="", help='else as --host; "::" for multicast')
    parser.add_argument(
        "--multicast", nargs="*", default=[], metavar="INTERFACE", help="discovery by multicast"
    )
    parser.add_argument("--block-size", type=int, choices=BLOCK_SIZES, default=1024)
    parser.add_argument("--idle-seconds", type=float, default=3_600.0)
    parser.add_argument("--sessions-max", type=int, default=10_000)
    parser.add_argument("--requests-per-second", type=float, default=50.0, help="per session")
    parser.add_argument(
        "--renewal-port", type=int, help="coaps+tcp for EST with an expired certificate; else none"
    )
    parser.add_argument("--grace-days", type=float, default=30.0, help="how long it may be expired")
    parser.add_argument(
        "--ca-certificates", type=Path, nargs="*", default=[], help="what /est/crts hands out, PEM"
    )
    parser.add_argument("--shared", action="store_true", help="other processes share the port")


def settings(options: argparse.Namespace) -> Settings:
    """Return the settings that the options are."""
    return Settings(
        certificate=options.cert,
        key=options.key,
        device_ca=options.device_ca,
        revocation_list=options.revocation_list,
        host=options.host,
        port=options.port,
        plain_port=options.plain_port,
        plain_host=options.plain_host,
        multicast=tuple(options.multicast),
        dtls=frozenset(options.dtls),
        block_size=options.block_size,
        idle_seconds=options.idle_seconds,
        sessions_max=options.sessions_max,
        requests_per_second=options.requests_per_second,
        shared=options.shared,
        renewal_port=options.renewal_port,
        grace_days=options.grace_days,
        ca_certificates=tuple(options.ca_certificates),
    )


def run(options: argparse.Namespace, registry: Registry) -> None:
    """Run one bridge until SIGTERM."""
    meter, wanted = Meter(registry), settings(options)

    def make(recorder: Recorder) -> CoapBridge:
        meter.recorder.watch(recorder)
        return CoapBridge(wanted, recorder, meter)

    def source(bridge: CoapBridge) -> AllCommands:
        return AllCommands(options.bootstrap, bridge.deliver, bridge.caught_up, "coap-bridges")

    logging.getLogger(LOGGER).setLevel(logging.ERROR)  # whoever sends garbage fills no log
    narrow_buffers()
    gc.set_threshold(*GC_THRESHOLDS)
    asyncio.run(life.live(Recorder(options.bootstrap), make, source, Rhythm(SHARES)))
