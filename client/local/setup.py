"""What must exist before the stack starts: Kafka's jars, the plugin, authorities, certificates."""

import secrets
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from bridges.mqtt.broker import build, config, release
from client.local import dtls13, kafka
from client.local.errors import LocalError
from client.local.layout import HOST, Layout
from configuration.model import Configuration
from pki import anchors, authority, files

SERVICE_DAYS = 365
EVERY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - no name of a certificate
SERVICES = {
    "broker": {"client": False},
    "bridge": {"server": False},
    "coap": {"client": False, "registration": True},
    "est": {"client": False, "registration": True},
    "registrar": {"client": False, "server": False, "registrar": True},
}
"""What each certificate is for. The doors that speak EST vouch for the devices that renew there."""


def tools(layout: Layout) -> tuple[Path, Path]:
    """Return Kafka's jars and the broker's plugin; fetch or build what is missing."""
    try:
        return kafka.install(layout.tools_dir), build.build(layout.tools_dir)
    except build.BuildError as error:
        raise LocalError(str(error)) from error


def identities(layout: Layout, names: tuple[str, ...] = ()) -> None:
    """Create the authorities, the services' certificates and the stamp's secret, once.

    The doors are reached under `names` too, beside this machine's and the configuration's.
    """
    now, iot = datetime.now(UTC), layout.configuration.iot
    own = ("localhost", HOST, iot.mqtt.host, iot.mqtt.listen, iot.coap.host, iot.est.host)
    names = tuple(one for one in dict.fromkeys((*own, *names)) if one not in EVERY_ADDRESS)
    if not (layout.pki_dir / "device-ca" / "ca.pem").exists():
        authority.create(layout.pki_dir, now=now)
    service_ca = authority.load_service(layout.pki_dir)
    layout.services_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, uses in SERVICES.items():
        if (layout.services_dir / f"{name}.pem").exists():
            continue
        certificate, key = authority.issue_service(
            service_ca,
            name,
            list(names),
            now=now,
            days=SERVICE_DAYS,
            **uses,
        )
        files.write(layout.services_dir / f"{name}.key", key, files.PRIVATE)
        files.write(layout.services_dir / f"{name}.pem", certificate)
    chain = layout.services_dir / "device-chain.pem"
    if not chain.exists():
        parts = (layout.pki_dir / "device-ca" / "ca.pem", layout.pki_dir / "root" / "root.pem")
        files.write(chain, b"".join(one.read_bytes() for one in parts))
    if not layout.stamp_secret.exists():
        files.write(layout.stamp_secret, secrets.token_bytes(32), files.PRIVATE)


def provisioning(configuration: Configuration, folder: Path) -> dict[str, Any]:
    """Return what the broker is told of CAs whose devices may enrol; kept in a file of `folder`."""
    found = anchors.named(configuration.iot.security.provisioning.ca)
    if not found:
        return {}
    kept = folder / "provisioning.pem"
    files.write(kept, b"".join(one.public_bytes(Encoding.PEM) for one in found))
    return {"provisioning_issuers": kept}


def broker(layout: Layout, plugin: Path, user: str | None) -> Path:
    """Write the broker's configuration; return its path."""
    return config.write(broker_settings(layout, plugin, user))


def broker_settings(layout: Layout, plugin: Path, user: str | None) -> config.BrokerSettings:
    """Return what the broker is told."""
    here, own = layout.services_dir.resolve(), layout.configuration.iot.mqtt
    return config.BrokerSettings(
        data_dir=layout.broker_dir.resolve(),
        device_ca=here / "device-chain.pem",
        service_ca=layout.pki_dir.resolve() / "service-ca" / "ca.pem",
        server_cert=here / "broker.pem",
        server_key=here / "broker.key",
        plugin=plugin,
        secret_file=here / "stamp.secret",
        device_issuers=layout.pki_dir.resolve() / "device-ca" / "ca.pem",
        host=own.listen,
        device_port=layout.device_port,
        service_port=layout.service_port,
        user=user,
        **limits(layout.configuration) | {"buckets": layout.buckets},
        **provisioning(layout.configuration, here),
    )


def limits(configuration: Configuration) -> dict[str, Any]:
    """Return what the configuration says of the broker, wherever its files are."""
    own = configuration.iot.mqtt
    return {
        "buckets": own.buckets,
        "persistence": own.persistence,
        "device_qos_max": own.qos,
        "keepalive_seconds_max": release.keepalive_seconds_max(release.installed(), own.keepalive),
        "max_device_connections": own.max_connections,
        "device_rate_max": own.messages_per_second,
        "device_burst_max": own.burst,
        "cipher_suites": tuple(configuration.iot.security.tls.cipher_suites),
        "saved_changes": 1_000,
    }


def main() -> int:
    """Fetch and build everything; what `make setup` runs."""
    layout = Layout()
    if not layout.tools_dir.exists():
        sys.stdout.write("setup: Kafka, the broker's plugin, DTLS 1.3\n")
        sys.stdout.flush()
    try:
        tools(layout)
        absent = dtls13.install(layout.tools_dir)
    except (LocalError, dtls13.BuildFailed) as error:
        sys.stderr.write(f"setup: {error}\n")
        return 1
    if absent:
        sys.stderr.write(f"setup: {absent}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
