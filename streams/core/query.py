"""Membership queries over tags: `site=berlin and not beta or type=pump`.

A query is terms joined by `and`, alternatives joined by `or`; `and` binds closer. A term is a tag
(`site=berlin`, or `beta` for a tag of this name with any value), `not` before it turns it round.
`type=` asks for the device's type.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

QUERY_CHARACTERS_MAX = 512
TERMS_MAX = 32
TAGS_MAX = 32
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}(=[A-Za-z0-9][A-Za-z0-9._/-]{0,63})?")
"""The form of a tag: a name, or a name and a value."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
VALUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}")
_WORDS = frozenset({"and", "or", "not", "in"})


@dataclass(frozen=True, slots=True)
class Term:
    """A tag, or where `value` is None any tag of this name."""

    name: str
    value: str | None
    negated: bool


Query = tuple[tuple[Term, ...], ...]
"""Alternatives, each of terms that all must hold."""


class Malformed(ValueError):
    """The text is no query; the message says what was expected, and where."""


def is_tag(text: str) -> bool:
    """Tell whether `text` is a tag."""
    return TAG.fullmatch(text) is not None and text not in _WORDS


def is_name(text: str) -> bool:
    """Tell whether `text` may name a tag or an attribute."""
    return NAME.fullmatch(text) is not None and text not in _WORDS


def is_value(text: str) -> bool:
    """Tell whether `text` may be a tag's value, a type or a protocol."""
    return VALUE.fullmatch(text) is not None


def parse(text: str) -> Query:
    """Return the query. Raises Malformed."""
    if len(text) > QUERY_CHARACTERS_MAX:
        raise Malformed(f"{len(text)} characters, at most {QUERY_CHARACTERS_MAX}")
    words = text.split()
    if len(words) > 3 * TERMS_MAX:
        raise Malformed(f"more than {TERMS_MAX} terms")
    alternatives: list[tuple[Term, ...]] = []
    terms: list[Term] = []
    position = 0
    while True:
        negated = position < len(words) and words[position] == "not"
        position += negated
        if position == len(words) or not is_tag(words[position]):
            found = repr(words[position]) if position < len(words) else "the end"
            raise Malformed(f"word {position + 1}: expected a tag, found {found}")
        name, equals, value = words[position].partition("=")
        terms.append(Term(name, value if equals else None, negated))
        position += 1
        if position == len(words):
            return (*alternatives, tuple(terms))
        if words[position] == "or":
            alternatives.append(tuple(terms))
            terms = []
        elif words[position] != "and":
            raise Malformed(f"word {position + 1}: expected and/or, found {words[position]!r}")
        position += 1


def objection(text: str) -> str:
    """Return what is wrong with a query, empty where nothing is; no query is no error."""
    try:
        if text:
            parse(text)
    except Malformed as error:
        return str(error)
    return ""


def matches(query: Query, tags: Collection[str], device_type: str) -> bool:
    """Tell whether a device of these tags and this type is meant."""
    known = {*tags, f"type={device_type}"}
    names = {one.partition("=")[0] for one in known}
    return any(all(_holds(term, known, names) for term in terms) for terms in query)


def _holds(term: Term, known: set[str], names: set[str]) -> bool:
    found = term.name in names if term.value is None else f"{term.name}={term.value}" in known
    return found is not term.negated
