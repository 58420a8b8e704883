"""What a device is described by: type, protocols, tags, attributes.

Rules: a device has one value per tag name, and its tags stand sorted. A description is taken whole
or refused whole. Registering a device again with a certificate it holds describes it anew; what
such a registration leaves out (no tags, no attributes) stays as it is.
"""

from collections.abc import Iterable, Mapping

from schemas.decisions import DecisionName, Severity
from schemas.events import DeviceRegistered, DeviceTagged
from schemas.reasons import Reason
from schemas.states import DeviceRow
from streams.core import matching, query
from streams.core.turn import Turn

PROTOCOLS = ("mqtt", "coap")
"""What a device may speak."""
PROTOCOLS_MAX = 8
TYPE_CHARACTERS_MAX = 64
UNNAMED_TYPE = "device"
"""What a device is whose type nobody has told."""
ATTRIBUTES_MAX = 32
ATTRIBUTE_CHARACTERS_MAX = 256


def objection(
    device_type: str,
    protocols: Iterable[str],
    tags: Iterable[str],
    attributes: Mapping[str, str],
) -> tuple[str, str]:
    """Return the field that is wrong and why, two empty texts where nothing is."""
    if not query.is_value(device_type) or len(device_type) > TYPE_CHARACTERS_MAX:
        return "type", (
            f"{device_type[:80]!r}: letters, digits, '.', '_', '/' and '-', at most "
            f"{TYPE_CHARACTERS_MAX}"
        )
    spoken = tuple(protocols)
    if len(spoken) > PROTOCOLS_MAX or not all(query.is_value(one) for one in spoken):
        return "protocols", f"at most {PROTOCOLS_MAX} names like {' and '.join(PROTOCOLS)}"
    if wrong := tags_objection(tags):
        return "tags", wrong
    if len(attributes) > ATTRIBUTES_MAX:
        return "attributes", f"{len(attributes)}, at most {ATTRIBUTES_MAX}"
    for name, value in attributes.items():
        if not query.is_name(name):
            return f"attributes.{name[:80]}", "a name has letters, digits, '.', '_' and '-'"
        if len(value) > ATTRIBUTE_CHARACTERS_MAX:
            most = ATTRIBUTE_CHARACTERS_MAX
            return f"attributes.{name}", f"{len(value)} characters, at most {most}"
    return "", ""


def tags_objection(tags: Iterable[str]) -> str:
    """Return what is wrong with tags, empty where nothing is."""
    found = tuple(tags)
    for one in found:
        if not query.is_tag(one):
            return f"{one[:140]!r} is no tag: NAME, or NAME=VALUE"
    if len(merged((), found)) > query.TAGS_MAX:
        return f"{len(found)}, at most {query.TAGS_MAX}"
    return ""


def merged(
    tags: Iterable[str], added: Iterable[str], removed: Iterable[str] = ()
) -> tuple[str, ...]:
    """Return the tags behind a change: one per name, sorted. What is removed is named or whole."""
    gone = set(removed)
    kept = {_name(one): one for one in tags if one not in gone and _name(one) not in gone}
    kept |= {_name(one): one for one in added}
    return tuple(sorted(kept.values()))


def described(turn: Turn, row: DeviceRow, event: DeviceRegistered) -> None:
    """Describe a registered device anew."""
    spoken = (event.device_type, event.protocols, event.tags, event.attributes)
    field, wrong = objection(*spoken)
    if wrong:
        _refuse(turn, row, "DeviceRegistered", f"{field}: {wrong}")
        return
    before = (row.device_type, row.protocols, row.tags, row.attributes)
    tags = merged((), event.tags) if event.tags else row.tags
    attributes = ordered(event.attributes) if event.attributes else row.attributes
    if before == (event.device_type, event.protocols, tags, attributes):
        return
    row.device_type, row.protocols, row.tags = event.device_type, event.protocols, tags
    row.attributes = attributes
    _say(turn, row, event.actor)
    matching.ask(turn, row)


def tagged(turn: Turn, row: DeviceRow, event: DeviceTagged) -> None:
    """Change a device's tags."""
    after = merged(row.tags, event.added, event.removed)
    wrong = tags_objection(event.added)
    if not wrong and len(after) > query.TAGS_MAX:
        wrong = f"{len(after)} tags, at most {query.TAGS_MAX}"
    if wrong:
        _refuse(turn, row, "DeviceTagged", wrong)
    elif after != row.tags:
        row.tags = after
        _say(turn, row, event.actor)
        matching.ask(turn, row)


def ordered(attributes: Mapping[str, str]) -> dict[str, str]:
    """Return attributes in the order of their names: a row's bytes do not depend on the sender."""
    return dict(sorted(attributes.items()))


def _name(tag: str) -> str:
    return tag.partition("=")[0]


def _say(turn: Turn, row: DeviceRow, actor: str) -> None:
    turn.decide(
        DecisionName.DESCRIPTION_CHANGED,
        Reason.ORDERED,
        f"device:{row.device_id}",
        values={"type": row.device_type, "tags": " ".join(row.tags), "actor": actor},
    )


def _refuse(turn: Turn, row: DeviceRow, what: str, detail: str) -> None:
    turn.decide(
        DecisionName.EVENT_REFUSED,
        Reason.MALFORMED,
        f"device:{row.device_id}",
        severity=Severity.WARNING,
        values={"what": what, "detail": detail},
    )
