"""A real Kafka as others run one: TLS and passwords, mutual TLS, and rules about who may what.

Certificates and passwords are made at run time. Whoever reaches the plain listener, which is the
tests' own, may do everything; on the others a name may do what it was granted.
"""

import contextlib
import os
import re
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from client.local.ports import free_ports
from configuration.cluster import Cluster
from pki import authority
from tests.helpers.kafka import KafkaProcess

REQUEST_SECONDS = 30.0
ENDS_SECONDS = 60.0
LOG_VERDICTS = """
logger.rules.name = kafka.authorizer.logger
logger.rules.level = debug
"""
JUDGED = r"Principal = {} is {} operation = (\w+) .* on resource = (\w+):LITERAL:(\S+)"
OPERATIONS = {
    ResourceType.TOPIC: "READ WRITE DESCRIBE CREATE DESCRIBE_CONFIGS ALTER_CONFIGS",
    ResourceType.GROUP: "READ DESCRIBE",
    ResourceType.TRANSACTIONAL_ID: "WRITE DESCRIBE",
}
"""What the processes and commands of one fleetcert do on Kafka, all of them together."""


@dataclass(frozen=True)
class SecuredKafka:
    """One broker with three listeners, and the folder of what its clients show."""

    folder: Path
    plain: Cluster
    passwords: str
    """The address of the listener SASL_SSL."""
    certificates: str
    """The address of the listener SSL, which wants a certificate."""

    @property
    def ca(self) -> Path:
        """Who signed the broker's certificate, and clients' ones."""
        return self.folder / "pki" / "service-ca" / "ca.pem"

    def judged(self, principal: str, verdict: str = "Allowed") -> set[tuple[str, str, str]]:
        """What a principal asked for so far and was `Allowed` or `Denied`.

        Each as operation, kind of resource and name, in Kafka's words.
        """
        log = (self.folder / "kafka.log").read_text()
        return set(re.findall(JUDGED.format(re.escape(principal), verdict), log))

    def user(self, name: str) -> Path:
        """Make a user with a password; return the file that holds it."""
        password = secrets.token_urlsafe(24)
        scram = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        made = UserScramCredentialUpsertion(name, scram, password.encode())
        admin = AdminClient(self.plain.settings())  # its answers end with it
        for done in admin.alter_user_scram_credentials([made]).values():
            done.result(REQUEST_SECONDS)
        return self.secret(f"{name}.password", password)

    def secret(self, name: str, text: str) -> Path:
        """Write a file that only we may read."""
        file = self.folder / name
        file.touch(0o600)
        file.write_text(f"{text}\n")
        return file

    def certificate(self, name: str) -> tuple[Path, Path]:
        """Make a client's certificate and key; Kafka calls it `CN=<name>`."""
        return _identity(self.folder, name, client=True)

    def rules(self, principal: str) -> set[str]:
        """Return what a principal may do, each rule as text."""
        every = AclBindingFilter(
            ResourceType.ANY,
            None,
            ResourcePatternType.ANY,
            principal,
            None,
            AclOperation.ANY,
            AclPermissionType.ANY,
        )
        admin = AdminClient(self.plain.settings())  # its answers end with it
        return {str(one) for one in admin.describe_acls(every).result(REQUEST_SECONDS)}

    def grant(self, principal: str, prefix: str) -> None:
        """Let a principal do all that fleetcert does, with names that begin with the prefix."""
        wanted = [
            AclBinding(
                resource,
                prefix,
                ResourcePatternType.PREFIXED,
                f"User:{principal}",
                "*",
                AclOperation[one],
                AclPermissionType.ALLOW,
            )
            for resource, operations in OPERATIONS.items()
            for one in operations.split()
        ]
        admin = AdminClient(self.plain.settings())
        for done in admin.create_acls(wanted).values():
            done.result(REQUEST_SECONDS)


@contextlib.contextmanager
def secured_kafka(folder: Path) -> Iterator[SecuredKafka]:
    """Run such a broker, as a process of this machine."""
    authority.create(folder / "pki", now=datetime.now(UTC))
    certificate, key = _identity(folder, "localhost", client=False)
    store = folder / "broker.pem"
    store.touch(0o600)
    store.write_bytes(key.read_bytes() + certificate.read_bytes())
    sasl_port, ssl_port = free_ports(2)
    broker = KafkaProcess(
        folder, lambda *own: _properties(*own, sasl_port, ssl_port, folder), LOG_VERDICTS
    )
    made = SecuredKafka(
        folder,
        Cluster(broker.bootstrap),
        f"localhost:{sasl_port}",
        f"localhost:{ssl_port}",
    )
    broker.start()
    try:
        yield made
    finally:
        broker.kill()


def _identity(folder: Path, name: str, *, client: bool) -> tuple[Path, Path]:
    ca = authority.load_service(folder / "pki")
    now = datetime.now(UTC)
    pem, key = authority.issue_service(ca, name, [name], now=now, client=client, server=not client)
    files = folder / f"{name}.pem", folder / f"{name}.key"
    files[1].touch(0o600)
    files[0].write_bytes(pem)
    files[1].write_bytes(key)
    return files


def _properties(
    plain: str, controller: int, sasl_port: int, ssl_port: int, folder: Path
) -> dict[str, str]:
    """Return what is different from the local stack's broker."""
    listeners = f"PLAINTEXT://{plain},SASL_SSL://localhost:{sasl_port},SSL://localhost:{ssl_port}"
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    ca = folder / "pki" / "service-ca" / "ca.pem"
    return {
        "listeners": f"{listeners},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": listeners,
        "listener.security.protocol.map": ",".join(
            f"{one}:{one}" for one in ("PLAINTEXT", "SASL_SSL", "SSL")
        )
        + ",CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": scram,
        "listener.name.ssl.ssl.client.auth": "required",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(folder / "broker.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(ca),
    }


def said(kafka: SecuredKafka, prefix: str, **more: Any) -> dict[str, Any]:
    """Return the part of the configuration that says how Kafka is reached, by a password."""
    reached = {
        "bootstrap": kafka.passwords,
        "prefix": prefix,
        "securityProtocol": "SASL_SSL",
        "tls": {"ca": str(kafka.ca)},
    }
    return {"kafka": reached | more}


def configured(folder: Path, document: dict[str, Any]) -> Path:
    """Write a configuration."""
    folder.mkdir(exist_ok=True)
    file = folder / "fleetcert.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


def run(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=ENDS_SECONDS,
        check=False,
        env=os.environ | {"COLUMNS": "160"} | variables,
    )
