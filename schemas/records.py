"""A changed copy of a record, fast: what `dataclasses.replace` does, at a quarter of its time.

`replace` calls `__init__`, which sets every field of a frozen record through `object.__setattr__`.
Here one function per type is compiled that copies slot by slot and then sets what changes. The
machine makes several copies per event: this is most of its time (benchmarks/machine.py).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def changed(record: T, **changes: Any) -> T:
    """Return a copy of a frozen, slotted record with some fields changed. KeyError for no field."""
    kind: type = type(record)
    copy: T = _copier(kind)(record, changes)
    return copy


@functools.cache
def _copier(kind: type) -> Callable[[Any, dict[str, Any]], Any]:
    names = [field.name for field in dataclasses.fields(kind)]
    setters = {name: kind.__dict__[name].__set__ for name in names}
    scope: dict[str, Any] = {"new": object.__new__, "kind": kind, "setters": setters}
    scope |= {f"set_{name}": setter for name, setter in setters.items()}
    lines = [f"    set_{name}(copy, record.{name})" for name in names]
    source = "\n".join(
        [
            "def copier(record, changes):",
            "    copy = new(kind)",
            *lines,
            "    for name, value in changes.items():",
            "        setters[name](copy, value)",
            "    return copy",
        ]
    )
    exec(source, scope)  # noqa: S102 - our own field names
    copier: Callable[[Any, dict[str, Any]], Any] = scope["copier"]
    return copier
