"""Membership queries over tags: `type=sensor and site in (berlin, paris) and not beta`.

A query is terms joined by `and`, alternatives joined by `or`; `and` binds closer. A term is a tag
(`site=berlin`, or `beta` for a tag of this name with any value) or a list (`site in (a, b)`); `not`
before it turns it round. `type=` asks for the device's type, `protocol=` for one that it speaks.
"""

import functools
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
_WORD = re.compile(r"[(),]|[^\s(),]+")
_WORDS = frozenset({"and", "or", "not", "in"})


@dataclass(frozen=True, slots=True)
class Term:
    """A name with one of these values, or where `values` is empty with any."""

    name: str
    values: tuple[str, ...]
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


@functools.lru_cache(maxsize=1_024)
def parse(text: str) -> Query:
    """Return the query. Raises Malformed."""
    if len(text) > QUERY_CHARACTERS_MAX:
        raise Malformed(f"{len(text)} characters, at most {QUERY_CHARACTERS_MAX}")
    words = _Words(_WORD.findall(text))
    alternatives: list[tuple[Term, ...]] = []
    terms: list[Term] = []
    for _ in range(TERMS_MAX):
        terms.append(_term(words))
        joined = words.take()
        if not joined:
            return (*alternatives, tuple(terms))
        if joined == "or":
            alternatives.append(tuple(terms))
            terms = []
        elif joined != "and":
            raise words.malformed("and/or")
    raise Malformed(f"more than {TERMS_MAX} terms")


class _Words:
    """The words of a query, taken one by one; empty ones behind the end."""

    def __init__(self, words: list[str]) -> None:
        self._words, self._taken = words, 0

    def take(self) -> str:
        """Return the next word."""
        self._taken += 1
        return self._words[self._taken - 1] if self._taken <= len(self._words) else ""

    def next_is(self, word: str) -> bool:
        """Take the next word if it is this one."""
        found = self._taken < len(self._words) and self._words[self._taken] == word
        self._taken += found
        return found

    def malformed(self, expected: str) -> Malformed:
        """Return the error about the word taken last."""
        there = self._taken <= len(self._words)
        found = repr(self._words[self._taken - 1]) if there else "the end"
        return Malformed(f"word {self._taken}: expected {expected}, found {found}")


def _term(words: _Words) -> Term:
    negated = words.next_is("not")
    word = words.take()
    if not is_tag(word):
        raise words.malformed("a tag")
    name, equals, value = word.partition("=")
    if equals or not words.next_is("in"):
        return Term(name, (value,) if equals else (), negated)
    values: list[str] = []
    closing = words.take()
    if closing != "(":
        raise words.malformed("(")
    while closing != ")":
        value = words.take()
        if not is_value(value):
            raise words.malformed("a value")
        values.append(value)
        closing = words.take()
        if closing not in (",", ")"):
            raise words.malformed(", or )")
    return Term(name, tuple(values), negated)


def objection(text: str) -> str:
    """Return what is wrong with a query, empty where nothing is; no query is no error."""
    try:
        if text:
            parse(text)
    except Malformed as error:
        return str(error)
    return ""


def matches(
    query: Query, tags: Collection[str], device_type: str, protocols: Collection[str] = ()
) -> bool:
    """Tell whether a device of these tags and this type is meant."""
    known = {*tags, f"type={device_type}", *(f"protocol={one}" for one in protocols)}
    names = {one.partition("=")[0] for one in known}
    return any(all(_holds(term, known, names) for term in terms) for terms in query)


def _holds(term: Term, known: set[str], names: set[str]) -> bool:
    if term.values:
        found = any(f"{term.name}={value}" in known for value in term.values)
    else:
        found = term.name in names
    return found is not term.negated
