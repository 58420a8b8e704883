"""Where the local stack keeps its things, and on which ports it listens."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Layout:
    """The local stack's folders, ports and sizes. Spans are seconds."""

    DATAGRAMS: ClassVar[frozenset[str]] = frozenset({"coap", "coaps"})

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
    dtls: tuple[str, ...] = ("1.3",)
    metrics_port: int = 9460
    partitions: int = 2
    workers: int = 1
    bridges: int = 1
    buckets: int = 8
    lifetime_days: float = 90.0
    session_timeout_seconds: float = 6.0

    @property
    def bootstrap(self) -> str:
        """Kafka's address."""
        return f"{HOST}:{self.kafka_port}"

    @property
    def kafka_dir(self) -> Path:
        """Kafka's log."""
        return self.data_dir / "kafka"

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
        return {
            "Kafka": (self.kafka_port, "--kafka-port"),
            "Kafka's controller": (self.controller_port, "--controller-port"),
            "MQTT for devices": (self.device_port, "--device-port"),
            "MQTT for services": (self.service_port, "--service-port"),
            "coaps+tcp": (self.coap_port, "--coap-port"),
            "the CoAP renewal door": (self.coap_renewal_port, "--coap-renewal-port"),
            "EST over HTTPS": (self.est_port, "--est-port"),
            "coaps": (self.coap_port, "--coap-port"),
            "coap": (self.coap_plain_port, "--coap-plain-port"),
            **{name: (self.metrics_port + at, "--metrics-port") for name, at in metrics.items()},
        }
