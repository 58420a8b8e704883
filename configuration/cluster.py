"""The Kafka that a program uses: the one place where its clients' settings and names are made.

Rules of this file: in the language a topic, a group and a transaction have one plain name; on
Kafka it stands behind the prefix. Plain names go into records, ids, logs and metrics, names on
Kafka go to clients only. A password is shown nowhere: it goes to clients only, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

LOCAL = "127.0.0.1:9092"
NAMES = ("group.id", "transactional.id")
"""Settings of a client that are names on Kafka."""
NOTICE = {"log_level": 5}
"""For clients that administer: at their end they say what they drop, on standard error, at 6."""


@dataclass(frozen=True, slots=True)
class Security:
    """TLS to Kafka, and who we are there: a certificate, a name with a password, or both.

    Files are PEM. Without `ca` the machine's own authorities are trusted.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    username: str = ""
    password: str = field(default="", repr=False)
    mechanism: str = "SCRAM-SHA-512"

    @property
    def protocol(self) -> str:
        """What the listener speaks, in Kafka's words."""
        return "SASL_SSL" if self.username else "SSL"

    def settings(self) -> dict[str, Any]:
        """Return the settings of a client of confluent-kafka."""
        found: dict[str, Any] = {"security.protocol": self.protocol}
        files = {"ca": self.ca, "certificate": self.cert, "key": self.key}
        found |= {f"ssl.{name}.location": file for name, file in files.items() if file}
        if self.username:
            found["sasl.mechanism"] = self.mechanism
            found |= {"sasl.username": self.username, "sasl.password": self.password}
        return found


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Kafka, as the clients of one program reach it. Without `security`: plain TCP, as nobody."""

    bootstrap: str = LOCAL
    prefix: str = ""
    security: Security | None = None

    @classmethod
    def of(cls, where: "Cluster | str") -> "Cluster":
        """Return a cluster that is given as such, or by its address alone: host:port, … ."""
        return where if isinstance(where, Cluster) else cls(where)

    def at(self, bootstrap: str) -> Self:
        """Return the same, reached at another address."""
        return replace(self, bootstrap=bootstrap)

    def settings(self, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the settings of a client of confluent-kafka: how to reach Kafka, and `more`.

        Its group and its transactions are given by their plain names.
        """
        own = dict(more or {})
        named = {name: self.named(own[name]) for name in NAMES if name in own}
        secured = self.security.settings() if self.security else {}
        return {"bootstrap.servers": self.bootstrap} | secured | own | named

    def named(self, name: str) -> str:
        """Return what a topic, group or transaction is called on Kafka."""
        return self.prefix + name

    def plain(self, name: str | None) -> str:
        """Return the plain name of what Kafka calls so."""
        return (name or "").removeprefix(self.prefix)

    def __str__(self) -> str:
        """Return the address, as it is told to people."""
        return self.bootstrap
