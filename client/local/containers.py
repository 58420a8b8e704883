"""What docker compose runs once before the services: identities into volumes, topics into Kafka.

Each service gets a folder of its own with exactly the files it reads; the root's key and the
device CA's key reach no bridge and no broker. All of it is made once, a second run changes nothing
but the copies.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

from bridges.mqtt.broker import config
from client.local import setup, topics
from client.local.errors import LocalError
from client.local.layout import Layout
from configuration import options as shared
from configuration.model import Configuration
from configuration.source import InvalidConfiguration

USER_ID = 10_001
"""The services' user in our images: see deploy/Dockerfile and deploy/broker/Dockerfile."""
PLUGIN = Path("/usr/lib/fleetcert/fleetcert_identity.so")
EXAMPLES = """examples:
  python -m client.local.containers identities --directory /identities --into /run/fleetcert
  python -m client.local.containers topics --bootstrap kafka:9092 --partitions 2
"""


OPTIONS = {
    "--buckets": "iot.mqtt.buckets",
    "--bootstrap": "kafka.bootstrap",
    "--partitions": "kafka.partitions",
    "--replication": "kafka.replication",
}


def identities(
    directory: Path, into: Path, broker_names: list[str], configuration: Configuration
) -> None:
    """Make the authorities in `directory` once; copy to each service what it reads.

    `into` has a folder for each of issuer, broker, bridge, coap and est; the doors are reached
    under `broker_names`, and under the names of this machine.
    """
    layout = Layout(configuration, data_dir=directory)
    setup.identities(layout, names=tuple(broker_names))
    pki, services = layout.pki_dir, layout.services_dir
    shutil.copytree(
        pki, into / "issuer", ignore=lambda _, names: {"root"} & set(names), dirs_exist_ok=True
    )
    service_ca = pki / "service-ca" / "ca.pem"
    for name, files in {
        "broker": [
            *services.glob("broker.*"),
            services / "device-chain.pem",
            layout.stamp_secret,
        ],
        "bridge": [*services.glob("bridge.*"), layout.stamp_secret],
        "coap": [*services.glob("coap.*"), services / "device-chain.pem"],
        "est": [*services.glob("est.*"), services / "device-chain.pem"],
    }.items():
        for one in files:
            shutil.copy(one, into / name)
        shutil.copy(service_ca, into / name / "service-ca.pem")
    for name in ("broker", "coap", "est"):
        shutil.copy(pki / "device-ca" / "ca.pem", into / name / "device-ca.pem")
    _broker(into / "broker", configuration)
    for name in ("issuer", "broker", "bridge", "coap", "est"):
        _give(into / name)


def _broker(folder: Path, configuration: Configuration) -> None:
    data_dir = folder / "data"
    data_dir.mkdir(exist_ok=True)
    config.write(
        config.BrokerSettings(
            data_dir=data_dir,
            device_ca=folder / "device-chain.pem",
            service_ca=folder / "service-ca.pem",
            server_cert=folder / "broker.pem",
            server_key=folder / "broker.key",
            plugin=PLUGIN,
            secret_file=folder / "stamp.secret",
            device_issuers=folder / "device-ca.pem",
            **setup.limits(configuration),
            **setup.provisioning(configuration, folder),
        )
    )


def _give(folder: Path) -> None:
    """Make everything below, and the folder itself, the services' own."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, USER_ID, USER_ID)


def main(argv: list[str] | None = None) -> int:
    """Run one of the two tasks; exit code 1 with a message where it fails."""
    parser = argparse.ArgumentParser(
        prog="python -m client.local.containers",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("task", choices=["identities", "topics"])
    parser.add_argument("--directory", type=Path, default=Path("/identities"))
    parser.add_argument("--into", type=Path, default=Path("/run/fleetcert"))
    parser.add_argument(
        "--broker-name",
        action="append",
        default=[],
        help="a name of the broker in its certificate, made once; may be repeated",
    )
    shared.add(parser, OPTIONS)
    options = parser.parse_args(argv)
    try:
        found = shared.read(options, OPTIONS).configuration
        if options.task == "topics":
            kafka, days = found.kafka, found.iot.monitoring.retention_days
            topics.create_topics(found.cluster, kafka.partitions, kafka.replication, days)
        else:
            identities(options.directory, options.into, options.broker_name, found)
    except (LocalError, InvalidConfiguration, OSError) as error:
        sys.stderr.write(f"{options.task}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
