"""What all Kafka clients of this package share: address, patience, and where their logs go."""

import logging
from dataclasses import dataclass
from typing import Any

from client.errors import FleetError
from configuration import look
from configuration.cluster import Cluster

LOG = logging.getLogger("fleetcert.kafka")
LOG.addHandler(logging.NullHandler())
"""librdkafka's own lines; silent until the embedding program listens to this logger."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a call may take, in seconds: to find Kafka, to write, to read a topic through."""

    connect_seconds: float = 5.0
    send_seconds: float = 15.0
    read_seconds: float = 120.0


def settings(cluster: Cluster, **more: Any) -> dict[str, Any]:
    """Return the configuration of a client."""
    return cluster.settings({"logger": LOG, **more})


def away(cluster: Cluster, why: object) -> FleetError:
    """Return the error of a Kafka that does not answer."""
    if refused := look.why(cluster):
        return FleetError(refused)
    return FleetError(
        f"Kafka at {cluster} does not answer ({why}): start the stack with `fleetcert up`, or "
        "name another with --bootstrap"
    )
