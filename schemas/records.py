"""Copies of records, fast: what `copy.copy` and `dataclasses.replace` do, at a fifth of their time.

`replace` calls `__init__`, which sets every field of a frozen record through `object.__setattr__`.
Here one function per type is compiled that copies slot by slot. The machine makes two or three
copies per event (benchmarks/README.md).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def copied(record: T) -> T:
    """Return a copy of a slotted record; its fields are the same objects."""
    kind: type = type(record)
    copy: T = _copier(kind)[0](record)
    return copy


def changed(record: T, **changes: Any) -> T:
    """Return a copy of a slotted record with some fields changed. KeyError for no field."""
    kind: type = type(record)
    copier, setters = _copier(kind)
    copy: T = copier(record)
    for name, value in changes.items():
        setters[name](copy, value)
    return copy


def setters(kind: type) -> dict[str, Callable[[Any, Any], None]]:
    """Return what sets each field of a slotted record, also of a frozen one."""
    return {field.name: kind.__dict__[field.name].__set__ for field in dataclasses.fields(kind)}


@functools.cache
def _copier(kind: type) -> tuple[Callable[[Any], Any], dict[str, Callable[[Any, Any], None]]]:
    """Compile the copy of a type; where it is not frozen, by assignment: three times as fast."""
    found = setters(kind)
    frozen = kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    how = "    set_{0}(copy, record.{0})" if frozen else "    copy.{0} = record.{0}"
    scope: dict[str, Any] = {"new": object.__new__, "kind": kind}
    scope |= {f"set_{name}": setter for name, setter in found.items()}
    lines = [how.format(name) for name in found]
    source = "\n".join(["def copier(record):", "    copy = new(kind)", *lines, "    return copy"])
    exec(source, scope)  # noqa: S102 - our own field names
    return scope["copier"], found
