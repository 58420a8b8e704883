"""Writes the broker's configuration: two listeners, each with its own authority; one plugin.

Rules of this file: TLS 1.3 and a client certificate on both listeners; the plugin decides who may
do what, and without it nobody gets in. `use_identity_as_username` stays off: mosquitto skips the
plugin's connect hook under it. `per_listener_settings` stays off: under it mosquitto 2.0.12 to
2.0.22 drops what it should queue for a session that is away.
"""

import base64
import os
import textwrap
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from bridges.mqtt.broker.release import KEEPALIVE_SECONDS_MAX

MESSAGE_BYTES_MAX = 256 * 1024
PACKET_BYTES_MAX = MESSAGE_BYTES_MAX + 64 * 1024
BUCKETS_MAX = 4096
NEWCOMERS_MAX = 1_000
"""Sessions of newcomers, as at the CoAP bridge: they take no device's place."""
FOR_CLIENTS = bytes.fromhex("300c300a06082b06010505070302")
"""What makes a certificate an anchor for clients by itself: CertAux { trust { clientAuth } }."""


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """Where the broker's files are, where it listens, and its limits.

    `device_ca` and `service_ca` are PEM files that TLS trusts: they need the whole chain, root
    included, and no root in common, for TLS alone keeps a service from the device listener.
    `device_issuers` and `service_issuers` name the certificates that may have issued a client
    certificate directly; they default to the same files, which is right only for an authority
    that signs itself. The broker's user must be able to read `secret_file` and to
    write in `data_dir`, an absolute path.

    `provisioning_issuers`, none by default, are the CAs of newcomers, who may enrol and do nothing
    else; TLS trusts exactly these, whoever signed them.

    Without `persistence` a broker that ends loses what waits in it. `cipher_suites` are those of
    TLS 1.3, the preferred first; without any, OpenSSL's own.

    A device may send `device_rate_max` messages per second (0: any number), and a burst after
    silence; more are refused one by one and told of: its own outbox keeps them.

    After `saved_changes` changes the broker writes its whole database again: 1 loses nothing that
    it acknowledged when it is killed, but slows down with every message that waits (measured:
    1,500 messages/s, 400 with 3,000 of them waiting; with 1,000 changes 15,000 messages/s).
    """

    data_dir: Path
    device_ca: Path
    service_ca: Path
    server_cert: Path
    server_key: Path
    plugin: Path
    secret_file: Path
    device_issuers: Path | None = None
    service_issuers: Path | None = None
    provisioning_issuers: Path | None = None
    newcomers_max: int = NEWCOMERS_MAX
    host: str = "0.0.0.0"  # noqa: S104 - devices come from outside
    device_port: int = 8883
    service_port: int = 8884
    buckets: int = 64
    max_queued_messages: int = 100_000
    max_inflight_messages: int = 1_000
    max_device_connections: int = 10_000
    device_rate_max: int = 1_000
    device_burst_max: int = 5_000
    keepalive_seconds_max: int = KEEPALIVE_SECONDS_MAX
    saved_changes: int = 1
    persistence: bool = True
    device_qos_max: int = 2
    cipher_suites: tuple[str, ...] = ()
    log_file: Path | None = None
    user: str | None = None

    @property
    def refused_file(self) -> Path:
        """Where the plugin keeps the refused certificates and devices."""
        return self.data_dir / "refused.txt"

    @property
    def device_trust(self) -> Path:
        """Whom TLS trusts on the device listener: the device CA, and the CAs of newcomers."""
        return self.data_dir / "trust.pem" if self.provisioning_issuers else self.device_ca


def render(settings: BrokerSettings) -> str:
    """Give the text of mosquitto.conf. Raises ValueError on a value that cannot stand in it."""
    if not 1 <= settings.buckets <= BUCKETS_MAX:
        raise ValueError(f"buckets must be between 1 and {BUCKETS_MAX}, not {settings.buckets}")
    lines = [
        *_general(settings),
        "",
        *_listener(settings, "device"),
        f"max_connections {settings.max_device_connections}",
        f"max_qos {settings.device_qos_max}",
        "",
        *_listener(settings, "service"),
    ]
    if any("\n" in line or "\r" in line for line in lines):
        raise ValueError("a path or name in the broker's settings holds a line break")
    return "\n".join(lines) + "\n"


def write(settings: BrokerSettings) -> Path:
    """Write mosquitto.conf, and whom TLS trusts, into the data directory; give the former's path.

    Raises ValueError where the CAs of newcomers cannot be read.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    target = settings.data_dir / "mosquitto.conf"
    text = render(settings)
    if settings.provisioning_issuers is not None:
        further = x509.load_pem_x509_certificates(settings.provisioning_issuers.read_bytes())
        trusted = settings.device_ca.read_text() + "".join(map(trusted_for_clients, further))
        _replace(settings.device_trust, trusted)
    _replace(target, text)
    return target


def trusted_for_clients(certificate: x509.Certificate) -> str:
    """Give a CA as OpenSSL's TRUSTED CERTIFICATE: an anchor, also without the root above it.

    It is what `openssl x509 -trustout -addtrust clientAuth` gives; mosquitto has no option for
    partial chains, and to trust a maker's root would be to trust all that stands under it.
    """
    body = base64.b64encode(certificate.public_bytes(Encoding.DER) + FOR_CLIENTS).decode()
    lines = "\n".join(textwrap.wrap(body, 64))
    return f"-----BEGIN TRUSTED CERTIFICATE-----\n{lines}\n-----END TRUSTED CERTIFICATE-----\n"


def _replace(path: Path, text: str) -> None:
    """Write a file that only its owner may change, in one move."""
    scratch = path.with_name(path.name + ".new")
    scratch.write_text(text)
    scratch.chmod(0o640)
    os.replace(scratch, path)


def _general(settings: BrokerSettings) -> list[str]:
    """Give the settings that hold for the whole broker."""
    log = f"file {settings.log_file}" if settings.log_file else "stderr"
    device_issuers = settings.device_issuers or settings.device_ca
    service_issuers = settings.service_issuers or settings.service_ca
    return [
        "per_listener_settings false",
        *([f"user {settings.user}"] if settings.user else []),
        f"log_dest {log}",
        "log_type error",
        "log_type warning",
        "log_type notice",
        "log_type information",
        "connection_messages false",  # they hold peer addresses, which are personal data
        *_persistence(settings),
        f"max_queued_messages {settings.max_queued_messages}",
        "queue_qos0_messages true",  # a burst while its bridge is away is kept too
        "max_queued_bytes 0",
        f"max_inflight_messages {settings.max_inflight_messages}",
        f"message_size_limit {MESSAGE_BYTES_MAX}",
        f"max_packet_size {PACKET_BYTES_MAX}",
        f"max_keepalive {settings.keepalive_seconds_max}",
        "set_tcp_nodelay true",
        "allow_anonymous false",
        "auto_id_prefix @auto-",  # of a service; a device must send its own id
        f"plugin {settings.plugin}",
        f"plugin_opt_device_issuer_file {device_issuers}",
        f"plugin_opt_service_issuer_file {service_issuers}",
        f"plugin_opt_secret_file {settings.secret_file}",
        f"plugin_opt_refused_file {settings.refused_file}",
        f"plugin_opt_buckets {settings.buckets}",
        f"plugin_opt_rate {settings.device_rate_max}",
        f"plugin_opt_burst {settings.device_burst_max}",
        *_newcomers(settings),
    ]


def _newcomers(settings: BrokerSettings) -> list[str]:
    """Give the settings that let newcomers in, none by default."""
    if settings.provisioning_issuers is None:
        return []
    return [
        f"plugin_opt_provisioning_issuer_file {settings.provisioning_issuers}",
        f"plugin_opt_newcomers {settings.newcomers_max}",
    ]


def _persistence(settings: BrokerSettings) -> list[str]:
    """Give the settings of the database: where it is, and how often it is written."""
    if not settings.persistence:
        return ["persistence false"]
    return [
        "persistence true",
        f"persistence_location {settings.data_dir}/",
        "autosave_on_changes true",
        f"autosave_interval {settings.saved_changes}",
    ]


def _listener(settings: BrokerSettings, role: str) -> list[str]:
    """Give the settings of one listener; `role` is `device` or `service`."""
    device = role == "device"
    port = settings.device_port if device else settings.service_port
    trusted = settings.device_trust if device else settings.service_ca
    return [
        f"listener {port} {settings.host}",
        f"cafile {trusted}",
        f"certfile {settings.server_cert}",
        f"keyfile {settings.server_key}",
        "require_certificate true",
        "tls_version tlsv1.3",
        *([f"ciphers_tls1.3 {':'.join(settings.cipher_suites)}"] if settings.cipher_suites else []),
    ]
