"""What each process does on Kafka, and the access rules that let it do that and nothing else.

Rules of this file: names are the plain ones until a rule is made; Kafka's prefix comes first then.
`Read` and `Write` imply `Describe` for Kafka, on the same resource. An idempotent producer needs
nothing more than `Write` on a topic. Deadly to give away: who writes `device.events` or
`fleet.events` writes the history.
"""

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from client.errors import FleetError
from configuration.model import Configuration
from schemas import topics as t

TOPIC, GROUP, TRANSACTIONAL_ID = "topic", "group", "transactional-id"
ALL = tuple(one.name for one in t.TOPICS)
HISTORIES, ROWS = (t.DEVICE_EVENTS, t.FLEET_EVENTS), (t.DEVICE_STATE, t.FLEET_STATE)


@dataclass(frozen=True, slots=True)
class Rights:
    """What one process does on Kafka. Every one also looks at its start for all topics."""

    what: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    joins: tuple[str, ...] = ()
    """Groups that it is a member of."""
    asks: tuple[str, ...] = ()
    """Groups whose offsets it asks for, or whose name its readers say without joining."""
    transactions: tuple[str, ...] = ()
    """What its transactions begin with."""
    creates: tuple[str, ...] = ()
    configures: tuple[str, ...] = ()
    cuts: tuple[str, ...] = ()


def rights(configuration: Configuration) -> Mapping[str, Rights]:
    """Return the rights of each process, under the groups that are configured."""
    workers = configuration.worker.group
    operator = Rights(
        "commands and Python clients",
        reads=ALL,
        writes=(*HISTORIES, t.CERTIFICATE_REQUESTS, t.DEVICE_INVITATIONS),
        asks=(workers, "unused"),
    )
    return {
        "bridge": Rights(
            "an MQTT bridge",
            reads=(t.DEVICE_COMMANDS,),
            writes=(t.DEVICE_EVENTS, t.DEAD_LETTERS),
            joins=(configuration.iot.mqtt.group,),
        ),
        "coap": Rights(
            "a CoAP bridge",
            reads=(t.DEVICE_COMMANDS,),
            writes=(t.DEVICE_EVENTS, t.DEAD_LETTERS),
            asks=("coap-bridges",),
        ),
        "est": Rights(
            "an EST door",
            reads=(t.DEVICE_COMMANDS, t.DEVICE_INVITATIONS),
            writes=(t.DEVICE_EVENTS, t.CERTIFICATE_REQUESTS),
            asks=("est-doors",),
        ),
        "issuer": Rights(
            "the issuer",
            reads=(t.CERTIFICATE_REQUESTS,),
            writes=(t.DEVICE_EVENTS, t.DEVICE_INVITATIONS, t.DEAD_LETTERS),
            joins=("issuer",),
        ),
        "worker": Rights(
            "a worker",
            reads=(*HISTORIES, *ROWS),
            writes=(
                *HISTORIES,
                *ROWS,
                t.DEVICE_COMMANDS,
                t.CERTIFICATE_REQUESTS,
                t.DECISIONS,
                t.DEAD_LETTERS,
            ),
            joins=(workers,),
            asks=("unused",),
            transactions=("fleetcert-",),
        ),
        "operator": operator,
        "administrator": replace(
            operator,
            what="an operator who makes topics (`up`), applies the configuration and trims",
            creates=ALL,
            configures=(t.DEAD_LETTERS,),
            cuts=(t.DEVICE_EVENTS,),
        ),
    }


@dataclass(frozen=True, slots=True, order=True)
class Rule:
    """One access rule of Kafka: a principal may do one operation on what has, or begins a name."""

    principal: str
    resource: str
    prefixed: bool
    name: str
    operation: str


def rules(own: Rights, principal: str, prefix: str = "") -> list[Rule]:
    """Return the rules that give a principal these rights, and no more."""
    kinds: Sequence[tuple[str, bool, str, tuple[str, ...]]] = (
        (TOPIC, False, "Describe", ALL),
        (TOPIC, False, "Read", own.reads),
        (TOPIC, False, "Write", own.writes),
        (TOPIC, False, "Create", own.creates),
        (TOPIC, False, "DescribeConfigs", own.configures),
        (TOPIC, False, "AlterConfigs", own.configures),
        (TOPIC, False, "Delete", own.cuts),
        (GROUP, False, "Read", own.joins),
        (GROUP, False, "Describe", own.asks),
        (TRANSACTIONAL_ID, True, "Write", own.transactions),
    )
    return sorted(
        Rule(principal, resource, prefixed, prefix + name, operation)
        for resource, prefixed, operation, names in kinds
        for name in names
    )


def principals(configuration: Configuration, said: Sequence[str]) -> dict[str, str]:
    """Return who each process is to Kafka: the configuration's users, and `PROCESS=User:NAME`.

    Raises FleetError for what is none, and where nobody is known.
    """
    known = rights(configuration)
    kafka = configuration.kafka
    users = {one: kafka.of(one).sasl.username for one in type(kafka.users).model_fields}
    users["administrator"] = kafka.sasl.username
    found = {process: f"User:{name}" for process, name in users.items() if name}
    for one in said:
        process, _, principal = one.partition("=")
        kind, _, name = principal.partition(":")
        if process not in known or not kind or not name:
            raise FleetError(
                f"{one!r}: say PROCESS=User:NAME, where PROCESS is one of {', '.join(known)}"
            )
        found[process] = principal
    if not found:
        raise FleetError(
            "nobody is known: name who each process is to Kafka in kafka.users.<process>, or by "
            "--user bridge=User:NAME"
        )
    return {process: found[process] for process in known if process in found}


def commands(wanted: Iterable[Rule], bootstrap: str) -> Iterator[str]:
    """Yield the commands of Kafka's own tool, one for what may be done alike."""
    operations: dict[tuple[str, str, bool, str], list[str]] = {}
    for one in sorted(set(wanted)):
        where = (one.principal, one.resource, one.prefixed, one.name)
        operations.setdefault(where, []).append(one.operation)

    def alike(one: tuple[str, str, bool, str]) -> tuple[str, str, bool, list[str]]:
        return (*one[:3], operations[one])

    for key, places in groupby(sorted(operations, key=alike), alike):
        principal, resource, prefixed, done = key
        words = ["kafka-acls.sh", "--bootstrap-server", bootstrap, "--add"]
        words += ["--allow-principal", principal]
        words += [word for one in done for word in ("--operation", one)]
        words += [word for one in places for word in (f"--{resource}", one[3])]
        yield shlex.join(words + (["--resource-pattern-type", "prefixed"] if prefixed else []))


def table(configuration: Configuration) -> Iterator[str]:
    """Yield the lines of the table in docs/kafka.md."""
    yield "| process | reads | writes | groups | transactions | more |"
    yield "|---|---|---|---|---|---|"
    for name, one in rights(configuration).items():
        groups = [f"`{group}`" for group in one.joins]
        groups += [f"`{group}` (`Describe`)" for group in one.asks]
        more = [("Create", one.creates), ("Delete", one.cuts)]
        more += [("DescribeConfigs`, `AlterConfigs", one.configures)]
        cells = (
            f"`{name}`: {one.what}",
            _topics(one.reads),
            _topics(one.writes),
            ", ".join(groups),
            ", ".join(f"`{begin}`, prefixed" for begin in one.transactions),
            "; ".join(f"`{done}`: {_topics(names)}" for done, names in more if names),
        )
        yield "| " + " | ".join(cells) + " |"


def _topics(names: tuple[str, ...]) -> str:
    return "all" if names == ALL else ", ".join(f"`{one}`" for one in names)
