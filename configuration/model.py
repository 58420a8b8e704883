"""The model: everything that a user can set, under one roof."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from configuration.cluster import Cluster
from configuration.fields import (
    ALL,
    COAP,
    EST,
    HOST,
    ISSUER,
    KAFKA,
    MQTT,
    NAME,
    PORT_MAX,
    WORKERS,
    Section,
    key,
    port_key,
)
from configuration.iot import Iot
from configuration.kafka import Kafka


class Worker(Section):
    """A stream worker."""

    data_dir: str = key(
        "var/worker",
        "its rows; the local stack gives each worker a folder of its own",
        restart=WORKERS,
        file=True,
        min_length=1,
        said="a path",
    )
    snapshots: str | None = key(
        None,
        "where snapshots are; without it <stack.dataDir>/snapshots",
        restart=WORKERS,
        file=True,
        min_length=1,
        said="a path",
    )
    group: str = key(
        "fleetcert-devices",
        "the workers' consumer group",
        restart=WORKERS,
        pattern=NAME,
        said="1 to 64 letters, digits, `.`, `_`, `-`",
    )
    tick_interval: float = key(
        1.0, "how often machine time moves", "seconds", restart=WORKERS, ge=0.01, le=60
    )
    clock: Literal["live", "recorded"] = key(
        "live",
        "who writes the time into the logs: the worker, or (`recorded`, for tests and replays) "
        "whoever records it; see docs/replay.md",
        restart=WORKERS,
    )
    commit_interval: float = key(
        1.0, "how often offsets are committed", "seconds", restart=WORKERS, ge=0.01, le=60
    )
    stall_timeout: float = key(
        60.0,
        "a worker that stands still for so long ends, to be started anew",
        "seconds",
        restart=WORKERS,
        ge=1,
        le=3600,
    )
    batch_max: int = key(
        20_000,
        "records of one step and one transaction",
        "records",
        restart=WORKERS,
        ge=1,
        le=1_000_000,
    )
    room_mebibytes: int = key(
        64,
        "a worker ends where less is free on the volume of its rows, before a full disk ends it",
        "MiB",
        restart=WORKERS,
        ge=1,
        le=1_048_576,
    )


class Issuer(Section):
    """The issuer: it alone holds the device CA's key."""

    pki: str = key(
        "var/pki",
        "the folder of the authorities; the local stack has its own",
        restart=ISSUER,
        file=True,
        min_length=1,
        said="a path",
    )
    passphrase_file: str | None = key(
        None,
        "the file with the passphrase of the CA keys; without it <pki>/passphrase",
        restart=ISSUER,
        file=True,
        min_length=1,
        said="a path",
    )
    id: str | None = key(
        None,
        "keeps its place in the group; without one issuer-<process id>",
        restart=ISSUER,
        pattern=NAME,
        said="1 to 64 letters, digits, `.`, `_`, `-`",
    )
    lifetime_days: float = key(
        90.0, "the life of a device's certificate", "days", restart=ISSUER, gt=0, le=3_650
    )
    grace_days: float = key(
        30.0,
        "how long after its end a certificate may still renew",
        "days",
        restart=f"{ISSUER}, {COAP}, {EST}",
        ge=0,
        le=3_650,
    )
    crl_refresh_hours: float = key(
        1.0, "how often the revocation list is signed anew", "hours", restart=ISSUER, gt=0, le=8_760
    )
    crl_validity_hours: float = key(
        168.0, "how long a revocation list holds", "hours", restart=ISSUER, gt=0, le=8_760
    )
    fleet_burst: float = key(
        10_000.0,
        "certificates at once, all devices",
        "certificates",
        restart=ISSUER,
        ge=1,
        le=1e9,
    )
    fleet_per_second: float = key(
        100.0,
        "certificates over time, all devices",
        "certificates per second",
        restart=ISSUER,
        gt=0,
        le=1e6,
    )
    device_burst: float = key(
        60.0, "certificates at once, one device", "certificates", restart=ISSUER, ge=1, le=1e6
    )
    device_per_hour: float = key(
        60.0,
        "certificates over time, one device",
        "certificates per hour",
        restart=ISSUER,
        gt=0,
        le=1e6,
    )


class Metrics(Section):
    """The metrics of a process that is started by itself; the local stack gives each a port."""

    host: str = key(
        "127.0.0.1",
        "who may ask: by default this machine",
        restart=ALL,
        pattern=HOST,
        said="an address of this machine",
    )
    port: int = port_key(0, "of the endpoint; 0: none", ALL, 0)
    fleets_max: int = key(
        200,
        "fleets that have a label of their own; the others are added up",
        "fleets",
        restart=WORKERS,
        ge=0,
        le=100_000,
    )


class Stack(Section):
    """The local stack of `fleetcert up`."""

    data_dir: str = key(
        "var/stack",
        "where the stack keeps its data",
        restart=ALL,
        file=True,
        min_length=1,
        said="a path",
    )
    kafka_port: int = port_key(9092, "Kafka", ALL)
    controller_port: int = port_key(9093, "Kafka's controller", KAFKA)
    metrics_port: int = key(
        9460, "the first of thirty ports for metrics", restart=ALL, ge=1, le=PORT_MAX - 29
    )
    workers: int = key(1, "worker processes", "processes", restart=WORKERS, ge=1, le=9)
    bridges: int = key(1, "MQTT bridge processes", "processes", restart=MQTT, ge=1, le=10)


class Configuration(Section):
    """Everything that a user can set."""

    iot: Iot = Field(default_factory=Iot)
    kafka: Kafka = Field(default_factory=Kafka)
    worker: Worker = Field(default_factory=Worker)
    issuer: Issuer = Field(default_factory=Issuer)
    metrics: Metrics = Field(default_factory=Metrics)
    stack: Stack = Field(default_factory=Stack)

    def of(self, process: str) -> "Configuration":
        """Return what holds for one process: on Kafka it may have a name of its own."""
        return self.model_copy(update={"kafka": self.kafka.of(process)})

    @property
    def cluster(self) -> Cluster:
        """Kafka, as every client of it is configured. Raises InvalidConfiguration."""
        return self.kafka.cluster(f"127.0.0.1:{self.stack.kafka_port}")

    @property
    def snapshots(self) -> Path:
        """Where snapshots are."""
        return Path(self.worker.snapshots or f"{self.stack.data_dir}/snapshots")
