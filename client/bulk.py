"""Many registrations from one file: CSV, JSON, JSON lines or YAML, one device per row.

A row is the document of `client/registration.py`. In CSV its columns are `id`, `type`,
`protocols`, `certificate` (or `certificates.device`), `ca` (or `certificates.ca`), `tags` and
`attributes.NAME`; a list's parts stand apart by spaces or semicolons. Rows come with their line, so
that what is refused can be found; a file that cannot be read on ends with such a refusal. CSV and
JSON lines are read as they come; JSON and YAML are held whole, hence WHOLE_BYTES_MAX.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

import yaml

from client.errors import FleetError
from client.registration import FIELDS, Read, Refused, Registration, nearest, parse

ROWS_MAX = 1_000_000
LINE_CHARACTERS_MAX = 131_072
"""One row of CSV or JSON lines: a certificate and its CA as PEM have about 3,000."""
WHOLE_BYTES_MAX = 67_108_864
REFUSALS_MAX = 10_000
"""Refused rows that are told one by one; all are counted."""
SUFFIXES = {
    ".csv": "csv", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".yaml": "yaml",
    ".yml": "yaml",
}  # fmt: skip
COLUMNS = ("id", "type", "protocols", "certificate", "ca", "tags")
ALIASES = {"certificates.device": "certificate", "certificates.ca": "ca"}
ATTRIBUTE = "attributes."


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its first line, how far the text is read behind it, and its document."""

    line: int
    read_to: int
    document: Any


class Unreadable(ValueError):
    """The text cannot be read on from this line."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line, self.reason = line, reason


@dataclass(frozen=True, slots=True)
class Refusal:
    """One row that was refused: its line, its id where it has one, the field and the reason."""

    line: int
    id: str
    field: str
    reason: str


@dataclass(slots=True)
class Outcome:
    """What became of a file: `known` were registered before and are left as they are."""

    registered: int = 0
    known: int = 0
    refused: int = 0
    refusals: list[Refusal] = field(default_factory=list)

    def refuse(self, one: Refusal) -> None:
        """Count a refusal, and keep it where there is room."""
        self.refused += 1
        if len(self.refusals) < REFUSALS_MAX:
            self.refusals.append(one)


def register(
    rows: Iterator[Row],
    known: Callable[[str], bool],
    write: Callable[[Registration], None],
    read: Read,
) -> Outcome:
    """Check each row and write what is right and not known; return what became of all.

    An id that came on an earlier line is refused. FleetErrors of `write` pass.
    """
    outcome, seen = Outcome(), dict[str, int]()
    try:
        for number, row in enumerate(rows):
            if number >= ROWS_MAX:
                raise Unreadable(row.line, f"more than {ROWS_MAX:,} rows: give them in parts")
            try:
                one = parse(row.document, read)
                if one.device_id in seen:
                    before = seen[one.device_id]
                    raise Refused("id", f"{one.device_id} stands on line {before} too")
                seen[one.device_id] = row.line
            except Refused as error:
                outcome.refuse(Refusal(row.line, _id(row.document), error.field, error.reason))
            else:
                if known(one.device_id):
                    outcome.known += 1
                else:
                    write(one)
                    outcome.registered += 1
    except Unreadable as error:
        outcome.refuse(Refusal(error.line, "", "", error.reason))
    return outcome


def rows(stream: TextIO, form: str) -> Iterator[Row]:
    """Yield the rows of a text in this form. Raises Unreadable, FleetError for no such form."""
    readers = {"csv": _csv, "json": _json, "jsonl": _lines, "yaml": _yaml}
    if form not in readers:
        raise FleetError(f"no format {form!r}; {nearest(form, tuple(readers))}")
    return readers[form](stream)


def form_of(name: str, head: str) -> str:
    """Return the form of a file by its suffix, else by how it begins."""
    for suffix, form in SUFFIXES.items():
        if name.lower().endswith(suffix):
            return form
    first = head.lstrip("\ufeff").lstrip()
    if first[:1] in "[{":
        return "json" if first[:1] == "[" else "jsonl"
    line = first.partition("\n")[0]
    return "csv" if "," in line or ":" not in line else "yaml"


def _csv(stream: TextIO) -> Iterator[Row]:
    read_to = 0

    def lines() -> Iterator[str]:
        nonlocal read_to
        for line in stream:
            read_to += len(line)
            yield line

    csv.field_size_limit(LINE_CHARACTERS_MAX)
    reader = csv.reader(lines(), strict=True)
    line = 1
    try:
        names = _columns(next(reader, []))
        line = reader.line_num + 1
        for values in reader:
            if values:
                yield Row(line, read_to, _of_columns(line, names, values))
            line = reader.line_num + 1
    except (csv.Error, UnicodeDecodeError) as error:
        raise Unreadable(line, str(error)) from error


def _columns(names: list[str]) -> list[str]:
    found = [name.strip().lstrip("\ufeff") for name in names]
    found = [ALIASES.get(name, name) for name in found]
    for name in found:
        if name not in COLUMNS and not name.startswith(ATTRIBUTE):
            raise Unreadable(1, f"column {name!r}: no such field; {nearest(name, COLUMNS)}")
    for name in ("id", "certificate"):
        if found.count(name) != 1:
            raise Unreadable(1, f"the first line names the columns; {name} must be one of them")
    return found


def _of_columns(line: int, names: list[str], values: list[str]) -> Any:
    """Return a row's document; one with too many or few values is no document at all."""
    if len(values) != len(names):
        return _Broken(f"{len(values)} values for {len(names)} columns")
    given = {name: value.strip() for name, value in zip(names, values, strict=True) if value}
    document: dict[str, Any] = {name: given[name] for name in ("id", "type") if name in given}
    for name in ("protocols", "tags"):
        if name in given:
            document[name] = given[name].replace(";", " ").split()
    kinds = (("device", "certificate"), ("ca", "ca"))
    document["certificates"] = {kind: given[name] for kind, name in kinds if name in given}
    document["attributes"] = {
        name.removeprefix(ATTRIBUTE): value
        for name, value in given.items()
        if name.startswith(ATTRIBUTE)
    }
    return document


class _Broken(Mapping[str, Any]):
    """A row that is no document: every look at it raises the reason."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def __getitem__(self, name: str) -> Any:
        raise Refused("", self._reason)

    def __iter__(self) -> Iterator[str]:
        raise Refused("", self._reason)

    def __len__(self) -> int:
        return 0


def _lines(stream: TextIO) -> Iterator[Row]:
    number = read_to = 0
    try:
        while line := stream.readline(LINE_CHARACTERS_MAX + 1):
            number, read_to = number + 1, read_to + len(line)
            if len(line) > LINE_CHARACTERS_MAX:
                raise Unreadable(number, f"longer than {LINE_CHARACTERS_MAX:,} characters")
            text = line.strip().lstrip("\ufeff")
            if not text:
                continue
            try:
                document = json.loads(text)
            except ValueError as error:
                document = _Broken(f"no JSON: {error}")
            yield Row(number, read_to, document)
    except UnicodeDecodeError as error:
        raise Unreadable(number + 1, str(error)) from error


def _json(stream: TextIO) -> Iterator[Row]:
    """Yield the elements of an array, each with the line that it begins on."""
    text, decoder = _whole(stream), json.JSONDecoder()
    at = _skip(text, 0)
    if text[at : at + 1] != "[":
        raise Unreadable(1, "expected an array of devices, beginning with [")
    at = _skip(text, at + 1)
    line, counted = 1, 0
    while text[at : at + 1] != "]":
        line, counted = line + text.count("\n", counted, at), at
        try:
            document, at = decoder.raw_decode(text, at)
        except ValueError as error:
            raise Unreadable(line, f"no JSON: {error}") from error
        yield Row(line, at, document)
        at = _skip(text, at)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            raise Unreadable(line, "expected , or ] behind this device")


def _yaml(stream: TextIO) -> Iterator[Row]:
    text = _whole(stream)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(io.StringIO(text))
    line = 1
    try:
        node = loader.get_single_node()
        if not isinstance(node, yaml.SequenceNode):
            raise Unreadable(1, "expected a list of devices")
        for one in node.value:
            line = one.start_mark.line + 1
            yield Row(line, one.end_mark.index, loader.construct_object(one, deep=True))
    except yaml.MarkedYAMLError as error:
        where = error.problem_mark.line + 1 if error.problem_mark else line
        raise Unreadable(where, f"no YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise error if isinstance(error, Unreadable) else Unreadable(line, str(error)) from error
    finally:
        loader.dispose()


def _whole(stream: TextIO) -> str:
    try:
        text = stream.read(WHOLE_BYTES_MAX + 1)
    except UnicodeDecodeError as error:
        raise Unreadable(1, str(error)) from error
    if len(text) > WHOLE_BYTES_MAX:
        raise Unreadable(1, f"larger than {WHOLE_BYTES_MAX:,} bytes: give it as CSV or JSON lines")
    return text.lstrip("\ufeff")


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _id(document: Any) -> str:
    found = document.get("id") if isinstance(document, dict) else ""
    return found[:80] if isinstance(found, str) else ""


assert set(COLUMNS) - {"certificate", "ca"} < set(FIELDS)
