"""The Kafka that a program uses: the one place where its clients' settings are made."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

LOCAL = "127.0.0.1:9092"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Kafka, as the clients of one program reach it."""

    bootstrap: str = LOCAL

    @classmethod
    def of(cls, where: "Cluster | str") -> "Cluster":
        """Return a cluster that is given as such, or by its address alone: host:port, … ."""
        return where if isinstance(where, Cluster) else cls(where)

    def at(self, bootstrap: str) -> Self:
        """Return the same, reached at another address."""
        return replace(self, bootstrap=bootstrap)

    def settings(self, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the settings of a client of confluent-kafka: how to reach Kafka, and `more`."""
        return {"bootstrap.servers": self.bootstrap, **(more or {})}

    def __str__(self) -> str:
        """Return the address, as it is told to people."""
        return self.bootstrap
