"""The section `iot`: the world of devices, as design and users name it.

Rules of this file: nothing turns verification off.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from configuration.fields import (
    BROKER,
    COAP,
    DOORS,
    EST,
    HOST,
    MQTT,
    NAME,
    Pem,
    Section,
    key,
    port_key,
)
from configuration.security import Security


def _must_verify(value: Any) -> Any:
    if value is False:
        raise ValueError(
            "false is refused: TLS is mutual here, a peer that is not verified could be anyone; "
            "put its CA into `ca`, and remove this line"
        )
    return value


Dtls = Literal["DTLSv1.3", "DTLSv1.2"]
Verified = Annotated[Literal[True], BeforeValidator(_must_verify)]
BlockSize = Literal[16, 32, 64, 128, 256, 512, 1024]


DOOR = "the bridge"


class AdapterTls(Section):
    """Who a bridge is, and whom it trusts. Each value is a path or the PEM text itself."""

    cert: str | None = key(
        None, "our certificate and its chain", restart=DOOR, file=True, min_length=1
    )
    private_key: str | None = key(
        None, "our private key", restart=DOOR, file=True, secret=True, alias="key", min_length=1
    )
    ca: list[Pem] = key([], "who may have signed the peer", restart=DOOR, file=True)
    reject_unauthorized: Verified = key(
        True, "a peer that is not verified is refused", restart=DOOR
    )

    @model_validator(mode="after")
    def _whole(self) -> "AdapterTls":
        wanted = {"cert": self.cert, "key": self.private_key, "ca": self.ca}
        missing = [name for name, value in wanted.items() if not value]
        if 0 < len(missing) < len(wanted):
            raise ValueError(f"{', '.join(missing)} missing: TLS is mutual, all three are needed")
        return self


class MqttTls(AdapterTls):
    """The MQTT bridge's identity at the broker, in place of the local stack's."""


class CoapTls(AdapterTls):
    """The CoAP bridge's identity, and the CAs of its devices, in place of the local stack's."""


class EstTls(AdapterTls):
    """The EST door's identity, and the CAs of its devices, in place of the local stack's."""


class Mqtt(Section):
    """MQTT: the broker that devices speak to, and the bridge between it and Kafka."""

    host: str = key(
        "localhost",
        "the broker, as bridges reach it: a name of its certificate",
        restart=MQTT,
        pattern=HOST,
        said="a host name or address",
    )
    port: int = port_key(8883, "where devices connect to the broker", DOORS)
    service_port: int = port_key(8884, "where bridges connect to the broker", DOORS)
    listen: str = key(
        "127.0.0.1",
        "the address that the local stack's broker listens on",
        restart=BROKER,
        pattern=HOST,
        said="an address of this machine",
    )
    client_id: str | None = key(
        None,
        "the bridge's name at the broker and at Kafka; without one bridge-N",
        restart=MQTT,
        pattern=NAME,
        said="1 to 64 letters, digits, `.`, `_`, `-`",
    )
    tls: MqttTls = Field(default_factory=MqttTls)
    persistence: bool = key(True, "the broker keeps its database over a restart", restart=BROKER)
    qos: int = key(
        1,
        "the highest quality of service of the device listener, both ways",
        restart=BROKER,
        ge=1,
        le=2,
        said="1 or 2: at 0 what a device says could be lost without a word",
    )
    keepalive: int = key(
        60,
        "the longest keep-alive that a device may have: one silent for 1.5 times it is gone",
        "seconds",
        restart=BROKER,
        ge=10,
        le=600,
    )
    max_connections: int = key(
        10_000, "devices connected at once", "devices", restart=BROKER, ge=1, le=1_000_000
    )
    messages_per_second: int = key(
        1_000,
        "what one device may send; 0: any number",
        "messages per second",
        restart=BROKER,
        ge=0,
        le=1_000_000,
    )
    burst: int = key(
        5_000,
        "what one device may send at once after silence",
        "messages",
        restart=BROKER,
        ge=1,
        le=10_000_000,
    )
    buckets: int = key(
        8,
        "sessions that the devices' messages are spread over; the same for broker and bridges",
        "sessions",
        restart=DOORS,
        ge=1,
        le=4096,
    )
    bridge_keepalive: int = key(
        10,
        "a bridge notices within it that the broker stands still",
        "seconds",
        restart=MQTT,
        ge=1,
        le=600,
    )
    heartbeat_interval: float = key(
        10.0,
        "how often a bridge tells which devices it serves; 0: never",
        "seconds",
        restart=MQTT,
        ge=0,
        le=600,
    )
    group: str = key(
        "mqtt-bridges",
        "the bridges' consumer group",
        restart=MQTT,
        pattern=NAME,
        said="1 to 64 letters, digits, `.`, `_`, `-`",
    )
    secret_file: str | None = key(
        None,
        "the stamp's secret, shared with the broker's plugin; the local stack has its own",
        restart=DOORS,
        file=True,
        min_length=1,
        said="a path",
    )
    waiting: int = key(
        32,
        "what may wait for Kafka before a bridge takes no more",
        "MiB",
        restart=MQTT,
        ge=1,
        le=4096,
    )

    @model_validator(mode="after")
    def _two_listeners(self) -> "Mqtt":
        if self.port == self.service_port:
            raise ValueError(f"port and servicePort are both {self.port}: they are two listeners")
        return self


class Coap(Section):
    """CoAP: the bridge that constrained devices speak to."""

    host: str = key(
        "127.0.0.1",
        "the address that the bridge listens on",
        restart=COAP,
        pattern=HOST,
        said="an address of this machine",
    )
    port: int = port_key(5684, "coaps+tcp and coaps", COAP)
    plain_port: int = port_key(5683, "coap, for discovery alone; 0: none", COAP, 0)
    client_id: str | None = key(
        None,
        "the bridge's name at Kafka; without one coap",
        restart=COAP,
        pattern=NAME,
        said="1 to 64 letters, digits, `.`, `_`, `-`",
    )
    tls: CoapTls = Field(default_factory=CoapTls)
    revocation_list: str | None = key(
        None,
        "the device CA's list, read again when it changes",
        restart=COAP,
        file=True,
        min_length=1,
        said="a path",
    )
    ca_certificates: list[Pem] = key(
        [],
        "what EST hands out: the CAs of devices and of this door; without any, tls.ca",
        restart=COAP,
        file=True,
    )
    renewal_port: int = port_key(
        5685, "coaps+tcp, for EST with an expired certificate; 0: none", COAP, 0
    )
    dtls: list[Dtls] = key(
        ["DTLSv1.3"],
        "what coaps over UDP speaks; DTLSv1.2 only where it is named; []: no UDP",
        restart=COAP,
    )
    multicast: bool = key(
        True, "discovery is answered by multicast too (needs plainPort)", restart=COAP
    )
    interfaces: list[Pem] = key(
        [],
        "for multicast; without any: all that are up, or the loopback where host is on it",
        restart=COAP,
        said="a list of network interfaces",
    )
    block_size: BlockSize = key(1024, "the size of a block of a body", "bytes", restart=COAP)
    idle_timeout: float = key(
        3600.0,
        "a session that is silent for so long is closed",
        "seconds",
        restart=COAP,
        ge=1,
        le=604_800,
    )
    max_sessions: int = key(
        10_000, "sessions at once", "sessions", restart=COAP, ge=1, le=1_000_000
    )
    requests_per_second: float = key(
        50.0, "what one session may ask", "requests per second", restart=COAP, gt=0, le=1_000_000
    )
    shared: bool = key(False, "several bridges share the port (SO_REUSEPORT)", restart=COAP)


class Est(Section):
    """EST over HTTPS: the door where standard clients renew certificates."""

    host: str = key(
        "127.0.0.1",
        "the address that the door listens on",
        restart=EST,
        pattern=HOST,
        said="an address of this machine",
    )
    port: int = port_key(8443, "where certificates are renewed over HTTPS", EST)
    client_id: str | None = key(
        None,
        "the door's name at Kafka; without one est",
        restart=EST,
        pattern=NAME,
        said="1 to 64 letters, digits, `.`, `_`, `-`",
    )
    tls: EstTls = Field(default_factory=EstTls)
    revocation_list: str | None = key(
        None,
        "the device CA's list, read again when it changes",
        restart=EST,
        file=True,
        min_length=1,
        said="a path",
    )
    ca_certificates: list[Pem] = key(
        [],
        "what the door hands out: the CAs of devices and of itself; without any, tls.ca",
        restart=EST,
        file=True,
    )


class Fleet(Section):
    """What a fleet inherits until its own configuration says otherwise."""

    max_devices: int = key(1_000, "the most members of a fleet", "devices", ge=1, le=10_000_000)
    update_batch_size: int = key(
        10, "updatePolicy.batchSize: the most devices in work at once", "devices", ge=1, le=10_000
    )
    health_check_interval: int = key(
        300, "a device unheard for three of them is silent", "seconds", ge=1, le=604_800
    )


class Monitoring(Section):
    """Monitoring."""

    metrics_interval: int = key(
        60, "how often a fleet's sums are told to it at most", "seconds", ge=1, le=86_400
    )
    anomaly_detection: bool = key(True, "the anomaly rules of devices are judged")
    retention_days: int = key(
        90,
        "how long dead letters are kept; history and decisions are kept for ever",
        "days",
        ge=1,
        le=36_500,
    )


class Iot(Section):
    """The world of devices."""

    mqtt: Mqtt = Field(default_factory=Mqtt)
    coap: Coap = Field(default_factory=Coap)
    est: Est = Field(default_factory=Est)
    fleet: Fleet = Field(default_factory=Fleet)
    security: Security = Field(default_factory=Security)
    monitoring: Monitoring = Field(default_factory=Monitoring)
