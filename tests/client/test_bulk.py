"""Many registrations from one file, in every form: what is taken, and what is refused where."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from client import bulk
from client.errors import FleetError
from client.registration import Registration
from pki.authority import Authority
from tests.helpers.registrations import document

FORMS = ("csv", "json", "jsonl", "yaml")


def written(form: str, documents: Sequence[Any]) -> str:
    """Return documents in a form, one line each where the form allows it."""
    if form == "json":
        return "[\n" + ",\n".join(json.dumps(one) for one in documents) + "\n]\n"
    if form == "jsonl":
        return "".join(f"{json.dumps(one)}\n" for one in documents)
    if form == "yaml":
        return yaml.safe_dump(list(documents))
    out = io.StringIO()
    names = ["id", "type", "protocols", "certificate", "ca", "tags", "attributes.room"]
    writer = csv.DictWriter(out, names)
    writer.writeheader()
    for one in documents:
        writer.writerow(
            {
                "id": one["id"],
                "type": one.get("type", ""),
                "protocols": " ".join(one.get("protocols", ())),
                "certificate": one["certificates"]["device"],
                "ca": one["certificates"].get("ca", ""),
                "tags": ";".join(one.get("tags", ())),
                "attributes.room": one.get("attributes", {}).get("room", ""),
            }
        )
    return out.getvalue()


def imported(
    text: str, form: str, known: Sequence[str] = (), folder: Path = Path()
) -> tuple[bulk.Outcome, list[Registration]]:
    """Import a text; return what became of it and what was written."""
    made: list[Registration] = []
    outcome = bulk.register(
        bulk.rows(io.StringIO(text, newline=""), form),
        known.__contains__,
        made.append,
        lambda path: (folder / path).read_bytes(),
    )
    return outcome, made


@pytest.mark.parametrize("form", FORMS)
def test_every_form_says_the_same(authorities: Authority, form: str) -> None:
    """Type, protocols, tags, attributes and certificates come through; a known id is left alone."""
    given = [
        document(
            authorities, f"pump-{number}", type="pump", protocols=["mqtt", "coap"],
            tags=["site=berlin", "beta"], attributes={"room": "7"},
        )
        for number in range(3)
    ]  # fmt: skip
    outcome, made = imported(written(form, given), form, known=["pump-1"])
    assert (outcome.registered, outcome.known, outcome.refused) == (2, 1, 0)
    assert [one.device_id for one in made] == ["pump-0", "pump-2"]
    first = made[0]
    assert (first.device_type, first.protocols) == ("pump", ("mqtt", "coap"))
    assert (first.tags, first.attributes) == (("site=berlin", "beta"), {"room": "7"})
    assert len(first.certificate.fingerprint) == 32


def test_a_certificate_may_be_a_file(authorities: Authority, tmp_path: Path) -> None:
    """Its path is taken from the folder of the file."""
    (tmp_path / "a.pem").write_text(document(authorities, "a")["certificates"]["device"])
    outcome, _ = imported("id,certificate\na,a.pem\nb,b.pem\n", "csv", folder=tmp_path)
    assert outcome.registered == 1
    assert outcome.refusals == [
        bulk.Refusal(3, "b", "certificates.device", "b.pem: No such file or directory")
    ]


@pytest.mark.parametrize("form", FORMS)
def test_a_refused_row_stops_no_other(authorities: Authority, form: str) -> None:
    """Each is told with its line, id, field and reason; the same id twice is refused once."""
    good = document(authorities, "a")
    bad = [
        good | {"id": "b"},
        good | {"id": "x x"},
        dict(good),
        document(authorities, "c", tags=["="]),
    ]
    text = written(form, [good, *bad, document(authorities, "d")])
    outcome, made = imported(text, form)
    assert [one.device_id for one in made] == ["a", "d"]
    assert [(one.id, one.field) for one in outcome.refusals] == [
        ("b", "certificates.device"),
        ("x x", "id"),
        ("a", "id"),
        ("c", "tags"),
    ]
    lines = [one.line for one in outcome.refusals]
    assert lines == sorted(lines)
    for line, one in zip(lines, outcome.refusals, strict=True):
        assert one.id in "".join(text.splitlines(keepends=True)[line - 1 :][:40])


@pytest.mark.parametrize(
    ("form", "text", "line", "reason"),
    [
        (
            "csv",
            "id,certifcate\n",
            1,
            "column 'certifcate': no such field; did you mean certificate",
        ),
        ("csv", "id,type\n", 1, "certificate must be one of them"),
        ("csv", "", 1, "id must be one of them"),
        ("csv", 'id,certificate\na,"b\n', 2, "unexpected end of data"),
        ("json", '{"id": 1}', 1, "expected an array"),
        ("json", "[\n1\n2]", 2, "expected , or ]"),
        ("json", "[\n\n{]", 3, "no JSON"),
        ("json", "[", 1, "no JSON"),
        ("jsonl", "x" * (bulk.LINE_CHARACTERS_MAX + 1), 1, "longer than 131,072"),
        ("yaml", "a: 1", 1, "expected a list"),
        ("yaml", "- a: [\n", 2, "no YAML"),
        ("yaml", "", 1, "expected a list"),
    ],
)
def test_what_cannot_be_read_on_says_where(form: str, text: str, line: int, reason: str) -> None:
    """It is one refusal, the last one, with its line."""
    outcome, made = imported(text, form)
    assert made == []
    assert outcome.refusals[-1].line == line
    assert reason in outcome.refusals[-1].reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("id,certificate\na,b,c\n", "3 values for 2 columns"),
        ("id,certificate\na\n", "1 values for 2 columns"),
    ],
)
def test_a_row_of_another_length_is_refused_alone(text: str, reason: str) -> None:
    """It is no guess which column a value belongs to."""
    outcome, _ = imported(text, "csv")
    assert [(one.line, one.reason) for one in outcome.refusals] == [(2, reason)]


def test_a_line_that_is_no_json_is_refused_alone(authorities: Authority) -> None:
    """The lines behind it are read; empty ones count for nothing but their number."""
    good = json.dumps(document(authorities, "a"))
    outcome, made = imported(f"{{\n\n{good}\n[1]\n", "jsonl")
    assert [one.device_id for one in made] == ["a"]
    assert [(one.line, one.field) for one in outcome.refusals] == [(1, ""), (4, "the device")]


@pytest.mark.parametrize(
    ("name", "head", "form"),
    [
        ("a.CSV", "[", "csv"),
        ("a.ndjson", "", "jsonl"),
        ("a.yml", "", "yaml"),
        ("-", " [\n", "json"),
        ("-", '{"id"', "jsonl"),
        ("-", "\ufeffid,certificate\n", "csv"),
        ("-", "- id: a\n", "yaml"),
    ],
)
def test_the_form_is_known_by_suffix_or_beginning(name: str, head: str, form: str) -> None:
    """A suffix says it; standard input is known by how it begins."""
    assert bulk.form_of(name, head) == form


def test_an_unknown_form_is_refused() -> None:
    """The nearest one is named."""
    with pytest.raises(FleetError, match="did you mean json"):
        bulk.rows(io.StringIO(""), "jason")


@given(st.sampled_from(FORMS), st.text(max_size=200))
def test_whatever_comes_is_refused_and_never_raises(form: str, text: str) -> None:
    """Any text is read to its end, or refused with a line that it has."""
    outcome, made = imported(text, form)
    assert made == []
    assert all(1 <= one.line <= len(text) + 1 for one in outcome.refusals)
