"""Given, when, then: the clauses of a scenario, in plain words.

`pytest -s` prints them as they are reached; a failure bears the words of the clause it fell in.
"""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def given(words: str) -> Iterator[None]:
    """How things stand."""
    with _clause("given", words):
        yield


@contextmanager
def when(words: str) -> Iterator[None]:
    """What happens."""
    with _clause("when", words):
        yield


@contextmanager
def then(words: str) -> Iterator[None]:
    """What must be so."""
    with _clause("then", words):
        yield


@contextmanager
def _clause(kind: str, words: str) -> Iterator[None]:
    print(f"\n  {kind} {words}", end="")
    try:
        yield
    except BaseException as error:
        error.add_note(f"{kind} {words}")
        raise
