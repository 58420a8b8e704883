"""Where the local stack keeps its things, and on which ports it listens."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self

from configuration.cluster import Cluster
from configuration.model import Configuration

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Layout:
    """The local stack's folders, ports and sizes, and the configuration that they are from."""

    DATAGRAMS: ClassVar[frozenset[str]] = frozenset({"coap", "coaps"})

    configuration: Configuration = field(default_factory=Configuration)
    data_dir: Path = Path("var/stack")
    tools_dir: Path = Path("var/tools")
    kafka_port: int = 9092
    controller_port: int = 9093
    device_port: int = 8883
    service_port: int = 8884
    coap_port: int = 5684
    coap_plain_port: int = 5683
    coap_renewal_port: int = 5685
    est_port: int = 8443
    metrics_port: int = 9460
    partitions: int = 2
    workers: int = 1
    bridges: int = 1
    buckets: int = 8

    @classmethod
    def of(cls, configuration: Configuration) -> Self:
        """Return the local stack that a configuration describes."""
        stack, iot = configuration.stack, configuration.iot
        return cls(
            configuration,
            data_dir=Path(stack.data_dir),
            kafka_port=stack.kafka_port,
            controller_port=stack.controller_port,
            device_port=iot.mqtt.port,
            service_port=iot.mqtt.service_port,
            coap_port=iot.coap.port,
            coap_plain_port=iot.coap.plain_port,
            coap_renewal_port=iot.coap.renewal_port,
            est_port=iot.est.port,
            metrics_port=stack.metrics_port,
            partitions=configuration.kafka.partitions,
            workers=stack.workers,
            bridges=stack.bridges,
            buckets=iot.mqtt.buckets,
        )

    @property
    def dtls(self) -> tuple[str, ...]:
        """The versions of coaps over UDP."""
        return tuple(one.removeprefix("DTLSv") for one in self.configuration.iot.coap.dtls)

    @property
    def snapshots(self) -> Path:
        """The workers' snapshots."""
        named = self.configuration.worker.snapshots
        return Path(named) if named else self.data_dir / "snapshots"

    @property
    def configuration_file(self) -> Path:
        """What holds for the processes of the stack, as it was at their start."""
        return self.data_dir / "fleetcert.yaml"

    @property
    def bootstrap(self) -> str:
        """Kafka's address."""
        return self.configuration.kafka.bootstrap or f"{HOST}:{self.kafka_port}"

    @property
    def cluster(self) -> Cluster:
        """The Kafka of the stack: its own, unless the configuration names one."""
        named = self.configuration.cluster
        return named.at(f"{HOST}:{self.kafka_port}") if self.own_kafka else named

    @property
    def own_kafka(self) -> bool:
        """Tell whether the stack starts a Kafka."""
        return self.configuration.kafka.bootstrap is None

    @property
    def kafka_dir(self) -> Path:
        """Kafka's log."""
        return self.data_dir / "kafka"

    @property
    def openssl_file(self) -> Path:
        """What tells OpenSSL the suites of the bridges."""
        return self.data_dir / "openssl.cnf"

    @property
    def broker_dir(self) -> Path:
        """The MQTT broker's configuration and database."""
        return self.data_dir / "mosquitto"

    @property
    def pki_dir(self) -> Path:
        """The authorities."""
        return self.data_dir / "pki"

    @property
    def services_dir(self) -> Path:
        """Certificates and keys of the broker and the bridges."""
        return self.data_dir / "services"

    @property
    def log_dir(self) -> Path:
        """One log file per process."""
        return self.data_dir / "log"

    @property
    def status_file(self) -> Path:
        """What the supervisor says of its processes."""
        return self.data_dir / "status.json"

    @property
    def lock_file(self) -> Path:
        """Held by the one supervisor of this data directory."""
        return self.data_dir / "supervisor.lock"

    @property
    def supervisor_port(self) -> int:
        """The last of the thirty ports for metrics."""
        return self.metrics_port + 29

    @property
    def stamp_secret(self) -> Path:
        """The secret that the broker's plugin and the bridges share."""
        return self.services_dir / "stamp.secret"

    @property
    def est(self) -> str:
        """Where certificates are renewed over HTTPS."""
        return f"https://localhost:{self.est_port}/.well-known/est"

    @property
    def ca_certificates(self) -> tuple[Path, Path]:
        """What the doors of EST hand out: who signed them, and who signs devices."""
        return self.pki_dir / "service-ca" / "ca.pem", self.services_dir / "device-chain.pem"

    def ports(self) -> dict[str, tuple[int, str]]:
        """Return each port with the option that changes it; DATAGRAMS are UDP's."""
        metrics = {
            "the issuer's metrics": 0,
            "the CoAP bridge's metrics": 5,
            "the EST door's metrics": 6,
            **{f"metrics of bridge-{number}": 10 + number for number in range(self.bridges)},
            **{f"metrics of worker-{number}": 20 + number for number in range(self.workers)},
            "the supervisor's metrics": 29,
        }
        kafka = {
            "Kafka": (self.kafka_port, "--kafka-port"),
            "Kafka's controller": (self.controller_port, "--controller-port"),
        }
        listed = {
            **(kafka if self.own_kafka else {}),
            "MQTT for devices": (self.device_port, "--device-port"),
            "MQTT for services": (self.service_port, "--service-port"),
            "coaps+tcp": (self.coap_port, "--coap-port"),
            "the CoAP renewal door": (self.coap_renewal_port, "--coap-renewal-port"),
            "EST over HTTPS": (self.est_port, "--est-port"),
            "coaps": (self.coap_port, "--coap-port"),
            "coap": (self.coap_plain_port, "--coap-plain-port"),
            **{name: (self.metrics_port + at, "--metrics-port") for name, at in metrics.items()},
        }
        return {name: one for name, one in listed.items() if one[0]}  # 0: not offered
