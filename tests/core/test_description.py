"""What a device is described by: taken whole or refused whole, changed by tags."""

import pytest

from schemas.decisions import Decision
from schemas.events import DeviceRegistered, DeviceTagged
from tests.helpers.folding import DEVICE, Log, facts

TAGS = ("site=berlin", "beta")


def registered(*tags: str, kind: str = "pump", **attributes: str) -> DeviceRegistered:
    """Return a registration with certificate 1."""
    return DeviceRegistered(DEVICE, kind, ("mqtt",), facts(1), "ops", tags, attributes)


def tagged(*added: str, removed: tuple[str, ...] = ()) -> DeviceTagged:
    """Return a change of tags."""
    return DeviceTagged(DEVICE, added, removed, "ops")


def refusal(log: Log) -> str:
    """Return the detail of the last decision, a refusal."""
    decision = log.last(Decision)
    assert (decision.name, decision.reason) == ("EventRefused", "malformed")
    return str(decision.values["detail"])


def test_a_description_is_kept_sorted_with_one_value_per_name() -> None:
    """The last value of a name counts; attributes stand by name, whoever sent them."""
    log = Log()
    log.add(registered("site=paris", "beta", "site=berlin", room="7", floor="2"))
    assert log.row.tags == ("beta", "site=berlin")
    assert list(log.row.attributes.items()) == [("floor", "2"), ("room", "7")]


def test_a_second_registration_describes_anew_and_a_repeat_says_nothing() -> None:
    """What it leaves out stays; with an unknown certificate it is refused as before."""
    log = Log()
    log.add(registered(*TAGS, room="7"))
    assert log.add(registered(*TAGS, room="7")) == []
    assert [one.record.name for one in log.add(registered(kind="valve"))] == ["DescriptionChanged"]
    assert (log.row.device_type, log.row.tags) == ("valve", ("beta", "site=berlin"))
    assert log.row.attributes == {"room": "7"}


def test_tags_are_added_replaced_and_removed_by_name() -> None:
    """`removed` goes first, by name or whole; a change that changes nothing says nothing."""
    log = Log()
    log.add(registered(*TAGS))
    log.add(tagged("site=paris", "floor=2", removed=("beta",)))
    assert log.row.tags == ("floor=2", "site=paris")
    assert log.add(tagged("floor=2", removed=("site=berlin",))) == []
    log.add(tagged(removed=("site", "floor=2")))
    assert log.row.tags == ()


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (registered("site="), "tags: 'site=' is no tag"),
        (registered("and"), "tags: 'and' is no tag"),
        (registered(kind="a b"), "type: 'a b'"),
        (registered(kind=""), "type: ''"),
        (registered(*(f"t{number}" for number in range(33))), "tags: 33, at most 32"),
        (registered(room="x" * 257), "attributes.room: 257 characters, at most 256"),
    ],
)
def test_a_wrong_description_registers_nobody(event: DeviceRegistered, said: str) -> None:
    """It is refused with the field and the reason."""
    log = Log()
    log.add(event)
    assert log.rows == {}
    assert refusal(log).startswith(said)


def test_no_change_passes_the_limit_of_tags() -> None:
    """Thirty-two names are kept; one more is refused and changes nothing."""
    log = Log()
    log.add(registered(*(f"t{number}" for number in range(32))))
    before = log.row.tags
    log.add(tagged("one-more"))
    assert refusal(log) == "33 tags, at most 32"
    assert log.row.tags == before
