"""The first look at a Kafka: whether it takes us, and if not, why and what to do.

A client of Kafka goes on for ever where it is refused: a password may become right. Who has just
started wants to be told instead. No answer holds a secret.
"""

import time
from collections.abc import Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from configuration.cluster import Cluster

LOOK_SECONDS = 5.0
STEP_SECONDS = 1.0
"""A wrong password does not become right by waiting: it is told after one step."""
ADVICE = {
    KafkaError._AUTHENTICATION: "look at kafka.sasl: mechanism, username, and the password, in "
    "passwordFile or in the variable FLEETCERT_KAFKA_SASL_PASSWORD; a process may have its name in "
    "kafka.users",
    KafkaError._SSL: "look at kafka.tls: ca is who signed Kafka's certificate, which is for the "
    "name in kafka.bootstrap; cert and key are ours, where Kafka wants them",
}
OTHER_LISTENER = "look at kafka.securityProtocol: the listener speaks something else"


class Refused(RuntimeError):
    """Kafka is there and does not take us, or our files are wrong; the message says what to do."""


def list_topics(cluster: Cluster, *, timeout: float = LOOK_SECONDS) -> Any:
    """Return what Kafka lists.

    Raises Refused; KafkaException where Kafka is away, which passes by itself.
    """
    heard: list[KafkaError] = []
    try:
        admin = AdminClient(cluster.settings({"error_cb": heard.append, "log_level": 0}))
    except KafkaException as error:
        where = f"Kafka at {cluster} cannot be asked"
        raise Refused(f"{where}: {error.args[0].str()}; {ADVICE[KafkaError._SSL]}") from None
    until = time.monotonic() + timeout
    while True:
        left = until - time.monotonic()
        try:
            return admin.list_topics(timeout=STEP_SECONDS)
        except KafkaException:
            admin.poll(0)
            final = left <= STEP_SECONDS or KafkaError._AUTHENTICATION in [
                one.code() for one in heard
            ]
            if final and (why := refusal(heard)):
                raise Refused(f"Kafka at {cluster} refuses us: {why}") from None
            if final:
                raise


def refusal(heard: Sequence[KafkaError]) -> str:
    """Return why Kafka refuses a client and what to do, from what it heard; empty for no reason."""
    for error in heard:
        if advice := ADVICE.get(error.code()):
            return f"{error.str()}; {advice}"
        if "security.protocol" in error.str():
            return f"{error.str()}; {OTHER_LISTENER}"
    return ""


def why(cluster: Cluster) -> str:
    """Return why Kafka refuses us, empty where it does not or is away."""
    if cluster.security is None:
        return ""
    try:
        list_topics(cluster)
    except Refused as error:
        return str(error)
    except KafkaException:
        pass
    return ""
