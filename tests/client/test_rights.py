"""The rules that are made of the rights: whole, least, and as Kafka's own tool reads them."""

import shlex
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import rights
from client.errors import FleetError
from client.rights import Rights, Rule
from configuration.model import Configuration
from docs.draw import kafka_page
from schemas.topics import BY_NAME, DECISIONS, DEVICE_EVENTS, FLEET_EVENTS
from streams.programs import PROGRAMS

USUAL = rights.rights(Configuration())
PREFIXES = st.text("abc.-_", max_size=8)
PROCESS = st.sampled_from(sorted(USUAL))


def read(line: str) -> set[Rule]:
    """Return the rules that a command of kafka-acls.sh makes."""
    program, *words = shlex.split(line)
    assert program == "kafka-acls.sh"
    prefixed = words[-2:] == ["--resource-pattern-type", "prefixed"]
    words.remove("--add")
    said = list(zip(words[::2], words[1::2], strict=True))
    (principal,) = [value for name, value in said if name == "--allow-principal"]
    kinds = {"--topic", "--group", "--transactional-id"}
    return {
        Rule(principal, kind.removeprefix("--"), prefixed, name, operation)
        for kind, name in said
        if kind in kinds
        for option, operation in said
        if option == "--operation"
    }


@given(PROCESS, PREFIXES, st.text("ab =,'\"$", min_size=1, max_size=12))
def test_the_commands_make_the_rules_and_no_other(process: str, prefix: str, name: str) -> None:
    """Whoever it is, and whatever stands before the names: a shell takes nothing for its own."""
    wanted = rights.rules(USUAL[process], f"User:CN={name}", prefix)
    made = [read(line) for line in rights.commands(wanted, "kafka:9093")]
    assert set().union(*made) == set(wanted)
    assert sum(map(len, made)) == len(set(wanted)) == len(wanted)


@given(PROCESS, PREFIXES)
def test_every_rule_stands_behind_the_prefix_and_names_what_there_is(
    process: str, prefix: str
) -> None:
    """No rule is about what is another's; each process may look whether all topics are there."""
    wanted = rights.rules(USUAL[process], "User:x", prefix)
    assert all(one.name.startswith(prefix) for one in wanted)
    topics = [one for one in wanted if one.resource == rights.TOPIC]
    assert {one.name.removeprefix(prefix) for one in topics if one.operation == "Describe"} == set(
        BY_NAME
    )
    assert {one.name.removeprefix(prefix) for one in topics} == set(BY_NAME)


def test_the_configured_groups_are_the_ones_of_the_rules() -> None:
    """Another group of workers or bridges is another name on Kafka."""
    said = {"iot": {"mqtt": {"group": "doors-2"}}, "worker": {"group": "workers-2"}}
    found = rights.rights(Configuration.model_validate(said))
    assert found["bridge"].joins == ("doors-2",)
    assert found["worker"].joins == ("workers-2",)
    assert found["operator"].asks == ("workers-2", "unused")


def test_only_workers_decide_and_only_people_and_they_write_for_fleets() -> None:
    """What must not be given away: who writes `decisions` or a history writes what is true."""
    assert [name for name, one in USUAL.items() if DECISIONS in one.writes] == ["worker"]
    writers = [name for name, one in USUAL.items() if FLEET_EVENTS in one.writes]
    assert writers == ["worker", "operator", "administrator"]
    assert all(DEVICE_EVENTS in one.writes for one in USUAL.values())


def test_a_worker_may_write_all_that_its_programs_put_out() -> None:
    """And nothing else, but the rows."""
    outputs = {topic for one in PROGRAMS for topic in (*one.outputs, one.table)}
    assert set(USUAL["worker"].writes) == outputs


def test_the_document_has_every_right() -> None:
    """Its table is drawn from the same."""
    page = kafka_page()
    for process, one in USUAL.items():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{process}`:")]
        for field in fields(Rights)[1:]:
            names = getattr(one, field.name)
            assert all(f"`{name}`" in row for name in names) or names == rights.ALL


def configured(**users: dict[str, str]) -> Configuration:
    """Return a configuration with a password, and users of processes."""
    sasl = {"username": "me", "password": "secret"}
    kafka = {"bootstrap": "k:1", "securityProtocol": "SASL_SSL", "sasl": sasl, "users": users}
    return Configuration.model_validate({"kafka": kafka})


def test_who_is_who_comes_from_the_configuration_and_the_options() -> None:
    """A process without a name of its own is who kafka.sasl names; an option goes before."""
    one = configured(bridge={"username": "b", "passwordFile": "/b"})
    found = rights.principals(one, ["worker=User:CN=w,O=x", "operator=User:o"])
    assert found == {
        "bridge": "User:b",
        "coap": "User:me",
        "est": "User:me",
        "issuer": "User:me",
        "worker": "User:CN=w,O=x",
        "operator": "User:o",
        "administrator": "User:me",
    }


@pytest.mark.parametrize("said", ["bridge", "bridge=x", "bridge=User:", "door=User:x"])
def test_what_is_no_principal_is_told(said: str) -> None:
    """With the processes there are."""
    with pytest.raises(FleetError, match="one of bridge, coap, est, issuer, worker"):
        rights.principals(Configuration(), [said])


def test_without_anybody_it_is_told_how_to_name_them() -> None:
    """A local stack has no users."""
    with pytest.raises(FleetError, match=r"kafka\.users\.<process>"):
        rights.principals(Configuration(), [])
