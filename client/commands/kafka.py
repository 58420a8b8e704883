"""`fleetcert kafka acls`: the rights of each process on a Kafka that has rules."""

from dataclasses import asdict
from typing import Annotated

import typer
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from client import rights, terminal
from client.commands.options import KAFKA, Json, Kafka, examples
from client.errors import FleetError
from client.kafka import away
from configuration import look
from configuration.cluster import Cluster
from configuration.load import load

REQUEST_SECONDS = 30.0
OPERATIONS = {
    "Read": AclOperation.READ,
    "Write": AclOperation.WRITE,
    "Describe": AclOperation.DESCRIBE,
    "Create": AclOperation.CREATE,
    "Delete": AclOperation.DELETE,
    "DescribeConfigs": AclOperation.DESCRIBE_CONFIGS,
    "AlterConfigs": AclOperation.ALTER_CONFIGS,
}
RESOURCES = {
    rights.TOPIC: ResourceType.TOPIC,
    rights.GROUP: ResourceType.GROUP,
    rights.TRANSACTIONAL_ID: ResourceType.TRANSACTIONAL_ID,
}
PREFIXED, LITERAL = ResourcePatternType.PREFIXED, ResourcePatternType.LITERAL

app = typer.Typer(help="What fleetcert needs of a Kafka that others run.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """What fleetcert needs of a Kafka that others run."""


@app.command(
    "acls",
    epilog=examples(
        "kafka acls --user bridge=User:plant-bridge --user worker=User:plant-worker",
        "kafka acls --apply --bootstrap kafka-1.example:9093",
    ),
)
def acls(
    user: Annotated[
        list[str] | None,
        typer.Option(
            help="PROCESS=User:NAME, repeated; without it who kafka.users and kafka.sasl name.",
            metavar="PROCESS=PRINCIPAL",
        ),
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(help="Of all names; else kafka.prefix of the configuration.")
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Make the rules, as somebody who may: not one of these.")
    ] = False,
    cluster: Kafka = KAFKA,
    as_json: Json = False,
) -> None:
    """Print the access rules of each process as commands of Kafka's own tool, or make them.

    A rule that is there stays as it is, and none is ever taken away.
    """
    configuration = load().configuration
    begins = cluster.prefix if prefix is None else prefix
    known = rights.rights(configuration)
    wanted = [
        rule
        for process, principal in rights.principals(configuration, user or []).items()
        for rule in rights.rules(known[process], principal, begins)
    ]
    if apply:
        _make(cluster, wanted)
    if as_json:
        for rule in wanted:
            terminal.as_json(asdict(rule))
    elif apply:
        terminal.say(f"{len(set(wanted))} rules hold at {cluster}")
    else:
        for line in rights.commands(wanted, cluster.bootstrap):
            terminal.say(line)


def _make(cluster: Cluster, wanted: list[rights.Rule]) -> None:
    """Make the rules. Raises FleetError."""
    bindings = [
        AclBinding(
            RESOURCES[one.resource],
            one.name,
            PREFIXED if one.prefixed else LITERAL,
            one.principal,
            "*",
            OPERATIONS[one.operation],
            AclPermissionType.ALLOW,
        )
        for one in sorted(set(wanted))
    ]
    try:
        look.list_topics(cluster)
        admin = AdminClient(cluster.settings())
        made = admin.create_acls(bindings, request_timeout=REQUEST_SECONDS)
        for done in made.values():
            done.result()
    except look.Refused as error:
        raise FleetError(str(error)) from error
    except KafkaException as error:
        code = error.args[0].code()
        if code == KafkaError.SECURITY_DISABLED:
            raise FleetError(
                f"Kafka at {cluster} has no rules at all: its brokers want authorizer.class.name"
            ) from error
        if code == KafkaError.CLUSTER_AUTHORIZATION_FAILED:
            raise FleetError(
                f"Kafka at {cluster} does not let us make rules: that wants `Alter` on the "
                "cluster; without --apply the commands are printed, for who has it"
            ) from error
        raise away(cluster, error.args[0].str()) from error
