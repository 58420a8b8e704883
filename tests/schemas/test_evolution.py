"""Evolution: what may change in a record, and that older bytes are read for ever."""

import copy
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import pytest

from schemas import codec, evolution
from schemas.events import ClockTicked, DeviceReported, PolicyActivated, SessionOpened
from schemas.states import DeviceRow, Policy

Schema = dict[str, Any]
ROOT = Path(__file__).parents[2]


def changed(change: Callable[[Schema], object], kind: type = DeviceReported) -> list[str]:
    """Return the objections to a change of a record's schema."""
    older = codec.avsc(kind)
    newer = copy.deepcopy(older)
    change(newer)
    return evolution.objections(older, newer)


def field(schema: Schema, name: str) -> Schema:
    """Return a field of a record's schema."""
    return next(one for one in schema["fields"] if one["name"] == name)


def test_the_committed_drawings_read_each_other() -> None:
    """Every former drawing of a history record and the newest one, both ways."""
    assert evolution.check() == []


def test_an_id_is_one_drawing_of_one_record() -> None:
    """No two records share an id: two branches that each drew one would."""
    ids = [one for versions in codec.catalogue().values() for one in versions]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("kind", [DeviceReported, PolicyActivated, DeviceRow])
def test_a_record_reads_itself(kind: type) -> None:
    """No change, no objection: nested records, unions, arrays and mentions by name."""
    assert changed(lambda schema: None, kind) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda one: one["fields"].append({"name": "more", "type": "string", "default": ""}),
        lambda one: one["fields"].insert(0, {"name": "more", "type": "long", "default": 0}),
        lambda one: one["fields"].reverse(),
        lambda one: one.update(doc="Said better."),
        lambda one: one["fields"].remove(field(one, "numbering")),
        lambda one: field(one, "payload").update(type="string"),
    ],
    ids=["added", "added first", "reordered", "documented", "optional removed", "bytes to string"],
)
def test_a_compatible_change_passes(change: Callable[[Schema], object]) -> None:
    """Fields come and go with defaults, in any order; bytes and string promote both ways."""
    assert changed(change) == []


@pytest.mark.parametrize(
    ("change", "objection"),
    [
        (
            lambda one: one["fields"].append({"name": "more", "type": "string"}),
            "newer cannot read older: more: not written, and without a default",
        ),
        (
            lambda one: one["fields"].remove(field(one, "payload")),
            "older cannot read newer: payload: not written, and without a default",
        ),
        (
            lambda one: field(one, "payload").update(type="long"),
            "newer cannot read older: payload: bytes is no long",
        ),
        (
            lambda one: field(one, "numbering").update(type=["null", "long"]),
            "newer cannot read older: numbering: no branch takes Numbering",
        ),
        (
            lambda one: field(one, "numbering").update(type="string"),
            "newer cannot read older: numbering: null is no string",
        ),
        (
            lambda one: field(field(one, "evidence")["type"], "counter").update(type="double"),
            "older cannot read newer: evidence.counter: double is no long",
        ),
        (lambda one: one.update(name="Other"), "the record: DeviceReported is no Other"),
    ],
    ids=["added", "removed", "retyped", "branch gone", "no union", "one-way", "renamed"],
)
def test_an_incompatible_change_is_named(
    change: Callable[[Schema], object], objection: str
) -> None:
    """Each objection says who cannot read whom, where, and why."""
    assert any(objection in one for one in changed(change))


def test_items_and_values_are_compared() -> None:
    """Arrays and maps are as compatible as what they hold."""
    for kind, inner in (("array", "items"), ("map", "values")):
        older, newer = {"type": kind, inner: "int"}, {"type": kind, inner: "boolean"}
        assert any("int is no boolean" in one for one in evolution.objections(older, newer))
        assert evolution.objections(older, older) == []


def catalogue(folder: Path, kind: type, family: str, older: Schema, ids: list[int]) -> Path:
    """Return a copy of the committed drawings in which `kind` once had another schema."""
    avro = folder / "avro"
    shutil.copytree(codec.AVRO, avro)
    known = json.loads((avro / "ids.json").read_text()) | {kind.__name__: ids}
    (avro / "ids.json").write_text(json.dumps(known))
    former = avro / family / f"{kind.__name__}.v{ids[0]}.avsc"
    former.write_text(json.dumps(older))
    return avro


def written(schema: Schema, schema_id: int, record: dict[str, Any]) -> bytes:
    """Return a record's bytes as an older release wrote them."""
    buffer = io.BytesIO(codec.HEADER.pack(codec.MAGIC, schema_id))
    buffer.seek(0, io.SEEK_END)
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(schema), record)
    return buffer.getvalue()


def test_bytes_of_an_older_schema_become_todays_record(tmp_path: Path) -> None:
    """A field that came since has its default; one that went is passed over."""
    older = codec.avsc(PolicyActivated)
    policy = field(older, "policy")["type"]
    policy["fields"].remove(field(policy, "silent_after_ms"))
    policy["fields"].insert(0, {"name": "gone", "type": "string", "default": ""})
    avro = catalogue(tmp_path, PolicyActivated, "device", older, [1900, 1901])
    spans = {name: 7 for name in Policy.__dataclass_fields__ if name != "silent_after_ms"}
    values = spans | {"anomaly_detection": False, "just_in_time": "approval"}
    data = written(older, 1900, {"number": 1, "policy": values | {"gone": "x"}, "actor": "me"})
    expected = PolicyActivated(1, Policy(**values), "me")
    assert codec.decode(data, avro) == expected
    with pytest.raises(codec.Undecodable):
        codec.decode(data[:-1], avro)
    with pytest.raises(codec.Undecodable):
        codec.decode(data + b"x", avro)
    assert evolution.check(avro) == []


def test_nested_records_and_unions_of_an_older_schema_are_read(tmp_path: Path) -> None:
    """Evidence and an optional numbering resolve to their dataclasses."""
    older = codec.avsc(DeviceReported)
    older["fields"].remove(field(older, "numbering"))
    avro = catalogue(tmp_path, DeviceReported, "device", older, [1900, 1901])
    evidence = {
        "certificate_sha256": b"f",
        "peer_address": "a",
        "session": "s",
        "counter": 1,
        "protocol": "mqtt",
        "received_at": 2,
    }
    record = {"device_id": "d", "evidence": evidence, "event_type": "e", "content_type": "c"}
    decoded = codec.decode(written(older, 1900, record | {"payload": b"p"}), avro)
    assert isinstance(decoded, DeviceReported)
    assert (decoded.evidence.session, decoded.numbering, decoded.payload) == ("s", None, b"p")


def test_a_forbidden_change_of_a_committed_drawing_is_found(tmp_path: Path) -> None:
    """The check reads the folder, and names record, version and field."""
    older = codec.avsc(SessionOpened)
    older["fields"].append({"name": "needed", "type": "string"})
    avro = catalogue(tmp_path, SessionOpened, "device", older, [1900, 1901])
    assert evolution.check(avro) == [
        "SessionOpened v1900: older cannot read newer: needed: not written, and without a default"
    ]


def test_all_ids_are_unique_and_within_their_family() -> None:
    """Also the ids of former drawings; each has its file."""
    first = {"device": 1000, "command": 2000, "decision": 3000, "state": 4000, "fleet": 5000}
    ids = [one for versions in codec.catalogue().values() for one in versions]
    assert len(ids) == len(set(ids))
    for family, kinds in codec.roots().items():
        for kind in kinds:
            versions = codec.catalogue()[kind.__name__]
            assert versions == sorted(versions)
            for one in versions:
                assert 0 <= one - first[family] < 1000
            for one in versions[:-1]:
                assert (codec.AVRO / family / f"{kind.__name__}.v{one}.avsc").exists()


def test_a_drawn_change_takes_a_new_id_and_keeps_the_former_drawing(tmp_path: Path) -> None:
    """`schemas.draw` renames what it replaces; the id of a record that is gone stays taken."""
    shutil.copytree(ROOT / "schemas", tmp_path / "schemas")
    avro = tmp_path / "schemas" / "avro"
    ids = json.loads((avro / "ids.json").read_text())
    most = max(one for versions in ids.values() for one in versions if one < 2000)
    (avro / "ids.json").write_text(json.dumps(ids | {"WasOnce": [most + 1]}))
    events = tmp_path / "schemas" / "events.py"
    text = events.read_text().replace(
        "    random: bytes\n", '    random: bytes\n    by: str = ""\n'
    )
    events.write_text(text)
    subprocess.run([sys.executable, "-m", "schemas.draw"], cwd=tmp_path, check=True)
    drawn = json.loads((avro / "ids.json").read_text())
    assert drawn["ClockTicked"] == [*ids["ClockTicked"], most + 2]
    assert drawn["WasOnce"] == [most + 1]
    former = avro / "device" / f"ClockTicked.v{ids['ClockTicked'][-1]}.avsc"
    assert json.loads(former.read_text()) == codec.avsc(ClockTicked)
    assert evolution.check(avro) == []
