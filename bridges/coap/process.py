"""`python -m bridges coap`: the options of one CoAP bridge, and its life."""

import asyncio
import gc
import ipaddress
import logging
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bridges import run as life
from bridges.coap.bridge import CoapBridge
from bridges.coap.listeners import LOGGER, Settings
from bridges.coap.meter import Meter
from bridges.coap.tcp import narrow_buffers
from bridges.commands import AllCommands
from bridges.files import identity, kept
from bridges.heartbeat import Rhythm
from bridges.kafka import Recorder
from configuration.iot import Coap
from configuration.model import Configuration
from configuration.source import unusable
from protocols.exposition import Registry

GC_THRESHOLDS = (50_000, 50, 1_000)
"""Messages are many and in no cycle: by default, collecting takes a third of the time."""
SHARES = 1
"""Of this door: a device may connect to any process."""
IFF_UP, IFF_MULTICAST = 0x1, 0x1000
LOOPBACK = "lo"
WILDCARD = "::"
OPTIONS = {
    "--host": "iot.coap.host",
    "--port": "iot.coap.port",
    "--client-id": "iot.coap.clientId",
    "--cert": "iot.coap.tls.cert",
    "--key": "iot.coap.tls.key",
    "--device-ca": "iot.coap.tls.ca",
    "--revocation-list": "iot.coap.revocationList",
    "--dtls": "iot.coap.dtls",
    "--plain-port": "iot.coap.plainPort",
    "--multicast": "iot.coap.multicast",
    "--interfaces": "iot.coap.interfaces",
    "--block-size": "iot.coap.blockSize",
    "--idle-seconds": "iot.coap.idleTimeout",
    "--sessions-max": "iot.coap.maxSessions",
    "--requests-per-second": "iot.coap.requestsPerSecond",
    "--renewal-port": "iot.coap.renewalPort",
    "--grace-days": "issuer.graceDays",
    "--ca-certificates": "iot.coap.caCertificates",
    "--shared": "iot.coap.shared",
    "--provisioning-ca": "iot.security.provisioning.ca",
}


def settings(
    own: Coap, folder: Path, grace_days: float = 30.0, provisioning_ca: Sequence[str] = ()
) -> Settings:
    """Return the bridge's settings; PEM text of the configuration is kept in `folder`.

    Raises InvalidConfiguration where the identity is missing.
    """
    certificate, key, device_ca = identity(own.tls, "iot.coap", folder)
    spread = own.multicast and own.plain_port > 0
    return Settings(
        certificate=certificate,
        key=key,
        device_ca=device_ca,
        revocation_list=Path(own.revocation_list) if own.revocation_list else None,
        host=own.host,
        port=own.port,
        plain_port=own.plain_port,
        plain_host=WILDCARD if spread else "",
        multicast=interfaces(own) if spread else (),
        dtls=frozenset(one.removeprefix("DTLSv") for one in own.dtls),
        block_size=own.block_size,
        idle_seconds=own.idle_timeout,
        sessions_max=own.max_sessions,
        requests_per_second=own.requests_per_second,
        shared=own.shared,
        renewal_port=own.renewal_port or None,
        grace_days=grace_days,
        ca_certificates=(kept(folder / "cas.pem", *(own.ca_certificates or own.tls.ca)),),
        provisioning_ca=(
            kept(folder / "provisioning.pem", *provisioning_ca) if provisioning_ca else None
        ),
    )


def interfaces(own: Coap) -> tuple[str, ...]:
    """Return where discovery by multicast is answered.

    What secured addresses are told must be reachable from there: a bridge on the loopback answers
    there alone. Raises InvalidConfiguration for an interface that is not there.
    """
    there = [name for _, name in socket.if_nameindex()]
    if own.interfaces:
        if missing := sorted(set(own.interfaces) - set(there)):
            found = f"this machine has no {', '.join(missing)}, it has {', '.join(there)}"
            raise unusable("iot.coap.interfaces", found)
        return tuple(own.interfaces)
    if own.host == "localhost" or _is_loopback(own.host):
        return (LOOPBACK,)
    return tuple(one for one in there if _is_up(one))


def run(found: Configuration, registry: Registry) -> None:
    """Run one bridge until SIGTERM."""
    with tempfile.TemporaryDirectory() as folder:
        trusted = found.iot.security.provisioning.ca
        wanted = settings(found.iot.coap, Path(folder), found.issuer.grace_days, trusted)
        _run(found, wanted, registry)


def _run(found: Configuration, wanted: Settings, registry: Registry) -> None:
    meter, client_id = Meter(registry), found.iot.coap.client_id or "coap"

    def make(recorder: Recorder) -> CoapBridge:
        meter.recorder.watch(recorder)
        return CoapBridge(wanted, recorder, meter)

    def source(bridge: CoapBridge) -> AllCommands:
        return AllCommands(found.cluster, bridge.deliver, bridge.caught_up, "coap-bridges")

    logging.getLogger(LOGGER).setLevel(logging.ERROR)  # whoever sends garbage fills no log
    narrow_buffers()
    gc.set_threshold(*GC_THRESHOLDS)
    recorder = Recorder(found.cluster, client_id=client_id)
    asyncio.run(life.live(recorder, make, source, Rhythm(SHARES)))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_up(name: str) -> bool:
    flags = Path("/sys/class/net", name, "flags")
    wanted = IFF_UP | IFF_MULTICAST
    return flags.exists() and int(flags.read_text(), 16) & wanted == wanted
