"""The part of the model that says how Kafka is reached, and who we are there.

Rules of this file: a password never stands in the configuration itself; without TLS none is sent.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from configuration import secret
from configuration.cluster import Cluster, Security
from configuration.fields import (
    ALL,
    HOSTS,
    ISSUER,
    KAFKA,
    MQTT,
    PREFIX,
    WORKERS,
    Section,
    key,
)
from configuration.iot import Verified


def _never_in_the_clear(value: Any) -> Any:
    if value == "SASL_PLAINTEXT":
        raise ValueError(
            "SASL_PLAINTEXT is refused: passwords and the whole history would pass in the clear; "
            "give Kafka a listener SASL_SSL"
        )
    return value


Protocol = Annotated[Literal["PLAINTEXT", "SSL", "SASL_SSL"], BeforeValidator(_never_in_the_clear)]
Mechanism = Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"]


class KafkaTls(Section):
    """TLS to Kafka: whom we trust, and with mutual TLS who we are."""

    ca: str | None = key(
        None,
        "who signed Kafka's certificate; without it the authorities of this machine",
        restart=ALL,
        file=True,
        min_length=1,
        said="a path of PEM",
    )
    cert: str | None = key(
        None,
        "our certificate and its chain",
        restart=ALL,
        file=True,
        min_length=1,
        said="a path of PEM",
    )
    private_key: str | None = key(
        None,
        "our private key",
        restart=ALL,
        file=True,
        secret=True,
        alias="key",
        min_length=1,
        said="a path of PEM",
    )

    reject_unauthorized: Verified = key(
        True, "a Kafka whose certificate does not hold is refused", restart=ALL
    )

    @model_validator(mode="after")
    def _whole(self) -> "KafkaTls":
        if (self.cert is None) != (self.private_key is None):
            raise ValueError("cert and key go together: one of them is missing")
        return self


class Sasl(Section):
    """Who we are to Kafka, with SASL_SSL."""

    mechanism: Mechanism = key("SCRAM-SHA-512", "how the password is proven", restart=ALL)
    username: str | None = key(
        None, "our name", restart=ALL, min_length=1, max_length=255, said="a name that Kafka knows"
    )
    password_file: str | None = key(
        None,
        "the file with the password, which others may not read",
        restart=ALL,
        file=True,
        min_length=1,
        said="a path",
    )
    password: str | None = key(
        None,
        "the password itself, by its variable only; goes before passwordFile",
        restart=ALL,
        secret=True,
        variable_only=True,
        min_length=1,
        said="text",
        repr=False,
    )


class User(Section):
    """The name of one process, where it is not that of kafka.sasl."""

    username: str | None = key(
        None,
        "its name; without one kafka.sasl's",
        restart=ALL,
        min_length=1,
        max_length=255,
        said="a name that Kafka knows",
    )
    password_file: str | None = key(
        None,
        "the file with its password, which others may not read",
        restart=ALL,
        file=True,
        min_length=1,
        said="a path",
    )

    @model_validator(mode="after")
    def _whole(self) -> "User":
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and passwordFile go together: one of them is missing")
        return self


class Users(Section):
    """Who each process is to Kafka, with SASL_SSL; kafka.sasl is who starts and operates them."""

    bridge: User = Field(default_factory=User)
    coap: User = Field(default_factory=User)
    est: User = Field(default_factory=User)
    issuer: User = Field(default_factory=User)
    worker: User = Field(default_factory=User)

    def of(self, process: str) -> User:
        """Return a process's own."""
        found: User = getattr(self, process)
        return found

    def named(self) -> list[str]:
        """Return the processes that have a name of their own."""
        return [one for one in type(self).model_fields if self.of(one).username is not None]


class Kafka(Section):
    """Kafka, for every process and every command."""

    bootstrap: str | None = key(
        None,
        "where your Kafka is; without it the local stack's: 127.0.0.1:<stack.kafkaPort>",
        restart=ALL,
        pattern=HOSTS,
        said="host:port, several with commas",
    )
    prefix: str | None = key(
        None,
        "begins the names of topics, consumer groups and transactions, on a Kafka that others use",
        restart=ALL,
        pattern=PREFIX,
        said="1 to 64 letters, digits, `.`, `_`, `-`",
    )
    security_protocol: Protocol = key("PLAINTEXT", "what Kafka's listener speaks", restart=ALL)
    session_timeout: float = key(
        6.0,
        "a process that is silent for so long loses its partitions",
        "seconds",
        restart=f"{WORKERS}, {MQTT}, {ISSUER}",
        ge=1,
        le=900,
    )
    partitions: int = key(
        2,
        "of the topics, fixed when they are created",
        "partitions",
        restart=KAFKA,
        ge=1,
        le=10_000,
    )
    replication: int = key(
        1,
        "copies of each partition, when topics are created",
        "brokers",
        restart=KAFKA,
        ge=1,
        le=100,
    )
    tls: KafkaTls = Field(default_factory=KafkaTls)
    sasl: Sasl = Field(default_factory=Sasl)
    users: Users = Field(default_factory=Users)

    @model_validator(mode="after")
    def _consistent(self) -> "Kafka":
        spoken, sasl = self.security_protocol, self.sasl
        if sasl.username and spoken != "SASL_SSL":
            raise ValueError(f"sasl.username wants securityProtocol: SASL_SSL, not {spoken}")
        if self.users != Users() and spoken != "SASL_SSL":
            raise ValueError(f"users want securityProtocol: SASL_SSL, not {spoken}")
        if spoken == "PLAINTEXT":
            if self.tls.ca or self.tls.cert:
                raise ValueError("tls wants securityProtocol: SSL or SASL_SSL, not PLAINTEXT")
            return self
        if self.bootstrap is None:
            raise ValueError(
                f"securityProtocol {spoken} wants bootstrap: the local stack's own Kafka speaks "
                "PLAINTEXT, on this machine alone"
            )
        if spoken == "SASL_SSL" and not (sasl.username and (sasl.password or sasl.password_file)):
            raise ValueError(
                "SASL_SSL wants sasl.username, and the password in sasl.passwordFile or in the "
                "variable FLEETCERT_KAFKA_SASL_PASSWORD"
            )
        return self

    def of(self, process: str) -> "Kafka":
        """Return the same as one process goes by it: under the name of its own, if it has one."""
        own = self.users.of(process)
        if own.username is None:
            return self
        said = {"username": own.username, "password_file": own.password_file, "password": None}
        return self.model_copy(update={"sasl": self.sasl.model_copy(update=said)})

    @property
    def security(self) -> Security | None:
        """How Kafka is reached. Raises InvalidConfiguration where the password is not there."""
        if self.security_protocol == "PLAINTEXT":
            return None
        tls, sasl = self.tls, self.sasl
        found = Security(tls.ca, tls.cert, tls.private_key)
        if sasl.username is None:
            return found
        file = Path(sasl.password_file or "")
        password = sasl.password or secret.of_file(file, self._named_by(sasl.password_file))
        return replace(found, username=sasl.username, password=password, mechanism=sasl.mechanism)

    def _named_by(self, file: str | None) -> str:
        """Return the key that names a password's file."""
        own = [one for one in self.users.named() if self.users.of(one).password_file == file]
        return f"kafka.users.{own[0]}.passwordFile" if own else "kafka.sasl.passwordFile"

    def cluster(self, local: str) -> Cluster:
        """Return Kafka as every client reaches it; `local` is the local stack's address."""
        return Cluster(self.bootstrap or local, self.prefix or "", self.security)
